"""What is recorded of a call by how it ended: its deadline, and what was wasted on it."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, cast

import grpc
import pytest
from fakes import FakeClock
from headwaiter_server.errors import (
    DeadlineExceededError,
    DeadlineUnreachableError,
    DrainingError,
    EngineError,
    InvalidRequestError,
    QueueFullError,
)
from headwaiter_server.metrics import Metrics
from headwaiter_server.rpc.crossing import Crossing
from headwaiter_server.rpc.edge import Edge
from headwaiter_server.rpc.status import Status
from headwaiter_server.rpc.stream import MessageStream, StreamMethod, Write
from headwaiter_server.scheduling.admission import Admission, Permit
from headwaiter_server.scheduling.calls import Terms

METHOD = "test/Method"


class AbortedError(Exception):
    """The call was answered with a status."""


class Context:
    """A call as gRPC hands it over, with so many seconds left."""

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds

    def time_remaining(self) -> float | None:
        return self._seconds

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return ()

    async def abort(self, *_: object) -> None:
        raise AbortedError


class Door:
    """An edge, and a method that spends three seconds and then does what the test says."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.metrics = Metrics()
        self.crossings: list[Crossing] = []
        self.edge = Edge(Admission(10, 1000), self.metrics, self.clock)

    async def call(
        self, error: BaseException | None, *, seconds: float | None = 10.0, takes_seconds: float = 0.0
    ) -> None:
        """Make a call of a model, and return when it is over."""

        async def method(_request: bytes, _permit: Permit, crossing: Crossing) -> bytes:
            crossing.model = "m"
            crossing.terms.spending.add(3.0)
            self.clock.advance(takes_seconds)
            self.crossings.append(crossing)
            if error is not None:
                raise error
            return b""

        with contextlib.suppress(AbortedError, asyncio.CancelledError):
            await self.edge.unary(METHOD, method)(b"", cast("Any", Context(seconds)))

    def deadlines(self) -> dict[str, float]:
        return {met: number for (_, met), number in self.metrics.deadlines.items() if number}

    def wasted(self) -> dict[str, float]:
        return {reason: seconds for (model, reason), seconds in self.metrics.wasted_cpu_seconds.items() if model == "m"}


@pytest.mark.parametrize(
    ("error", "met"),
    [
        (None, "true"),
        (DeadlineExceededError("late"), "false"),
        (DeadlineUnreachableError("would be late", math.inf), "false"),
        (QueueFullError("full", 0.1), None),
        (DrainingError("closing", 0.1), None),
        (InvalidRequestError("texts", "is bad"), None),
        (EngineError("broken"), None),
        (asyncio.CancelledError(), None),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else str(value),
)
async def test_deadlines_are_met_or_missed_by_calls_that_had_one(error: BaseException | None, met: str | None) -> None:
    """An answer meets one; running out of time, or being refused for lack of it, misses one; nothing else counts."""
    door = Door()
    await door.call(error)
    assert door.deadlines() == ({met: 1} if met else {})


@pytest.mark.parametrize(("seconds", "met"), [(10.0, "true"), (10.5, "false")])
async def test_answer_after_its_deadline_does_not_meet_it(seconds: float, met: str) -> None:
    """An answer that was ready too late is not in time, although nobody noticed before it was out."""
    door = Door()
    await door.call(None, takes_seconds=seconds)
    assert door.deadlines() == {met: 1}


async def test_caller_that_goes_between_two_messages_has_cancelled() -> None:
    """What gRPC says of a write that nobody will read is no failure of the call's: what was spent on it is wasted."""
    door = Door()

    async def write(_: bytes) -> None:
        raise grpc.aio.InternalError("the call is over")

    async def method(_request: bytes, _permit: Permit, crossing: Crossing, write: Write) -> None:
        crossing.model = "m"
        crossing.terms.spending.add(3.0)
        await write(b"")

    context = Context(10.0)
    context.write = write  # type: ignore[attr-defined]  # of the one that gRPC hands over
    with pytest.raises(asyncio.CancelledError):
        await door.edge.telling(METHOD, method)(b"", cast("Any", context))
    assert door.wasted() == {"cancelled": 3.0}
    assert door.deadlines() == {}


async def test_message_of_a_stream_that_would_be_too_late_misses_its_deadline() -> None:
    """Messages are recorded like calls: refused for lack of time is not met."""

    @dataclass
    class Late:
        texts: int = 1
        in_order: bool = False

        async def answer(self, _permit: Permit, _crossing: Crossing, _write: Write) -> bytes:
            raise DeadlineUnreachableError("would be late", math.inf)

        def refuse(self, status: Status) -> bytes:
            return status.code.name.encode()

    async def requests() -> AsyncIterator[bytes]:
        yield b""

    async def write(answer: bytes) -> None:
        written.append(answer)

    written: list[bytes] = []
    door = Door()
    stream = MessageStream(
        StreamMethod(METHOD, lambda _: Late(), most_texts=10),
        requests(),
        write,
        Terms(door.clock.now, door.clock.now + 10.0),
        admission=Admission(10, 1000),
        metrics=door.metrics,
        clock=door.clock,
    )
    await stream.serve()
    assert (written, door.deadlines()) == ([b"UNAVAILABLE"], {"false": 1})


@pytest.mark.parametrize("error", [None, EngineError("broken"), asyncio.CancelledError()])
async def test_call_without_a_deadline_neither_meets_nor_misses_one(error: BaseException | None) -> None:
    """There is nothing to be judged by."""
    door = Door()
    await door.call(error, seconds=None)
    assert door.deadlines() == {}


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (None, None),
        (EngineError("broken"), None),
        (QueueFullError("full", 0.1), None),
        (DeadlineExceededError("late"), "expired"),
        (asyncio.CancelledError(), "cancelled"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else str(value),
)
async def test_what_was_spent_on_calls_that_nobody_waits_for_is_wasted(
    error: BaseException | None, reason: str | None
) -> None:
    """What was spent on a call that was given up is wasted, before that and after; of other calls, nothing is."""
    door = Door()
    await door.call(error)
    door.crossings[0].terms.spending.add(0.5)
    assert door.wasted() == ({reason: 3.5} if reason else {})


async def test_caller_that_goes_with_its_deadline_has_wasted_by_expiry() -> None:
    """Reason and status agree: who is cancelled by its own deadline counts as expired, and as a deadline missed."""
    door = Door()
    await door.call(asyncio.CancelledError(), seconds=0.005)
    assert (door.wasted(), door.deadlines()) == ({"expired": 3.0}, {"false": 1})
