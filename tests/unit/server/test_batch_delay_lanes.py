"""Lanes that keep texts waiting for mates: one timer at most, nobody else's work held up, and an end to it."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from fakes import EchoModel, FakeClock, Gate, MirrorModel
from headwaiter_server.batching.lane import EncoderLane, LoneRuns
from headwaiter_server.batching.task import Answer, CloseReason, EncodingTask, RunFacts
from headwaiter_server.config import Batching
from headwaiter_server.encoding import Encoding
from headwaiter_server.errors import ModelUnavailableError
from headwaiter_server.generation.decoding import Decoding
from headwaiter_server.generation.lane import GenerationLane
from headwaiter_server.generation.outcome import IterationFacts
from headwaiter_server.generation.sequence import GenerationTask
from headwaiter_server.scheduling.calls import Call, Pending, Terms
from headwaiter_server.scheduling.policy import Budget
from headwaiter_server.scheduling.shares import FairShares

from .encoder_scheduler import EncoderScheduler, encoder_scheduler, of_lengths, text

DELAY = 0.5
SETTLING_TURNS = 50


@dataclass(eq=False)
class Timer:
    """One timer of `Timers`."""

    at: float
    callback: Callable[[], None]
    cancelled: bool = False

    def cancel(self) -> None:
        self.cancelled = True


@dataclass
class Timers:
    """A clock, and timers that go off when it is moved past them."""

    clock: FakeClock = field(default_factory=FakeClock)
    started: int = 0
    _timers: list[Timer] = field(default_factory=list)

    def __call__(self, seconds: float, callback: Callable[[], None]) -> Timer:
        self.started += 1
        timer = Timer(self.clock.now + seconds, callback)
        self._timers.append(timer)
        return timer

    @property
    def pending(self) -> list[float]:
        """When those go off that still will."""
        return [timer.at for timer in self._timers if not timer.cancelled]

    def advance(self, seconds: float) -> None:
        end = self.clock.now + seconds
        while due := [timer for timer in self._timers if not timer.cancelled and timer.at <= end]:
            first = min(due, key=lambda timer: timer.at)
            self._timers.remove(first)
            self.clock.now = max(self.clock.now, first.at)
            first.callback()
        self.clock.now = end


async def turns() -> None:
    """Let the event loop and the workers do whatever there is to do now."""
    for _ in range(SETTLING_TURNS):
        await asyncio.sleep(0)


async def answered(*calls: Call[Answer]) -> None:
    async with asyncio.timeout(20):
        await asyncio.gather(*(call.future for call in calls))


def sizes(model: MirrorModel) -> list[list[int]]:
    return [[len(ids) for ids in run] for run in model.runs]


def reasons(parts: EncoderScheduler) -> list[CloseReason]:
    return [run.reason for run in parts.runs]


async def test_idle_worker_waits_for_mates_and_then_runs_them_together() -> None:
    """Texts that come within the delay share one run, which begins when the first has waited long enough."""
    model, timers = MirrorModel(), Timers()
    async with encoder_scheduler(model, delay_seconds=DELAY, clock=timers.clock, call_later=timers) as parts:
        first = parts.submit(*of_lengths([5]))
        await turns()
        timers.advance(0.4)
        second = parts.submit(*of_lengths([7]))
        await turns()
        assert (model.runs, len(timers.pending)) == ([], 1)
        timers.advance(0.1)
        await answered(first, second)
        assert (sizes(model), timers.pending) == ([[5, 7]], [])
    assert reasons(parts) == [CloseReason.DELAY]
    assert parts.runs[0].wait_seconds == pytest.approx(DELAY)


async def test_without_a_delay_no_timer_is_ever_set() -> None:
    """As it comes, the server looks at no clock but when work comes or ends."""
    timers = Timers()
    async with encoder_scheduler(MirrorModel(), clock=timers.clock, call_later=timers) as parts:
        for _ in range(5):
            await answered(*(parts.submit(source) for source in of_lengths([1, 2, 3])))
    assert timers.started == 0
    assert parts.lane.delay is None
    assert set(reasons(parts)) == {CloseReason.EMPTY}


async def test_full_run_goes_at_once_and_the_rest_waits_on() -> None:
    """What fills the budget waits for nobody, also with idle workers to share it; what is left over waits."""
    model, timers = MirrorModel(), Timers()
    options = {"workers": 2, "tokens": 100, "delay_seconds": DELAY, "clock": timers.clock, "call_later": timers}
    async with encoder_scheduler(model, **options) as parts:  # type: ignore[arg-type]
        calls = [parts.submit(source) for source in of_lengths([60, 40, 30])]
        await answered(*calls[:2])
        await turns()
        assert (sizes(model), reasons(parts), len(timers.pending)) == ([[60, 40]], [CloseReason.BUDGET], 1)
        timers.advance(DELAY)
        await answered(calls[2])
    assert reasons(parts) == [CloseReason.BUDGET, CloseReason.DELAY]


async def test_deadline_ends_the_wait() -> None:
    """A text that must be answered before the delay is over is, with its mates."""
    model, timers = MirrorModel(), Timers()
    async with encoder_scheduler(model, delay_seconds=DELAY, clock=timers.clock, call_later=timers) as parts:
        patient = parts.submit(*of_lengths([5]))
        await turns()
        urgent = parts.submit(*of_lengths([6]), terms=Terms(timers.clock.now, timers.clock.now + 0.2))
        await turns()
        assert model.runs == []
        timers.advance(0.2)
        await answered(patient, urgent)
    assert sorted(sizes(model)[0]) == [5, 6]
    assert reasons(parts) == [CloseReason.DEADLINE]


async def test_idle_workers_share_what_has_waited() -> None:
    """When the wait is over, what came together is divided among the idle workers, and nothing of it waits on."""
    model, timers = MirrorModel(), Timers()
    options = {"workers": 2, "run_tokens": 10.0, "delay_seconds": DELAY, "clock": timers.clock, "call_later": timers}
    async with encoder_scheduler(model, **options) as parts:  # type: ignore[arg-type]
        calls = []
        for source in of_lengths([20] * 8):
            calls.append(parts.submit(source))
            await turns()
            timers.advance(0.01)
        assert model.runs == []
        timers.advance(DELAY)
        await answered(*calls)
    assert sizes(model) == [[20] * 4] * 2


async def test_lone_text_still_runs_on_all_threads_after_its_wait() -> None:
    """Who found no mates has the server to itself."""
    model, lone, timers = MirrorModel(), MirrorModel(), Timers()
    options = {"workers": 2, "delay_seconds": DELAY, "clock": timers.clock, "call_later": timers}
    async with encoder_scheduler(model, **options) as parts:  # type: ignore[arg-type]
        parts.lane.lone_runs = LoneRuns(lone, threads=2, workers=2, from_tokens=50)
        call = parts.submit(*of_lengths([60]))
        await turns()
        assert lone.runs == []
        timers.advance(DELAY)
        await answered(call)
    assert (sizes(model), sizes(lone)) == ([], [[60]])


async def test_cancelled_text_leaves_nobody_waiting_longer() -> None:
    """When the oldest text is cancelled, its timer goes off for nothing, and the next text's wait ends on time."""
    model, timers = MirrorModel(), Timers()
    async with encoder_scheduler(model, delay_seconds=DELAY, clock=timers.clock, call_later=timers) as parts:
        gone = parts.submit(*of_lengths([5]))
        await turns()
        timers.advance(0.3)
        stays = parts.submit(*of_lengths([6]))
        await turns()
        gone.future.cancel()
        timers.advance(0.2)
        await turns()
        assert (model.runs, len(timers.pending)) == ([], 1)
        timers.advance(0.3)
        await answered(stays)
    assert sizes(model) == [[6]]
    assert timers.started == 2


