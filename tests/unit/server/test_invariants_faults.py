"""Faults in the scheduler's own seams: between the queue and the batch, and while answering. Nobody is left waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from fakes import POISON, EchoModel, Gate
from headwaiter_server.errors import DrainingError, HeadwaiterError
from headwaiter_server.generation.lane import GenerationLane
from headwaiter_server.generation.sequence import Generated
from headwaiter_server.scheduling.calls import Call
from headwaiter_server.scheduling.policy import Backlog

from .scheduler import Scheduler, scheduler


async def errors_of(*calls: Call[Generated]) -> list[type]:
    """The type of each call's answer; one that is never answered fails the test."""
    async with asyncio.timeout(10):
        return [type(each) for each in await asyncio.gather(*(call.future for call in calls), return_exceptions=True)]


def boom(*args: object, **named: object) -> Any:  # noqa: ANN401 - stands for anything
    raise RuntimeError("can't start new thread")


def no_thread_starts(parts: Scheduler, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(parts.dispatcher._pool, "submit", boom)


def take_breaks_halfway(parts: Scheduler, patch: pytest.MonkeyPatch) -> None:
    take = Backlog.take

    def broken(self: Backlog, *args: Any) -> Any:  # noqa: ANN401 - as Backlog.take
        parts.lane._batches[0].newcomers = take(self, *args)
        raise RuntimeError

    patch.setattr(Backlog, "take", broken)


def report_breaks(parts: Scheduler, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(parts.lane, "on_failure", boom)


def replacing_breaks(parts: Scheduler, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(parts.lane._batches[0], "iterate", boom)
    patch.setattr(GenerationLane, "replace", boom)


@pytest.mark.parametrize("fault", [no_thread_starts, take_breaks_halfway, report_breaks, replacing_breaks])
async def test_fault_in_a_seam_answers_everybody_and_tells(
    fault: Callable[[Scheduler, pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever scheduling breaks, all who wait, join or run are answered with an error, and the crash is told."""
    async with scheduler(rows=2) as parts:
        fault(parts, monkeypatch)
        calls = [parts.submit([POISON]), *(parts.submit(range(10, 20)) for _ in range(5))]
        assert all(issubclass(kind, HeadwaiterError) for kind in await errors_of(*calls))
        assert parts.crashes


async def test_text_that_is_being_encoded_is_failed_with_the_rest() -> None:
    """Failing everybody reaches those who have left the queue but are not in the batch yet, at once."""
    gate = Gate()
    model = EchoModel()
    model.on_join = gate
    async with scheduler(model) as parts:
        call = parts.submit(range(10, 60))
        await gate.entered()
        parts.dispatcher.fail_all(DrainingError("bye", 0.1))
        assert call.over
        gate.open()
        assert await errors_of(call) == [DrainingError]


async def test_stuck_run_does_not_hold_the_end_for_ever() -> None:
    """Closing gives up on a run that does not end, and says so; the event loop stays free meanwhile."""
    gate = Gate()
    async with scheduler(EchoModel(on_step=gate)) as parts:
        call = parts.submit([5])
        await gate.entered()
        assert not await parts.dispatcher.close(0.05)
        assert call.over
        gate.open()


async def test_full_batch_runs_on_although_only_the_dead_wait() -> None:
    """A waiting text whose caller has gone does not keep a full batch from its next step."""
    gate = Gate()
    async with scheduler(EchoModel(on_step=gate), rows=1, workers=2) as parts:
        running = [parts.submit(range(10, 14)) for _ in range(2)]
        await gate.entered()
        dead = parts.submit([5])
        dead.future.cancel()
        gate.open()
        assert await errors_of(*running) == [list, list]
