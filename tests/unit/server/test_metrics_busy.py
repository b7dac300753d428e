"""How busy workers were: exactly, by a fake clock, and within 5 % of what an engine says it has burned."""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from contextlib import AbstractContextManager

import pytest
from fakes import FakeClock
from headwaiter_server.errors import HeadwaiterError
from headwaiter_server.metrics import Metrics, definitions
from headwaiter_server.metrics.sampling import Sampler
from headwaiter_server.scheduling.busy import BusyTime
from headwaiter_server.scheduling.dispatcher import Dispatcher, Run
from headwaiter_server.scheduling.policy import Rank
from hypothesis import given
from hypothesis import strategies as st


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


class Workers:
    """Workers that are busy when they are told to be."""

    def __init__(self, clock: FakeClock, metrics: Metrics, workers: int = 2) -> None:
        self.busy = BusyTime(clock)
        self._open: list[AbstractContextManager[None]] = []
        metrics.watch(definitions.WORKERS, lambda: float(workers))
        metrics.watch(definitions.WORKER_BUSY_SECONDS, self.busy.seconds)

    def now_busy(self, workers: int) -> None:
        """So many of them are from now on."""
        while len(self._open) > workers:
            self._open.pop().__exit__(None, None, None)
        while len(self._open) < workers:
            self._open.append(self.busy.worker())
            self._open[-1].__enter__()


def each_second(sampler: Sampler, clock: FakeClock, seconds: int) -> None:
    """Let time pass, with a sample at the end of each second."""
    for _ in range(seconds):
        clock.advance(1.0)
        sampler.take()


def saturation(metrics: Metrics) -> float:
    """As it is scraped."""
    figure = metrics.registry.get_sample_value("headwaiter_saturation_ratio")
    assert figure is not None
    return figure


def test_saturation_is_the_busy_part_of_the_last_ten_seconds(clock: FakeClock, metrics: Metrics) -> None:
    """One of two workers busy is half, both are all, and what was more than ten seconds ago no longer counts."""
    workers = Workers(clock, metrics)
    sampler = Sampler(metrics, clock)
    sampler.take()
    shown = []
    for busy, seconds in ((1, 10), (2, 5), (2, 5), (0, 4), (0, 6)):
        workers.now_busy(busy)
        each_second(sampler, clock, seconds)
        shown.append(saturation(metrics))
    assert shown == pytest.approx([0.5, 0.75, 1.0, 0.6, 0.0])


def test_saturation_counts_runs_under_way(clock: FakeClock, metrics: Metrics) -> None:
    """A run that is longer than the whole window makes its worker busy all the time, before it ends."""
    workers = Workers(clock, metrics, workers=1)
    sampler = Sampler(metrics, clock)
    sampler.take()
    workers.now_busy(1)
    each_second(sampler, clock, 60)
    assert saturation(metrics) == pytest.approx(1.0)


def test_saturation_knows_the_time_that_passed_between_late_samples(clock: FakeClock, metrics: Metrics) -> None:
    """Samples that come late, on a busy machine, are weighed by when they were taken."""
    workers = Workers(clock, metrics, workers=1)
    sampler = Sampler(metrics, clock)
    sampler.take()
    for busy_seconds, idle_seconds in ((0.5, 0.5), (1.0, 2.0), (0.25, 0.75)):
        workers.now_busy(1)
        clock.advance(busy_seconds)
        workers.now_busy(0)
        clock.advance(idle_seconds)
        sampler.take()
    assert saturation(metrics) == pytest.approx(1.75 / 5.0)


def test_saturation_is_zero_before_anything_is_known(clock: FakeClock, metrics: Metrics) -> None:
    """No samples, one sample, two in the same instant: 0, and no division by it."""
    sampler = Sampler(metrics, clock)
    assert saturation(metrics) == 0
    sampler.take()
    sampler.take()
    assert saturation(metrics) == 0
    Workers(clock, metrics).now_busy(2)
    assert sampler.take().saturation_ratio == 0


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 1000)), max_size=30), st.integers(0, 1000))
def test_busy_time_is_the_integral_of_busy_workers(changes: list[tuple[int, int]], more: int) -> None:
    """At any moment it is the sum of every stretch times the workers that were busy in it, the last one included."""
    clock = FakeClock()
    workers = Workers(clock, Metrics())
    total, count = 0, 0
    for count, seconds in changes:
        workers.now_busy(count)
        clock.advance(seconds)
        total += count * seconds
        assert workers.busy.seconds() == total
    clock.advance(more)
    assert workers.busy.seconds() == total + count * more