async def test_worker_that_becomes_idle_takes_who_has_waited_enough() -> None:
    """While workers are busy the time passes too: texts that have waited for a worker wait no further for mates."""
    model, timers, gate = MirrorModel(), Timers(), Gate()
    async with encoder_scheduler(
        model, tokens=100, delay_seconds=DELAY, clock=timers.clock, call_later=timers
    ) as parts:
        model.on_run = gate
        busy = parts.submit(*of_lengths([100]))
        await gate.entered()
        late = parts.submit(*of_lengths([5]))
        await turns()
        assert timers.pending == []
        timers.advance(DELAY)
        gate.open()
        await answered(busy, late)
        assert timers.started == 0
    assert reasons(parts) == [CloseReason.ALONE, CloseReason.DELAY]
    assert parts.runs[1].wait_seconds == 0.0


async def test_each_run_is_waited_for_since_its_own_worker_was_idle() -> None:
    """Of two runs that begin together, the one on the worker that was busy for longer was waited for less."""
    model, timers = MirrorModel(), Timers()
    gates = [Gate(), Gate()]
    options = {"workers": 2, "tokens": 100, "delay_seconds": DELAY, "clock": timers.clock, "call_later": timers}
    async with encoder_scheduler(model, **options) as parts:  # type: ignore[arg-type]
        busy = []
        for gate in gates:
            model.on_run = gate
            busy.append(parts.submit(*of_lengths([100])))
            await gate.entered()
        gates[0].open()
        await answered(busy[0])
        timers.advance(0.1)
        model.on_run = lambda: None
        calls = [parts.submit(source) for source in of_lengths([40, 40])]
        await turns()
        timers.advance(0.3)
        gates[1].open()
        await answered(busy[1])
        timers.advance(0.2)
        await answered(*calls)
    assert [run.rows for run in parts.runs] == [1] * 4
    assert sorted(run.wait_seconds for run in parts.runs[2:]) == pytest.approx([0.2, 0.5])


