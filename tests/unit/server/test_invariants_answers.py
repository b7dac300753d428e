"""Invariant 1, where nothing short of a hang would tell: whatever breaks, everybody is answered, and soon."""

from __future__ import annotations

import asyncio

from fakes import EchoModel, Gate
from headwaiter_server.errors import EngineError, ModelUnavailableError
from headwaiter_server.generation.outcome import Outcome
from headwaiter_server.generation.sequence import Generated
from headwaiter_server.scheduling.calls import Call

from .scheduler import scheduler

# In which an answer that comes at all has come, however busy the machine is.
SOON_SECONDS = 10

Answer = list[Generated] | BaseException


async def answers(*calls: Call[Generated]) -> list[Answer]:
    """All answers; a call that is not answered soon fails the test."""
    async with asyncio.timeout(SOON_SECONDS):
        return await asyncio.gather(*(call.future for call in calls), return_exceptions=True)


async def test_mates_of_a_text_cancelled_in_its_last_step_get_their_tokens() -> None:
    """A text that is done but whose caller has just gone is answered to nobody, and its batch-mates get their own."""
    gate = Gate()
    async with scheduler(EchoModel(on_step=gate)) as parts:
        calls = [parts.submit([number], max_new_tokens=1) for number in range(10, 18)]
        await gate.entered()
        for call in calls[::2]:
            call.future.cancel()
        gate.open()
        got = await answers(*calls)
        assert [answer[0].token_ids for answer in got if isinstance(answer, list)] == [[11], [13], [15], [17]]
        assert not parts.crashes


async def test_batch_that_breaks_answers_those_in_it_and_those_who_join() -> None:
    """If a run raises as a whole, the text that was running and those that joined with it are told; later ones run."""

    def iterate(batch_id: int, idle_since: float) -> Outcome:
        raise ZeroDivisionError

    gate = Gate()
    async with scheduler(EchoModel(on_step=gate)) as parts:
        running = parts.submit(range(10, 20))
        await gate.entered()
        parts.lane._batches[0].iterate = iterate  # type: ignore[method-assign]
        joining = parts.submit([5], [6])
        gate.open()
        assert [type(answer) for answer in await answers(running, joining)] == [EngineError, EngineError]
        (after,) = await answers(parts.submit([7]))
        assert isinstance(after, list)


async def test_bug_in_scheduling_answers_those_who_wait() -> None:
    """If choosing what runs next raises, every text that waits is answered, and so is every later one."""

    def take(now: float, idle_workers: int) -> None:
        raise ZeroDivisionError

    async with scheduler() as parts:
        parts.lane.take = take  # type: ignore[method-assign]
        got = await answers(*(parts.submit([number]) for number in range(10, 16)))
        assert [type(answer) for answer in got] == [EngineError] * 6
        (late,) = await answers(parts.submit([5]))
        assert isinstance(late, ModelUnavailableError)
