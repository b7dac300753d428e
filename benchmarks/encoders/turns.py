"""One turn of every candidate."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.encoders.candidates import Bundles
from benchmarks.encoders.choices import Effort
from benchmarks.encoders.figures import ANY, CLOSED, Candidate, Load, Quantity, Round, figure
from benchmarks.servers import MeasuredServer, run_json

Step = Callable[[], None]
# Of one candidate under one load.
Figures = dict[Quantity, float]

_OVERLOAD_DEADLINE_SECONDS = 1.0
# Of the texts, where nobody waits for a batch.
_ALONE_SHARE = 0.2
# These are held against each other to the per cent, so they run all texts; the others may stop early.
_UNLIMITED = {
    Candidate.AUTO,
    Candidate.AUTO_INT8,
    Candidate.SORTED_PACKED,
    Candidate.SORTED_PADDED,
    Candidate.IDEAL_INT8,
}
_UNLIMITED_SECONDS = 60.0
# Of the packed graph's best rules, how many take part in each round: near the knee they are close.
_PACKED_RULES = 2
_NULL_TEXTS_PER_CALL = 8


@dataclass(frozen=True)
class Setup:
    """What all rounds share.

    Attributes:
        bundles: The models.
        effort: How much is measured.
        texts: The workloads' file.
        rules: Offline rules by candidate and workload, the fastest first.
        servers: By candidate.
        afternoon: The afternoon's server, for each workload the one that is set up best for it.
        chosen: How the rivals were set up, for people.
    """

    bundles: Bundles
    effort: Effort
    texts: Path
    rules: Mapping[tuple[Candidate, str], Sequence[str]]
    servers: Mapping[Candidate, MeasuredServer]
    afternoon: Mapping[str, MeasuredServer]
    chosen: Sequence[str]

    def server(self, candidate: Candidate, workload: str) -> MeasuredServer:
        """Who answers."""
        return self.afternoon[workload] if candidate == Candidate.AFTERNOON else self.servers[candidate]


@dataclass
class Turn:
    """One turn of every candidate; the steps fill `figures` and `problems`."""

    setup: Setup
    number: int
    figures: Round = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def steps(self) -> list[Step]:
        """What to do, in this order; later steps read the figures of earlier ones."""
        return [step for workload in self.setup.effort.workloads for step in self._workload(workload)] + [
            *(
                partial(self._own_cost, *each)
                for each in ((Candidate.NULL, Load.MANY), (Candidate.ECHO, Load.MANY), (Candidate.NULL, Load.BULK))
            ),
            self._memory,
        ]

    def _workload(self, workload: str) -> Iterator[Step]:
        yield partial(self._offline, workload)
        batching = [
            each
            for each in (Candidate.AUTO, Candidate.AUTO_INT8, Candidate.FIFO, Candidate.NONE, Candidate.AFTERNOON)
            if self._takes_part(each)
        ]
        rivals = [each for each in (Candidate.AUTO, Candidate.AUTO_INT8, Candidate.AFTERNOON) if self._takes_part(each)]
        for load, candidates in (
            (Load.MANY, batching),
            (Load.BULK, batching),
            (Load.STREAMS, [Candidate.AUTO]),
            (Load.FEW, rivals),
            (Load.ALONE, rivals),
            (Load.CROWD, [Candidate.AUTO]),
        ):
            # Whoever comes first in one round comes last in another.
            first = self.number % len(candidates)
            for candidate in candidates[first:] + candidates[:first]:
                yield partial(self._closed, candidate, workload, load)
        yield partial(self._bare, workload)
        yield partial(self._closed, Candidate.AUTO, workload, Load.CAPACITY)
        for load, share in ((Load.HALF, 0.5), (Load.HIGH, 0.8), (Load.OVERLOAD, 2.0)):
            yield partial(self._open, workload, load, share)

    def _takes_part(self, candidate: Candidate) -> bool:
        return candidate == Candidate.AFTERNOON or candidate in self.setup.servers

    def _offline(self, workload: str) -> None:
        bundles, rules = self.setup.bundles, self.setup.rules
        ideal = []
        for candidate, repository, variant, most in (
            (Candidate.SORTED_PACKED, bundles.packed, "fp32", _PACKED_RULES),
            (Candidate.SORTED_PADDED, bundles.padded, "fp32", 1),
            (Candidate.IDEAL_INT8, bundles.packed, "int8", _PACKED_RULES),
        ):
            if (candidate, workload) in rules:
                best = rules[candidate, workload][:most]
                figures = self._side_by_side(candidate, bundles.folder(repository), variant, workload, best)
                ideal += [figures] if variant == "fp32" else []
        for candidate, rule in ((Candidate.UNBATCHED, "rows:1"), (Candidate.BATCHES_OF_32, "rows:32")):
            self._side_by_side(candidate, bundles.folder(bundles.padded), "fp32", workload, [rule])
        self._add(Candidate.IDEAL, workload, Load.OFFLINE, _best(ideal))

    def _side_by_side(
        self,
        candidate: Candidate,
        bundle: Path,
        variant: str,
        workload: str,
        rules: Sequence[str],
    ) -> Figures:
        result = run_json(
            "benchmarks.encoders.offline", "side-by-side", bundle, "--variant", variant,
            *self._texts(workload, 1.0), "--limit-seconds", self._limit_seconds(candidate), "--rules", *rules,
        )  # fmt: skip
        by_rule: list[Figures] = [
            {Quantity.THROUGHPUT: each["texts_per_second"], Quantity.CPU: each["cpu_seconds_per_1000_texts"]}
            for each in result.values()
        ]
        figures = _best(by_rule)
        self._add(candidate, workload, Load.OFFLINE, figures)
        return figures

    def _closed(self, candidate: Candidate, workload: str, load: Load) -> None:
        share = _ALONE_SHARE if load == Load.ALONE else 1.0
        server = self.setup.server(candidate, workload)
        self._add(candidate, workload, load, self._send(server, candidate, load, self._texts(workload, share)))

    def _send(self, server: MeasuredServer, candidate: Candidate, load: Load, texts: list[object]) -> Figures:
        outstanding, texts_per_call = CLOSED[load]
        loop = "streams" if load == Load.STREAMS else "closed"
        before = server.cpu_seconds()
        result = run_json(
            "benchmarks.encoders.load", loop, server.target, *texts, "--model", self.setup.bundles.model,
            "--outstanding", outstanding, "--texts-per-call", texts_per_call,
            "--limit-seconds", self._limit_seconds(candidate),
        )  # fmt: skip
        if result["refused_calls"]:
            self.problems.append(f"{candidate}, {load}: {result['refused_calls']} calls were refused and tried again")
        return {
            Quantity.THROUGHPUT: result["texts_per_second"],
            Quantity.CALLS: result["calls_per_second"],
            Quantity.CPU: 1000 * (server.cpu_seconds() - before) / result["texts"],
            **_milliseconds(result),
        }

    def _bare(self, workload: str) -> None:
        bundles = self.setup.bundles
        results = [
            run_json("benchmarks.encoders.offline", "alone", bundles.folder(each), *self._texts(workload, _ALONE_SHARE))
            for each in (bundles.packed, bundles.padded)
        ]
        best = min((each["alone"] for each in results), key=lambda each: each["p50_seconds"])
        allowed = 1.1 * 1000 * best["p50_seconds"] + 1.0
        self._add(Candidate.BARE, workload, Load.ALONE, {**_milliseconds(best), Quantity.ALLOWED: allowed})

    def _open(self, workload: str, load: str, share: float) -> None:
        capacity = self.figures.get(figure(Candidate.AUTO, workload, Load.CAPACITY, Quantity.THROUGHPUT))
        if capacity is None:  # measuring it has failed, and is among the problems already
            return
        deadline = ["--deadline-seconds", _OVERLOAD_DEADLINE_SECONDS] if load == Load.OVERLOAD else []
        result = run_json(
            "benchmarks.encoders.load", "open", self.setup.servers[Candidate.AUTO].target, *self._texts(workload, 1.0),
            "--model", self.setup.bundles.model, "--rate", share * capacity,
            "--seconds", self.setup.effort.open_seconds, *deadline,
        )  # fmt: skip
        if result["failed_calls"]:
            self.problems.append(f"{Candidate.AUTO}, {workload}, {load}: {result['failed_calls']} calls failed")
        self._add(Candidate.AUTO, workload, load, {
            Quantity.OFFERED: result["offered_per_second"],
            Quantity.GOODPUT: result["goodput_per_second"],
            Quantity.REFUSED: 100 * result["refused_share"],
            Quantity.LATE: 100 * result["late_share"],
            Quantity.LAG: 1000 * result["lag_p99_seconds"],
            **_milliseconds(result),
        })  # fmt: skip

    def _own_cost(self, candidate: Candidate, load: Load) -> None:
        calls = self.setup.effort.own_cost_calls
        count = calls if load == Load.MANY else calls * _NULL_TEXTS_PER_CALL
        texts = ["--texts", self.setup.texts, "--workload", "short", "--order", self.number, "--count", count]
        self._add(candidate, "short", load, self._send(self.setup.servers[candidate], candidate, load, texts))

    def _memory(self) -> None:
        for candidate, server in self.setup.servers.items():
            self._add(candidate, ANY, ANY, {Quantity.RESIDENT: server.resident_bytes() / 2**20})
        afternoon = max(server.resident_bytes() for server in self.setup.afternoon.values())
        self._add(Candidate.AFTERNOON, ANY, ANY, {Quantity.RESIDENT: afternoon / 2**20})

    def _limit_seconds(self, candidate: Candidate) -> float:
        return _UNLIMITED_SECONDS if candidate in _UNLIMITED else self.setup.effort.limit_seconds

    def _texts(self, workload: str, share: float) -> list[object]:
        count = round(share * self.setup.effort.counts[workload])
        return ["--texts", self.setup.texts, "--workload", workload, "--order", self.number, "--count", count]

    def _add(self, candidate: Candidate, workload: str, load: str, figures: Figures) -> None:
        self.figures |= {figure(candidate, workload, load, quantity): each for quantity, each in figures.items()}


def _best(figures: Sequence[Figures]) -> Figures:
    return {
        Quantity.THROUGHPUT: max(each[Quantity.THROUGHPUT] for each in figures),
        Quantity.CPU: min(each[Quantity.CPU] for each in figures),
    }


def _milliseconds(result: Any) -> Figures:  # noqa: ANN401 - what JSON holds
    return {Quantity.P50: 1000 * result["p50_seconds"], Quantity.P99: 1000 * result["p99_seconds"]}