@pytest.mark.parametrize("batching", ["fifo", "none"])
async def test_other_ways_of_batching(batching: Batching) -> None:
    """With fifo texts wait as well; one at a time they have nothing to wait for."""
    model, timers = MirrorModel(), Timers()
    options = {"batching": batching, "delay_seconds": DELAY, "clock": timers.clock, "call_later": timers}
    async with encoder_scheduler(model, **options) as parts:  # type: ignore[arg-type]
        calls = [parts.submit(source) for source in of_lengths([5, 6])]
        await turns()
        timers.advance(DELAY)
        await answered(*calls)
    assert sizes(model) == ([[5, 6]] if batching == "fifo" else [[5], [6]])
    assert timers.started == (1 if batching == "fifo" else 0)
    assert reasons(parts)[0] is (CloseReason.DELAY if batching == "fifo" else CloseReason.ALONE)


def second_lane(parts: EncoderScheduler, model: MirrorModel, delay_seconds: float) -> EncoderLane:
    """One more model before the same workers."""

    class Observer:
        def run_finished(self, facts: RunFacts) -> None:
            parts.runs.append(facts)

    lane = EncoderLane(
        model,
        budget=Budget(64, 1000),
        run_tokens=10.0,
        batching="auto",
        threads=1,
        shares=FairShares(),
        numbers=itertools.count(1000),
        clock=parts.dispatcher.clock,
        observer=Observer(),
        on_failure=parts.failures.append,
    )
    parts.dispatcher.add_lane(lane, lane.wait_for_mates(delay_seconds))
    return lane


def submit_to(parts: EncoderScheduler, lane: EncoderLane, source: Encoding) -> Call[Answer]:
    now = parts.dispatcher.clock()
    call: Call[Answer] = Call(Terms(now), 1, now, asyncio.get_running_loop().create_future())
    lane.submit([Pending(call, 0, EncodingTask(source, raw=False), len(source))])
    parts.dispatcher.wake()
    return call


async def test_lane_that_waits_holds_up_no_other() -> None:
    """While one model's text waits for mates, another's is run at once by the same worker, and the wait goes on."""
    model, other, timers = MirrorModel(), MirrorModel(), Timers()
    async with encoder_scheduler(model, delay_seconds=DELAY, clock=timers.clock, call_later=timers) as parts:
        lane = second_lane(parts, other, 0.0)
        waiting = parts.submit(*of_lengths([5]))
        await turns()
        timers.advance(0.1)
        await answered(submit_to(parts, lane, text(9)))
        assert (sizes(other), model.runs, len(timers.pending)) == ([[1]], [], 1)
        timers.advance(DELAY)
        await answered(waiting)


async def test_generation_goes_on_beside_a_lane_that_waits() -> None:
    """Steps of a running batch are not held up either."""
    model, timers, echo = MirrorModel(), Timers(), EchoModel()
    async with encoder_scheduler(model, delay_seconds=DELAY, clock=timers.clock, call_later=timers) as parts:

        class Observer:
            def iteration_finished(self, facts: IterationFacts) -> None:
                pass

        lane = GenerationLane(
            echo,
            budget=Budget(8, 100),
            workers=1,
            threads=1,
            batching="auto",
            shares=FairShares(),
            numbers=itertools.count(1000),
            clock=timers.clock,
            observer=Observer(),
            on_failure=parts.failures.append,
        )
        parts.dispatcher.add_lane(lane)
        waiting = parts.submit(*of_lengths([5]))
        await turns()
        loop = asyncio.get_running_loop()
        call = Call(Terms(timers.clock.now), 1, timers.clock.now, loop.create_future())
        lane.submit([Pending(call, 0, GenerationTask(Encoding([10, 11, 12]), Decoding(100)), 3)])
        parts.dispatcher.wake()
        async with asyncio.timeout(20):
            (result,) = await call.future
        assert result.token_ids == [10, 11, 12]
        assert (model.runs, len(timers.pending)) == ([], 1)
        timers.advance(DELAY)
        await answered(waiting)


