"""Every admitted call is answered exactly once, whatever happens and whenever."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest
from fakes import POISON, POISON_LATER, EchoModel, FakeClock, Gate
from headwaiter_server.errors import DrainingError, EngineError, HeadwaiterError, QueueFullError
from headwaiter_server.generation.outcome import IterationFacts
from headwaiter_server.generation.sequence import Generated
from headwaiter_server.scheduling.admission import Admission
from headwaiter_server.scheduling.calls import Call, Pending, Terms

from .scheduler import Scheduler, scheduler


async def settled(calls: list[Call[Generated]]) -> list[list[Generated] | BaseException]:
    """All answers; a call that is never answered fails the test instead of hanging it."""
    async with asyncio.timeout(20):
        return await asyncio.gather(*(call.future for call in calls), return_exceptions=True)


@pytest.mark.parametrize("seed", range(12))
async def test_random_cancels_and_poison_leave_nobody_waiting(seed: int) -> None:
    """With callers cancelling at random moments among poisoned and healthy texts, everybody is answered, rightly."""
    dice = random.Random(seed)
    async with scheduler(workers=2, rows=6) as parts:
        calls: list[tuple[Call[Generated], list[list[int]]]] = []
        for _ in range(150):
            sources = [
                [dice.choice([POISON, POISON_LATER])]
                if dice.random() < 0.03
                else [dice.randrange(3, 97) for _ in range(dice.randrange(1, 10))]
                for _ in range(dice.choice([1, 1, 1, 4]))
            ]
            calls.append((parts.submit(*sources), sources))
            if dice.random() < 0.3:
                dice.choice(calls)[0].future.cancel()
            if dice.random() < 0.3:
                await asyncio.sleep(0)
        answers = await settled([call for call, _ in calls])
        for (_, sources), answer in zip(calls, answers, strict=True):
            poisoned = any(source[0] in {POISON, POISON_LATER} for source in sources)
            if isinstance(answer, EngineError):
                assert poisoned
            elif not isinstance(answer, asyncio.CancelledError):
                assert [each.token_ids for each in answer] == sources  # type: ignore[union-attr]
        # Rows of callers who went during the last step are let go of by one more iteration.
        async with asyncio.timeout(10):
            while parts.lane.running or parts.lane.waiting:
                await asyncio.sleep(0)
        assert not parts.crashes


async def test_cancelling_a_batch_mate_does_not_hang_the_others() -> None:
    """A caller who cancels in the middle of a run does not keep its batch-mates from their answers."""
    gate = Gate()
    model = EchoModel(on_step=gate)
    async with scheduler(model) as parts:
        calls = [parts.submit([5]) for _ in range(8)]
        await gate.entered()
        for call in calls[::2]:
            call.future.cancel()
        gate.open()
        answers = await settled(calls)
        assert [isinstance(answer, asyncio.CancelledError) for answer in answers] == [True, False] * 4


async def test_engine_that_always_raises_answers_everybody() -> None:
    """If every run raises, every call is answered with an error and the next one is tried afresh."""

    def fail() -> None:
        raise MemoryError("no memory")

    model = EchoModel(on_step=fail)
    async with scheduler(model) as parts:
        answers = await settled([parts.submit([index + 5]) for index in range(10)])
        assert all(isinstance(answer, EngineError) for answer in answers)
        model.on_step = lambda: None
        (answer,) = await settled([parts.submit([5])])
        assert not isinstance(answer, BaseException)


async def test_batch_whose_state_is_lost_is_replaced() -> None:
    """If a batch breaks outside a run of the model, its callers are answered and later ones get a new batch."""
    async with scheduler() as parts:
        broken = parts.lane._batches[0]
        broken._engine.close_gaps = lambda _stepping: 1 / 0  # type: ignore[assignment, method-assign]
        answers = await settled([parts.submit([5]), parts.submit([6])])
        assert all(isinstance(answer, EngineError) for answer in answers)
        (answer,) = await settled([parts.submit([7])])
        assert not isinstance(answer, BaseException)


async def crash_in_take(parts: Scheduler) -> None:
    def take(now: float, idle_workers: int) -> None:
        raise ZeroDivisionError

    parts.lane.take = take  # type: ignore[method-assign]


async def crash_in_observer(parts: Scheduler) -> None:
    def iteration_finished(facts: IterationFacts) -> None:
        raise ZeroDivisionError

    parts.iteration_finished = iteration_finished  # type: ignore[method-assign]


@pytest.mark.parametrize("crash", [crash_in_take, crash_in_observer])
async def test_scheduler_crash_fails_everybody_and_tells(crash: Callable[[Scheduler], object]) -> None:
    """A bug in scheduling itself leaves nobody waiting, is reported once, and later calls are refused at once."""
    async with scheduler(rows=2) as parts:
        await crash(parts)  # type: ignore[misc]
        calls = [parts.submit(range(10, 20)) for _ in range(6)]
        answers = await settled(calls)
        assert all(isinstance(answer, HeadwaiterError) for answer in answers)
        assert parts.crashes == [True]
        (late,) = await settled([parts.submit([5])])
        assert isinstance(late, HeadwaiterError)


async def test_closing_fails_what_is_left() -> None:
    """Ending the dispatcher answers what waits and what runs with an error, and ends the workers."""
    gate = Gate()
    model = EchoModel(on_step=gate)
    async with scheduler(model, rows=1) as parts:
        calls = [parts.submit(range(10, 30)) for _ in range(3)]
        await gate.entered()
        parts.dispatcher.fail_all(DrainingError("bye", 0.1))
        gate.open()
        assert await parts.dispatcher.close(10)
        answers = await settled(calls)
        assert all(isinstance(answer, DrainingError | EngineError) for answer in answers)


async def test_idle_worker_and_waiting_text_never_coexist() -> None:
    """One turn of the event loop after a text has come, an idle worker has it: there is no timer to wait for."""
    async with scheduler(workers=2) as parts:
        for _ in range(50):
            call = parts.submit([5])
            await asyncio.sleep(0)
            assert parts.lane.waiting == 0
            await call.future


async def test_second_answer_is_ignored() -> None:
    """Resolving or failing a call that is over changes nothing and raises nothing."""
    loop = asyncio.get_running_loop()
    call: Call[str] = Call(Terms(0.0), 2, 0.0, loop.create_future())
    first, second = Pending(call, 0, None, 1), Pending(call, 1, None, 1)
    second.resolve("b")
    assert not call.over
    first.resolve("a")
    first.resolve("x")
    second.fail(EngineError("late"))
    assert await call.future == ["a", "b"]

    gone: Call[str] = Call(Terms(0.0), 1, 0.0, loop.create_future())
    gone.future.cancel()
    Pending(gone, 0, None, 1).resolve("x")
    assert gone.dead(now=1.0)


async def test_permits_bound_calls_and_bytes() -> None:
    """Admission refuses the call over a bound at once, with a hint, and takes it once a permit is back."""
    admission = Admission(max_calls=2, max_bytes=100)
    with admission.admit(40), admission.admit(40):
        with pytest.raises(QueueFullError, match="2 calls") as refused:
            admission.admit(1)
        assert refused.value.retry_after_seconds > 0
    with admission.admit(90), pytest.raises(QueueFullError, match="100 bytes"):
        admission.admit(20)
    with admission.admit(1000):  # alone, a message that the server takes at all is taken
        pass
    assert admission.calls == 0


async def test_permit_comes_back_when_the_work_raises() -> None:
    """A permit is given back however the work ends."""
    admission = Admission(max_calls=1, max_bytes=100)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), admission.admit(1):
            raise ZeroDivisionError
    assert admission.calls == 0


async def test_draining_refuses_and_waits_for_the_held() -> None:
    """After closing, calls are refused, and draining ends when the last permit is back."""
    admission = Admission(max_calls=2, max_bytes=100)
    permit = admission.admit(1)
    admission.close()
    with pytest.raises(DrainingError):
        admission.admit(1)
    drained = asyncio.ensure_future(admission.drained())
    await asyncio.sleep(0)
    assert not drained.done()
    with permit:
        pass
    await asyncio.wait_for(drained, 10)


async def test_runs_of_two_lanes_alternate_by_age() -> None:
    """A lane with texts running all the time cannot keep another lane's older text from its turn."""
    clock = FakeClock()
    async with scheduler(clock=clock) as parts:
        other = EchoModel(on_step=lambda: clock.advance(0.01))
        parts.model.on_step = lambda: clock.advance(0.01)
        async with scheduler(other, clock=clock) as second:
            parts.dispatcher.add_lane(second.lane)
            second.dispatcher = parts.dispatcher
            busy = [parts.submit(range(3, 90))]
            await asyncio.sleep(0)
            old = second.submit([5, 6])
            while not old.over:
                busy.append(parts.submit(range(3, 90)))
                await asyncio.sleep(0)
                if len(busy) > 20_000:
                    pytest.fail("the other lane starved")
            parts.dispatcher.fail_all(EngineError("end of test"))
            await settled(busy)
