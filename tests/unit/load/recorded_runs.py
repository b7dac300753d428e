"""Results made from given latencies, as the tester would have recorded them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from headwaiter_load.histograms import Histogram
from headwaiter_load.results import (
    CapacityResult,
    ErrorCount,
    Goal,
    Moment,
    ProcessUse,
    RunResult,
    Settings,
    Step,
    TesterUse,
)

SETTINGS = Settings(
    target="127.0.0.1:8001",
    protocol="headwaiter",
    task="embed",
    model="minilm",
    version="",
    stream=False,
    texts_per_call=2,
    load="poisson",
    rate=100.0,
    outstanding=None,
    burst_size=1,
    seconds=20.0,
    warmup_seconds=2.0,
    deadline_seconds=1.0,
    processes=2,
    connections=4,
    workload="short sentences",
    seed=1,
)


def run_of(seconds: Sequence[Sequence[float]], failed: int = 0, **changes: Any) -> RunResult:  # noqa: ANN401 - any field
    """A run from the latencies of the calls that were due in each second; failed calls end in the first."""
    latency, errors, lateness = Histogram(), Histogram(), Histogram()
    for values in seconds:
        for value in values:
            latency.record(value)
            lateness.record(0.0001)
    for _ in range(failed):
        errors.record(1.0)
    answered, length = latency.count, float(len(seconds))
    processes = tuple(
        ProcessUse(number=number, cpu_seconds=1.5, wall_seconds=length, cpu_share=1.5 / length, late_p99_seconds=0.0002)
        for number in range(2)
    )
    result = RunResult(
        tool_version="0.1.0",
        started_at="2026-11-23T02:30:00Z",
        finished=True,
        settings=SETTINGS,
        measured_seconds=length,
        scheduled=answered + failed,
        answered=answered,
        failed=failed,
        texts=2 * answered,
        offered_per_second=(answered + failed) / length,
        answered_per_second=answered / length,
        texts_per_second=2 * answered / length,
        sent_bytes=1000,
        received_bytes=2000,
        latency=latency.distribution(),
        service_time=latency.distribution(),
        error_latency=errors.distribution(),
        errors=(ErrorCount(code="DEADLINE_EXCEEDED", count=failed, example="Deadline <b>Exceeded</b>"),) * (failed > 0),
        timeline=tuple(_moment(at, values, 0 if at else failed) for at, values in enumerate(seconds)),
        outstanding_at_begin=0,
        outstanding_at_end=0,
        tester=TesterUse(processes=processes, lateness=lateness.distribution(), bottleneck=False, warnings=()),
    )
    return replace(result, **changes)


def _moment(at: int, values: Sequence[float], failed: int) -> Moment:
    histogram = Histogram(coarse=True)
    for value in values:
        histogram.record(value)
    p50, p90, p99, longest = (histogram.percentile(each) if values else None for each in (50, 90, 99, 100))
    return Moment(
        start_seconds=float(at),
        length_seconds=1.0,
        scheduled=len(values) + failed,
        answered=len(values),
        failed=failed,
        texts=2 * len(values),
        outstanding=at % 3,
        p50_seconds=p50,
        p90_seconds=p90,
        p99_seconds=p99,
        max_seconds=longest,
        histogram=histogram.encoded(),
    )


def random_seconds(seed: int, seconds: int = 20, calls: int = 100, scale: float = 1.0) -> list[list[float]]:
    """Latencies of about 15 ms."""
    draw = random.Random(seed)
    return [[scale * (0.01 + draw.expovariate(200)) for _ in range(calls)] for _ in range(seconds)]


def capacity_of(best: RunResult | None, met: float | None = 300.0, missed: float | None = 320.0) -> CapacityResult:
    """A search that ended between two rates."""
    rates = [(100.0, True), (400.0, False), *([(met, True)] if met else []), *([(missed, False)] if missed else [])]
    steps = tuple(
        Step(
            number=number,
            phase="doubling",
            attempt=1,
            rate=rate,
            seconds=5.0,
            calls=round(rate * 5),
            answered_per_second=rate * 0.99,
            p50_seconds=0.01,
            p99_seconds=0.02 if good else 0.2,
            error_ratio=0.0,
            backlog_growth=0,
            cpu_share=0.2,
            met=good,
            reasons=() if good else ("p99 was 200 ms",),
        )
        for number, (rate, good) in enumerate(rates, start=1)
    )
    return CapacityResult(
        tool_version="0.1.0",
        started_at="2026-11-23T02:30:00Z",
        finished=True,
        settings=replace(SETTINGS, rate=None),
        goal=Goal(p99_seconds=0.1, error_ratio=0.01, precision=0.05),
        steps=steps,
        capacity_per_second=met,
        missed_per_second=missed,
        limited_by="server" if missed else "max-rate",
        best=best,
    )