async def test_several_lanes_share_one_timer() -> None:
    """The timer goes off for the lane whose wait ends first, and then is set for the next."""
    model, other, timers = MirrorModel(), MirrorModel(), Timers()
    async with encoder_scheduler(model, delay_seconds=DELAY, clock=timers.clock, call_later=timers) as parts:
        lane = second_lane(parts, other, 0.2)
        slow = parts.submit(*of_lengths([5]))
        await turns()
        timers.advance(0.1)
        quick = submit_to(parts, lane, text(9))
        await turns()
        assert len(timers.pending) == 1
        timers.advance(0.2)
        await answered(quick)
        assert (sizes(other), model.runs, len(timers.pending)) == ([[1]], [], 1)
        timers.advance(0.2)
        await answered(slow)
        assert timers.pending == []


async def test_drain_ends_the_wait() -> None:
    """When a server drains, whoever waits for mates is run at once, and nobody waits afterwards."""
    timers = Timers()
    async with encoder_scheduler(MirrorModel(), delay_seconds=DELAY, clock=timers.clock, call_later=timers) as parts:
        waiting = parts.submit(*of_lengths([5]))
        await turns()
        parts.dispatcher.end_holds()
        await answered(waiting)
        await answered(parts.submit(*of_lengths([6])))


async def test_close_fails_who_waits_and_leaves_no_timer() -> None:
    """A server that closes answers whoever waits for mates, and nothing goes off afterwards."""
    timers = Timers()
    async with encoder_scheduler(MirrorModel(), delay_seconds=DELAY, clock=timers.clock, call_later=timers) as parts:
        waiting = parts.submit(*of_lengths([5]))
        await turns()
        assert len(timers.pending) == 1
        assert await parts.dispatcher.close(10)
        assert timers.pending == []
    with pytest.raises(ModelUnavailableError):
        await waiting.future


async def test_timer_of_the_event_loop_is_used() -> None:
    """Without anything else given, real time passes."""
    async with encoder_scheduler(MirrorModel(), delay_seconds=0.02) as parts:
        began = asyncio.get_running_loop().time()
        await answered(parts.submit(*of_lengths([5])))
        assert asyncio.get_running_loop().time() - began >= 0.02
    assert reasons(parts) == [CloseReason.DELAY]


@pytest.mark.parametrize("seed", range(10))
async def test_idle_workers_and_waiting_texts_meet_but_for_the_delay(seed: int) -> None:
    """With texts that come, go and expire at random: a text waits beside an idle worker only while it is told to.

    There is one timer then, and none otherwise; and everybody is answered.
    """
    dice = random.Random(seed)
    model, timers = MirrorModel(packed=seed % 2 == 0), Timers()
    options = {"workers": 2, "tokens": 60, "delay_seconds": DELAY, "clock": timers.clock, "call_later": timers}
    calls: list[Call[Answer]] = []
    async with encoder_scheduler(model, **options) as parts:  # type: ignore[arg-type]
        delay = parts.lane.delay
        assert delay is not None
        for _ in range(150):
            deadline = timers.clock.now + dice.random() if dice.random() < 0.2 else 1e9
            source = of_lengths([dice.randint(1, 30)])
            calls.append(parts.submit(*source, terms=Terms(timers.clock.now, deadline, dice.randint(1, 3))))
            if dice.random() < 0.2:
                dice.choice(calls).future.cancel()
            if dice.random() < 0.5:
                await turns()
                timers.advance(dice.random() * DELAY)
            await parts.idle()
            assert len(timers.pending) <= 1
            if waiting := [call for call in calls if not call.dead(timers.clock.now)]:
                assert timers.clock.now < min(call.terms.arrived for call in waiting) + DELAY
                assert timers.clock.now < delay.until
                assert len(timers.pending) == 1
                assert timers.pending[0] <= delay.until
        timers.advance(DELAY)
        async with asyncio.timeout(20):
            await asyncio.gather(*(call.future for call in calls), return_exceptions=True)
        assert not parts.crashes