def test_busy_time_never_shrinks_for_who_asks_while_it_changes() -> None:
    """A counter that went back would be taken for a restart, and its whole sum for the work of a moment."""
    busy = BusyTime(time.monotonic)
    ended = threading.Event()

    def work() -> None:
        while not ended.is_set():
            with busy.worker():
                pass

    workers = [threading.Thread(target=work) for _ in range(3)]
    for worker in workers:
        worker.start()
    read = [busy.seconds()]
    # On a busy machine it takes its time until a worker has its first turn.
    while len(read) < 5000 or read[-1] == read[0]:
        read.append(busy.seconds())
    ended.set()
    for worker in workers:
        worker.join()
    assert read == sorted(read)


class BurnedRun:
    """A run that takes a known time of a fake clock."""

    idle_since = 0.0

    def __init__(self, clock: FakeClock, seconds: float, begun: threading.Event, proceed: threading.Event) -> None:
        self._clock, self._seconds, self._begun, self._proceed = clock, seconds, begun, proceed

    def execute(self) -> None:
        self._begun.set()
        assert self._proceed.wait(30)
        self._clock.advance(self._seconds)

    def settle(self) -> None:
        """Nobody waits for it."""

    def fail(self, error: HeadwaiterError) -> None:
        raise AssertionError from error


class OneByOne:
    """A lane with a known number of runs."""

    def __init__(self, runs: list[Run]) -> None:
        self.runs = runs

    def rank(self, now: float) -> Rank | None:
        raise NotImplementedError  # with a single lane nobody asks

    def take(self, now: float, idle_workers: int) -> Run | None:
        return self.runs.pop(0) if self.runs else None

    def fail_all(self, error: HeadwaiterError) -> None:
        """Nobody waits."""


async def test_dispatcher_counts_the_time_its_workers_have_runs(clock: FakeClock) -> None:
    """Busy time is what runs take: with the one under way up to now, without the time between them."""
    dispatcher = Dispatcher(1, on_crash=lambda: None, clock=clock)
    begun, proceed = threading.Event(), threading.Event()
    lane = OneByOne([BurnedRun(clock, 0.5, begun, proceed)])
    dispatcher.add_lane(lane)
    clock.advance(100.0)
    assert dispatcher.busy_seconds() == 0
    dispatcher.wake()
    await asyncio.to_thread(begun.wait, 30)
    clock.advance(2.0)
    assert dispatcher.busy_seconds() == 2.0
    proceed.set()
    while dispatcher.busy_workers:
        await asyncio.sleep(0)
    assert dispatcher.busy_seconds() == 2.5
    clock.advance(50.0)
    assert dispatcher.busy_seconds() == 2.5
    lane.runs += [BurnedRun(clock, 0.25, begun, proceed) for _ in range(4)]
    dispatcher.wake()
    while lane.runs or dispatcher.busy_workers:
        await asyncio.sleep(0)
    assert dispatcher.busy_seconds() == 3.5
    assert await dispatcher.close(1.0)


class Burn:
    """A run that keeps a processor busy, and says for how long it did."""

    idle_since = 0.0

    def __init__(self) -> None:
        self.seconds = 0.0

    def execute(self) -> None:
        began = time.monotonic()
        while time.monotonic() - began < 0.5:
            hashlib.pbkdf2_hmac("sha256", b"burn", b"", 5_000)
        self.seconds = time.monotonic() - began

    def settle(self) -> None:
        """Nobody waits for it."""

    def fail(self, error: HeadwaiterError) -> None:
        raise AssertionError from error


@pytest.mark.alone
async def test_busy_time_and_saturation_are_what_the_engine_has_burned(metrics: Metrics) -> None:
    """By the real clock, two workers, one of them idle half of the time: within 5 % of the sum of what runs took."""
    dispatcher = Dispatcher(2, on_crash=lambda: None)
    metrics.watch(definitions.WORKERS, lambda: float(dispatcher.workers))
    metrics.watch(definitions.WORKER_BUSY_SECONDS, dispatcher.busy_seconds)
    sampler = Sampler(metrics)
    runs = [Burn() for _ in range(5)]
    lane = OneByOne(list(runs))
    dispatcher.add_lane(lane)
    first = sampler.take()
    dispatcher.wake()
    while lane.runs or dispatcher.busy_workers:
        await asyncio.sleep(0.001)
    last = sampler.take()
    burned = sum(run.seconds for run in runs)
    assert last.busy_seconds - first.busy_seconds == pytest.approx(burned, rel=0.05)
    assert last.saturation_ratio == pytest.approx(burned / (2 * (last.at - first.at)), rel=0.05)
    assert await dispatcher.close(1.0)
