"""Samples of the last 15 minutes, and the event loop's lag; times are a fake clock's."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Iterator

import pytest
from fakes import FakeClock
from headwaiter_server.metrics import CallFacts, Metrics, definitions, sampling
from headwaiter_server.metrics.loop_lag import LoopLag
from headwaiter_server.metrics.sampling import KEPT_SAMPLES, Sampler, quantile

METHOD = "headwaiter.v1.InferenceService/Embed"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


def each_second(sampler: Sampler, clock: FakeClock, seconds: int) -> None:
    """Let time pass, with a sample at the end of each second."""
    for _ in range(seconds):
        clock.advance(1.0)
        sampler.take()


def call(metrics: Metrics, seconds: float, code: str = "OK", model: str = "m", method: str = METHOD) -> None:
    metrics.call_started(method)
    metrics.call_finished(CallFacts(method, model, "1", code, seconds, texts=2, queue_seconds=seconds / 2))


def test_a_sample_holds_each_models_numbers(clock: FakeClock, metrics: Metrics) -> None:
    """Counts are summed over methods and codes, and gauges are those of the moment."""
    metrics.watch(definitions.QUEUE_DEPTH, lambda: {"m": 3.0, "idle": 0.0})
    metrics.watch(definitions.RUNNING_TEXTS, lambda: {"m": 2.0, "idle": 0.0})
    metrics.watch(definitions.PREDICTED_WAIT_SECONDS, lambda: {"m": 0.25})
    metrics.watch(definitions.CALLS_HELD, lambda: 7.0)
    metrics.watch(definitions.WAITING_TEXTS_HELD, lambda: 9.0)
    metrics.watch(definitions.EVENT_LOOP_LAG_SECONDS, lambda: 0.125)
    call(metrics, 0.02)
    call(metrics, 0.2, "UNAVAILABLE")
    call(metrics, 0.03, method="headwaiter.v1.InferenceService/Classify")
    call(metrics, 0.001, "NOT_FOUND", "_other")
    metrics.call_started(METHOD)
    metrics.run_finished("m", seconds=0.01, rows=3, tokens=40, padding_tokens=5)
    metrics.tokens("m", source=40, generated=6)
    metrics.cpu_spent("m", 1.5)
    metrics.cpu_wasted("m", reason="cancelled", seconds=0.5)
    metrics.cpu_wasted("m", reason="expired", seconds=0.25)

    sample = Sampler(metrics, clock, lambda: 1.7e9).take()

    assert (sample.at, sample.unix_seconds) == (clock(), 1.7e9)
    assert (sample.calls_started, sample.calls_in_flight) == (5, 1)
    assert (sample.calls_held, sample.texts_held, sample.event_loop_lag_seconds) == (7, 9, 0.125)
    assert sample.models.keys() == {"m", "idle", "_other"}
    model, idle, other = sample.models["m"], sample.models["idle"], sample.models["_other"]
    assert (model.calls, model.failed_calls, model.texts) == (3, 1, 6)
    assert (model.source_tokens, model.generated_tokens) == (40, 6)
    assert (model.computed_tokens, model.padding_tokens) == (45, 5)
    assert (model.cpu_seconds, model.wasted_cpu_seconds) == (1.5, 0.75)
    assert (model.queue_depth, model.running_texts, model.predicted_wait_seconds) == (3, 2, 0.25)
    assert sum(model.request_seconds.counts) == 3
    assert model.request_seconds.total == pytest.approx(0.25)
    assert model.request_seconds.counts[metrics.request_seconds.bounds.index(0.025)] == 1
    assert (list(model.batch_size.counts), model.batch_size.total) == ([0, 0, 1] + [0] * 10, 3)
    assert (idle.calls, sum(idle.request_seconds.counts), idle.predicted_wait_seconds) == (0, 0, None)
    assert (other.calls, other.failed_calls) == (1, 1)


def test_samples_do_not_change_when_more_happens(clock: FakeClock, metrics: Metrics) -> None:
    """What was true stays in its sample: rates are differences of two of them."""
    sampler = Sampler(metrics, clock)
    call(metrics, 0.02)
    before = sampler.take()
    call(metrics, 0.02)
    after = sampler.take()
    assert [sum(each.models["m"].request_seconds.counts) for each in (before, after)] == [1, 2]
    assert [each.models["m"].calls for each in (before, after)] == [1, 2]


def test_the_last_fifteen_minutes_are_kept(clock: FakeClock, metrics: Metrics) -> None:
    """A sample for each second of 15 minutes, the oldest first; older ones are let go."""
    sampler = Sampler(metrics, clock)
    each_second(sampler, clock, KEPT_SAMPLES + 30)
    samples = sampler.samples()
    assert KEPT_SAMPLES == 900
    assert [sample.at for sample in samples] == [clock() - 899 + second for second in range(900)]


def test_sampler_takes_samples_until_it_is_stopped(monkeypatch: pytest.MonkeyPatch, metrics: Metrics) -> None:
    """On a thread of its own, the first at once; one that fails is not the last; after `stop` there are no more."""
    monkeypatch.setattr(sampling, "INTERVAL_SECONDS", 0.001)
    readings: Iterator[float | Exception] = iter([7.0, RuntimeError("not now")])

    def read() -> float:
        reading = next(readings, 8.0)
        if isinstance(reading, Exception):
            raise reading
        return reading

    metrics.watch(definitions.CALLS_HELD, read)
    sampler = Sampler(metrics)
    sampler.start()
    assert sampler.samples()[0].calls_held == 7
    while len(sampler.samples()) < 5:
        time.sleep(0.001)
    sampler.stop()
    samples = sampler.samples()
    assert {sample.calls_held for sample in samples[1:]} == {8}
    assert "metrics-sampler" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize("late_seconds", [0.0, 0.375, 0.875, 1.0, 1.5, 60.0])
def test_samples_are_never_close_together(
    monkeypatch: pytest.MonkeyPatch, clock: FakeClock, metrics: Metrics, late_seconds: float
) -> None:
    """However late one was, the next is not taken at once: rates over a moment would be anything."""
    lateness = iter([0.0, late_seconds, 0.0, 0.0])

    class Waits(threading.Event):
        """Comes back as late as the machine is, and for the last time tells to stop."""

        def wait(self, timeout: float | None = None) -> bool:
            late = next(lateness, None)
            clock.advance((timeout or 0.0) + (late or 0.0))
            return late is None

    sampler = Sampler(metrics, clock)
    monkeypatch.setattr(sampler, "_stopped", Waits())
    sampler._run()
    moments = [sample.at for sample in sampler.samples()]
    gaps = [later - earlier for earlier, later in itertools.pairwise(moments)]
    assert gaps[0] == 1.0 + late_seconds
    assert all(0.5 <= gap <= 1.0 for gap in gaps[1:])


@pytest.mark.parametrize(
    ("counts", "share", "expected"),
    [
        ((0, 0, 0, 0), 0.5, None),
        ((10, 0, 0, 0), 0.5, 0.5),
        ((0, 10, 0, 0), 0.5, 1.5),
        ((0, 10, 0, 0), 1.0, 2.0),
        ((5, 0, 5, 0), 0.5, 1.0),
        ((5, 0, 5, 0), 0.75, 3.0),
        ((0, 0, 0, 4), 0.99, 4.0),
        ((1, 1, 1, 97), 0.5, 4.0),
    ],
)
def test_quantiles_are_estimated_as_prometheus_does(
    counts: tuple[int, ...], share: float, expected: float | None
) -> None:
    """Linear in a bucket, from 0 in the first one, and no more than the largest bound."""
    assert quantile((1.0, 2.0, 4.0), counts, share) == (None if expected is None else pytest.approx(expected))


async def test_lag_is_how_late_the_loops_turn_came() -> None:
    """A loop that is held shows by how much to who asks on another thread, while it is held and in its next turn."""
    clock = FakeClock()
    lag = LoopLag(clock)
    assert lag.seconds() == 0
    lag.start()
    seen = []
    for seconds, turned in ((1.0, False), (0.25, False), (0.25, True), (1.0, True), (1.5, False)):
        clock.advance(seconds)
        if turned:
            lag._turn()
        seen.append(await asyncio.to_thread(lag.seconds))
    assert seen == [0.0, 0.25, 0.5, 0.0, 0.5]
    lag.stop()
    clock.advance(60.0)
    assert lag.seconds() == 0


async def test_loop_is_asked_again_and_again() -> None:
    """Each turn asks for the next one, on the real loop."""
    moments = iter(range(1000))
    lag = LoopLag(lambda: float(next(moments)))
    lag.start()
    handle = lag._handle
    assert handle is not None
    handle._run()
    assert lag._handle is not handle
    lag.stop()
    handle.cancel()


async def test_tasks_are_counted_in_each_turn() -> None:
    """Those that are not done, whoever began them."""
    lag = LoopLag(FakeClock())
    lag._turn()
    before = lag.tasks
    sleepers = [asyncio.create_task(asyncio.sleep(60)) for _ in range(3)]
    lag._turn()
    assert lag.tasks == before + 3
    for each in sleepers:
        each.cancel()
    await asyncio.gather(*sleepers, return_exceptions=True)
    lag._turn()
    assert lag.tasks == before
    lag.stop()
