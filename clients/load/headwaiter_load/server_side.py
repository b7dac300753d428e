"""What the server's readings say: where its time went, and how its batches were."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from headwaiter_load import decoding
from headwaiter_load.server_metrics import Reading

_REQUEST: Final = "headwaiter_request_duration_seconds"
_QUEUE: Final = "headwaiter_queue_duration_seconds"
_BATCH_WAIT: Final = "headwaiter_batch_wait_duration_seconds"
_INFERENCE: Final = "headwaiter_inference_duration_seconds"
_TOKENIZE: Final = "headwaiter_tokenize_duration_seconds"


@dataclass(frozen=True, slots=True)
class Parts:
    """Where the server's time of a call went, in seconds; together they are the mean of its latency.

    Attributes:
        tokenize: Text to tokens.
        queue: Waiting for a worker.
        batch_wait: Waiting for batch-mates while a worker was idle, and for the hand-over to it: the mean of the runs.
        inference: In runs.
        rest: What is none of these: parsing, the event loop, writing the answer. Of calls with several texts the
            longest wait and the longest inference count, which may overlap; then the rest is 0.
    """

    tokenize: float
    queue: float
    batch_wait: float
    inference: float
    rest: float

    @property
    def total(self) -> float:
        """The sum."""
        return self.tokenize + self.queue + self.batch_wait + self.inference + self.rest


@dataclass(frozen=True, slots=True)
class Stretch:
    """The server between two readings. Ratios and means of nothing are None.

    Attributes:
        begin_seconds: When, after the beginning of the measured part.
        end_seconds: Its end.
        calls: Calls answered, whatever the answer.
        mean_seconds: Mean of the server's own latency, from first sight of a call to its answer.
        parts: Where it went.
        texts_per_second: Texts answered.
        runs: Runs of the model.
        texts_per_run: Their mean texts.
        tokens_per_run: Their mean tokens.
        run_seconds: Their mean length.
        padding_ratio: Tokens computed only to fill rows up, by all that were computed.
        saturation: Busy time of the workers by all of their time.
        cores: Processors that the server's process used.
        queue_depth: Texts that waited at the end.
        running_texts: Texts in runs at the end.
        resident_bytes: Memory of the server's process at the end.
    """

    begin_seconds: float
    end_seconds: float
    calls: int
    mean_seconds: float | None
    parts: Parts | None
    texts_per_second: float
    runs: int
    texts_per_run: float | None
    tokens_per_run: float | None
    run_seconds: float | None
    padding_ratio: float | None
    saturation: float | None
    cores: float | None
    queue_depth: float | None
    running_texts: float | None
    resident_bytes: float | None


@dataclass(frozen=True, slots=True)
class Totals:
    """What is known of a run as a whole. Ratios and means of nothing are None.

    Attributes:
        stretch: From the first reading to the last.
        codes: Calls by status code, of all models.
        reasons: Runs by why no more texts were put into them.
        batch_tokens: Runs by their tokens: upper bound of each bucket, and runs in it.
        batch_size: Runs by their texts, likewise.
        first_token_seconds: Mean time to the first generated token.
        inter_token_seconds: Mean time from one generated token to the next.
        wasted_cpu_ratio: Processor time spent on calls that were cancelled or expired, by that of all runs.
        deadlines_met_ratio: Calls that met their deadline, by those that had one.
    """

    stretch: Stretch
    codes: Mapping[str, int]
    reasons: Mapping[str, int]
    batch_tokens: tuple[tuple[float, int], ...]
    batch_size: tuple[tuple[float, int], ...]
    first_token_seconds: float | None
    inter_token_seconds: float | None
    wasted_cpu_ratio: float | None
    deadlines_met_ratio: float | None


@dataclass(frozen=True, slots=True)
class ServerSide:
    """The server during a run.

    Attributes:
        metrics_url: Where it was read.
        model: The model that figures are of; empty if they are of all.
        problem: Why readings are missing; empty if none are.
        totals: The whole run; None with fewer than two readings.
        stretches: From each reading to the next.
    """

    metrics_url: str
    model: str
    problem: str
    totals: Totals | None
    stretches: tuple[Stretch, ...]


@dataclass(frozen=True, slots=True)
class _Stored:
    metrics_url: str
    model: str
    problem: str
    readings: tuple[Reading, ...]


def server_side(stored: Mapping[str, Any]) -> ServerSide:
    """Read `RunResult.server`.

    Raises:
        DecodingError: It is nothing that `Breakdown.end` has given.
    """
    record = decoding.decode(_Stored, dict(stored), "server")
    readings = record.readings
    return ServerSide(
        metrics_url=record.metrics_url,
        model=record.model,
        problem=record.problem,
        totals=_Difference(readings[0], readings[-1]).totals() if len(readings) > 1 else None,
        stretches=tuple(_Difference(*pair).stretch() for pair in itertools.pairwise(readings)),
    )


class _Difference:
    """What was counted between two readings."""

    def __init__(self, before: Reading, after: Reading) -> None:
        self._before = before
        self._after = after
        self._seconds = after.at_seconds - before.at_seconds

    def stretch(self) -> Stretch:
        calls = self._of(f"{_REQUEST}_count")
        computed = self._of("headwaiter_computed_tokens_total")
        workers = self._now("headwaiter_workers")
        return Stretch(
            begin_seconds=self._before.at_seconds,
            end_seconds=self._after.at_seconds,
            calls=round(calls),
            mean_seconds=self._mean(_REQUEST),
            parts=self._parts(calls) if calls else None,
            texts_per_second=self._of("headwaiter_texts_total") / self._seconds,
            runs=round(self._of("headwaiter_run_duration_seconds_count")),
            texts_per_run=self._mean("headwaiter_batch_size"),
            tokens_per_run=self._mean("headwaiter_batch_tokens"),
            run_seconds=self._mean("headwaiter_run_duration_seconds"),
            padding_ratio=self._of("headwaiter_padding_tokens_total") / computed if computed else None,
            saturation=self._of("headwaiter_worker_busy_seconds_total") / (workers * self._seconds)
            if workers
            else None,
            cores=self._rate_if_known("process_cpu_seconds_total"),
            queue_depth=self._now("headwaiter_queue_depth"),
            running_texts=self._now("headwaiter_running_texts"),
            resident_bytes=self._now("process_resident_memory_bytes"),
        )

    def totals(self) -> Totals:
        cpu = self._of("headwaiter_cpu_seconds_total")
        met = self._of("headwaiter_deadlines_total:true")
        had = met + self._of("headwaiter_deadlines_total:false")
        wasted = sum(self._of(name) for name in self._names("headwaiter_wasted_cpu_seconds_total"))
        return Totals(
            stretch=self.stretch(),
            codes=self._by_label("headwaiter_requests_total"),
            reasons=self._by_label("headwaiter_batches_total"),
            batch_tokens=self._buckets("headwaiter_batch_tokens"),
            batch_size=self._buckets("headwaiter_batch_size"),
            first_token_seconds=self._mean("headwaiter_first_token_duration_seconds"),
            inter_token_seconds=self._mean("headwaiter_inter_token_duration_seconds"),
            wasted_cpu_ratio=wasted / cpu if cpu else None,
            deadlines_met_ratio=met / had if had else None,
        )

    def _parts(self, calls: float) -> Parts:
        # By the number of all calls, so that the parts add up also where refused ones had no queue.
        tokenize, waited, inference = (self._of(f"{name}_sum") / calls for name in (_TOKENIZE, _QUEUE, _INFERENCE))
        batch_wait = min(waited, self._mean(_BATCH_WAIT) or 0.0)
        known = tokenize + waited + inference
        return Parts(
            tokenize=tokenize,
            queue=waited - batch_wait,
            batch_wait=batch_wait,
            inference=inference,
            rest=max(0.0, self._of(f"{_REQUEST}_sum") / calls - known),
        )

    def _of(self, name: str) -> float:
        before, after = self._before.values.get(name, 0.0), self._after.values.get(name, 0.0)
        # A counter that fell began anew with its server.
        return after - before if after >= before else after

    def _now(self, name: str) -> float | None:
        return self._after.values.get(name)

    def _rate_if_known(self, name: str) -> float | None:
        return self._of(name) / self._seconds if name in self._after.values else None

    def _mean(self, name: str) -> float | None:
        count = self._of(f"{name}_count")
        return self._of(f"{name}_sum") / count if count else None

    def _names(self, metric: str) -> list[str]:
        return [name for name in self._after.values if name.startswith(f"{metric}:")]

    def _by_label(self, metric: str) -> dict[str, int]:
        counts = {name.partition(":")[2]: round(self._of(name)) for name in self._names(metric)}
        return {label: count for label, count in sorted(counts.items(), key=lambda each: -each[1]) if count}

    def _buckets(self, histogram: str) -> tuple[tuple[float, int], ...]:
        metric = f"{histogram}_bucket"
        upto = sorted((float(name.partition(":")[2]), round(self._of(name))) for name in self._names(metric))
        before = [0, *(count for _, count in upto)]
        return tuple((bound, count - below) for (bound, count), below in zip(upto, before, strict=False))
