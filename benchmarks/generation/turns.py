"""One turn of every candidate."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from headwaiter_server.cpu import available_cpus

from benchmarks.generation.candidates import ROWS, Models, Setting
from benchmarks.generation.efforts import Effort
from benchmarks.generation.figures import Candidate, Load, Quantity, Round, Workload, figure
from benchmarks.generation.outcomes import agreement
from benchmarks.servers import MeasuredServer, run_json

Step = Callable[[], None]
# Of one candidate under one load.
Figures = dict[Quantity, float]

_OUTSTANDING = 64
# Others are not held to anything, and their loads are shorter.
_HELD_TO_EACH_OTHER = {Candidate.FIFO, Candidate.CTRANSLATE, Candidate.AUTO}
_BATCH_ROWS = 32
# What becomes of one batch of PyTorch's is measured whole, however long it takes.
_ONE_BATCH_SECONDS = 0.001
_SHARES = {
    Load.RIVAL_HALF: (Candidate.CTRANSLATE, 0.5),
    Load.RIVAL_HIGH: (Candidate.CTRANSLATE, 0.8),
    Load.OWN_HALF: (Candidate.AUTO, 0.5),
    Load.OWN_HIGH: (Candidate.AUTO, 0.8),
}


@dataclass(frozen=True)
class Setup:
    """What all rounds share.

    Attributes:
        models: What is served.
        effort: How much is measured.
        requests: The files of the workloads.
        mean_tokens: New tokens of a call of the decoder's workload.
        servers: By candidate and workload.
        setting: CTranslate2's.
    """

    models: Models
    effort: Effort
    requests: Mapping[Workload, Path]
    mean_tokens: float
    servers: Mapping[tuple[Candidate, Workload], MeasuredServer]
    setting: Setting


@dataclass
class Turn:
    """One turn of every candidate; the steps fill `figures` and `problems`.

    Attributes:
        setup: What all turns share.
        number: Which turn it is.
        figures: What was measured.
        problems: What went wrong.
    """

    setup: Setup
    number: int
    figures: Round = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def steps(self) -> list[Step]:
        """What to do, in this order; later steps read the figures of earlier ones."""
        return [step for workload in Workload for step in self._workload(workload)]

    def _workload(self, workload: Workload) -> Iterator[Step]:
        for threads in sorted({1, available_cpus()}):
            yield partial(self._alone, workload, threads)
        if workload is not Workload.DECODER or self.setup.effort.long_batches:
            yield partial(self._batches, workload)
        served = [each for each in Candidate if (each, workload) in self.setup.servers]
        # Whoever comes first in one round comes last in another.
        first = self.number % len(served)
        for candidate in served[first:] + served[:first]:
            yield partial(self._closed, candidate, workload, Load.CLOSED)
        yield partial(self._closed, Candidate.AUTO, workload, Load.STREAMED)
        yield partial(self._offline, workload)
        if workload is Workload.DECODER:
            for load in (Load.RIVAL_HALF, Load.RIVAL_HIGH):
                for candidate in (Candidate.CTRANSLATE, Candidate.AUTO):
                    yield partial(self._open, candidate, load)
            for load in (Load.OWN_HALF, Load.OWN_HIGH):
                yield partial(self._open, Candidate.AUTO, load)
            yield self._newcomers

    def _alone(self, workload: Workload, threads: int) -> None:
        """The better number of threads counts."""
        limit = ("--limit-seconds", self.setup.effort.alone_seconds)
        figures = self._pytorch(workload, "--threads", threads, *limit)
        tokens = self.figures.get(figure(Candidate.ALONE, workload, Load.OFFLINE, Quantity.TOKENS), 0.0)
        if figures[Quantity.TOKENS] > tokens:
            self._add(Candidate.ALONE, workload, Load.OFFLINE, figures)

    def _batches(self, workload: Workload) -> None:
        limit = _ONE_BATCH_SECONDS if workload is Workload.DECODER else self.setup.effort.alone_seconds
        figures = self._pytorch(
            workload, "--threads", available_cpus(), "--rows", _BATCH_ROWS, "--limit-seconds", limit
        )
        self._add(Candidate.BATCHES, workload, Load.OFFLINE, figures)

    def _pytorch(self, workload: Workload, *arguments: object) -> Figures:
        checkpoint = self.setup.models.checkpoints[workload]
        result = run_json("benchmarks.generation.pytorch", checkpoint, *self._requests(workload), *arguments)
        return {
            Quantity.TOKENS: result["tokens_per_second"],
            Quantity.CPU: result["cpu_seconds_per_1000_tokens"],
        }

    def _closed(self, candidate: Candidate, workload: Workload, load: Load) -> None:
        server, effort = self.setup.servers[candidate, workload], self.setup.effort
        held = workload is Workload.DECODER and candidate in _HELD_TO_EACH_OTHER and load is Load.CLOSED
        seconds, ramp_seconds = effort.long if held else effort.short
        before = server.cpu_seconds()
        result = run_json(
            "benchmarks.generation.load", "closed", server.target, *self._requests(workload),
            "--outstanding", _OUTSTANDING, "--seconds", seconds, "--ramp-seconds", ramp_seconds,
            *(["--streamed"] if load is Load.STREAMED else []),
        )  # fmt: skip
        self._note(result, candidate, load)
        cpu = 1000 * (server.cpu_seconds() - before) / result["tokens"]
        self._add(candidate, workload, load, {
            Quantity.TOKENS: result["tokens_per_second"],
            Quantity.CPU: cpu,
            **_latencies(result),
        })  # fmt: skip
        if load is Load.STREAMED:
            whole = self.figures[figure(candidate, workload, Load.CLOSED, Quantity.CPU)]
            self._add(candidate, workload, load, {Quantity.WRITES: cpu - whole})

    def _offline(self, workload: Workload) -> None:
        seconds, ramp_seconds = self.setup.effort.short
        result = run_json(
            "benchmarks.generation.offline", self.setup.models.bundle(workload), *self._requests(workload),
            "--rows", ROWS, "--seconds", seconds, "--ramp-seconds", ramp_seconds,
        )  # fmt: skip
        self._add(Candidate.IDEAL, workload, Load.OFFLINE, {
            Quantity.TOKENS: result["tokens_per_second"],
            Quantity.CPU: result["cpu_seconds_per_1000_tokens"],
            Quantity.ITERATION: 1000 * result["iteration_seconds"],
            Quantity.ROWS: result["rows_per_step"],
            Quantity.PREFILL: result["prefill_tokens_per_step"],
            Quantity.PYTHON: 100 * result["python_share"],
            Quantity.PYTHON_MS: 1000 * result["python_seconds_per_iteration"],
            Quantity.COPIED: result["copied_bytes_per_step"],
        })  # fmt: skip

    def _open(self, candidate: Candidate, load: Load) -> None:
        whose, share = _SHARES[load]
        capacity = self.figures.get(figure(whose, Workload.DECODER, Load.CLOSED, Quantity.TOKENS))
        if capacity is None:  # measuring it has failed, and is among the problems already
            return
        seconds, ramp_seconds = self.setup.effort.short
        result = run_json(
            "benchmarks.generation.load", "open", self.setup.servers[candidate, Workload.DECODER].target,
            *self._requests(Workload.DECODER), "--rate", share * capacity / self.setup.mean_tokens,
            "--seconds", seconds, "--ramp-seconds", ramp_seconds,
        )  # fmt: skip
        self._note(result, candidate, load)
        self._add(candidate, Workload.DECODER, load, {
            **_latencies(result),
            Quantity.REFUSED: 100 * result["refused_share"],
            Quantity.LAG: 1000 * result["lag_p99_seconds"],
        })  # fmt: skip

    def _newcomers(self) -> None:
        server = self.setup.servers[Candidate.AUTO, Workload.DECODER]
        result = run_json(
            "benchmarks.generation.newcomers", server.target, "--busy-rows", _BATCH_ROWS,
            "--count", self.setup.effort.newcomers,
        )  # fmt: skip
        self._add(Candidate.AUTO, Workload.DECODER, Load.NEWCOMERS, {
            Quantity.STEP: 1000 * result["step_seconds"],
            Quantity.WAIT_P50: result["wait_p50_steps"],
            Quantity.WAIT_P90: result["wait_p90_steps"],
        })  # fmt: skip

    def _note(self, result: Any, candidate: Candidate, load: Load) -> None:  # noqa: ANN401 - what JSON holds
        for name in ("failed_calls", "refused_calls"):
            if result[name]:
                self.problems.append(f"{candidate}, {load}: {result[name]:.0f} {name.replace('_', ' ')}")

    def _requests(self, workload: Workload) -> list[object]:
        return ["--requests", self.setup.requests[workload], "--order", self.number]

    def _add(self, candidate: Candidate, workload: Workload, load: Load, figures: Figures) -> None:
        self.figures |= {figure(candidate, workload, load, quantity): each for quantity, each in figures.items()}


def check_answers(setup: Setup) -> dict[str, float]:
    """The share of requests for which each server writes the very tokens that PyTorch writes, by server."""
    shares = {}
    for workload in Workload:
        asked = ["--requests", setup.requests[workload], "--count", setup.effort.checked]
        result = run_json("benchmarks.generation.pytorch", setup.models.checkpoints[workload], *asked)
        reference = dict(enumerate(result["answers"]))
        for (candidate, its_workload), server in setup.servers.items():
            if its_workload is workload:
                result = run_json("benchmarks.generation.load", "closed", server.target, *asked, "--answers")
                answers = {int(request): tokens for request, tokens in result["answers"].items()}
                shares[f"{candidate}, {workload}"] = agreement(answers, reference)
    return shares


def _latencies(result: Any) -> Figures:  # noqa: ANN401 - what JSON holds
    """Without those of which there are none: the slowest take up no further call before the end."""
    milliseconds = {
        Quantity.FIRST_P50: result["first_token_p50_seconds"],
        Quantity.FIRST_P99: result["first_token_p99_seconds"],
        Quantity.BETWEEN_P50: result["between_tokens_p50_seconds"],
        Quantity.BETWEEN_P99: result["between_tokens_p99_seconds"],
    }
    seconds = {Quantity.CALL_P50: result["call_p50_seconds"], Quantity.CALL_P99: result["call_p99_seconds"]}
    figures = {quantity: 1000 * each for quantity, each in milliseconds.items()} | seconds
    return {quantity: each for quantity, each in figures.items() if not math.isnan(each)}
