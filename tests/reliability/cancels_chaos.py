"""Callers who give their calls up at random times, in every way there is, beside others who do not."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import grpc
from reliability.cancels_calls import (
    KINDS,
    Kind,
    Questions,
    Row,
    StreamFailureError,
    StreamRefusalError,
    TooLateError,
    refused,
)
from reliability.cancels_relay import relay_to

CANCEL, DEADLINE, DROP = "cancel", "deadline", "drop"
MATES, CALLERS = 6, 16
# Callers are strangers to each other, and nobody tries twice.
OPTIONS = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
_CALLS_OF_A_CONNECTION = 3
# Of the time that such calls take under this load: somewhat more, so that some are answered first.
_LATEST = 1.3
_SHORTEST_SECONDS = 1e-3
_STATUS = {
    CANCEL: set[grpc.StatusCode](),
    DEADLINE: {grpc.StatusCode.DEADLINE_EXCEEDED},
    DROP: {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED},
}


@dataclass
class Seen:
    """What callers saw.

    Attributes:
        given_up: Calls that ended before they were answered, by the way they did and their kind.
        answered: Calls that were answered first, although they were to be given up.
        refused: Calls that the server refused.
        mates: Answers to calls that nobody gave up.
        problems: What must not happen.
        last: When the last call was given up.
    """

    given_up: Counter[tuple[str, str]] = field(default_factory=Counter)
    answered: int = 0
    refused: int = 0
    mates: int = 0
    problems: list[str] = field(default_factory=list)
    last: float = 0.0


class Chaos:
    """Callers of one server.

    Attributes:
        seen: What they saw.
    """

    def __init__(self, target: str, questions: Questions, seed: int) -> None:
        self.seen = Seen()
        self._target = target
        self._questions = questions
        self._seed = seed
        # What calls of a kind take that nobody gives up.
        self._seconds = {kind.name: 0.02 for kind in KINDS}

    async def run(self, cancels: int, there: Callable[[], int], advance: Callable[[int], object]) -> None:
        """Give up so many calls, and so many that have come to the server.

        Args:
            cancels: How many.
            there: Those that were given up as the server sees it: others end before they are sent, or behind an answer.
            advance: Told how many have been given up.
        """
        before, there_before = self.seen.given_up.total(), there()

        def goes_on() -> bool:
            done = min(self.seen.given_up.total() - before, there() - there_before)
            advance(done)
            return done < cancels

        async with grpc.aio.insecure_channel(self._target, options=OPTIONS) as channel, asyncio.TaskGroup() as group:
            for number in range(CALLERS):
                rng = random.Random(f"{self._seed} caller {number} {before}")
                group.create_task(self._caller(rng, channel, goes_on))
            group.create_task(self._breaker(random.Random(f"{self._seed} breaker {before}"), goes_on))
            for number in range(MATES):
                group.create_task(self._mate(random.Random(f"{self._seed} mate {number} {before}"), channel, goes_on))

    async def _caller(self, rng: random.Random, channel: grpc.aio.Channel, goes_on: Callable[[], bool]) -> None:
        while goes_on():
            kind, way = rng.choice(KINDS), rng.choice((CANCEL, DEADLINE))
            await self._give_up(rng, channel, kind, way)

    async def _give_up(self, rng: random.Random, channel: grpc.aio.Channel, kind: Kind, way: str) -> None:
        texts, after = self._questions.some(kind, rng), rng.uniform(0.0, _LATEST * self._seconds[kind.name])
        call = asyncio.create_task(
            kind.call(channel, texts, max(after, _SHORTEST_SECONDS) if way == DEADLINE else None)
        )
        if way == CANCEL:
            await asyncio.wait([call], timeout=after)
            call.cancel()
        await self._note(call, kind, way, texts)

    async def _breaker(self, rng: random.Random, goes_on: Callable[[], bool]) -> None:
        """Break one connection after the other, with a few calls on each."""
        while goes_on():
            async with (
                relay_to(self._target) as relay,
                grpc.aio.insecure_channel(relay.address, options=OPTIONS) as channel,
            ):
                await channel.channel_ready()
                asked = []
                for kind in rng.choices(KINDS, k=_CALLS_OF_A_CONNECTION):
                    texts = self._questions.some(kind, rng)
                    asked.append((asyncio.create_task(kind.call(channel, texts, None)), kind, texts))
                await asyncio.sleep(rng.uniform(0.0, _LATEST * self._seconds[asked[0][1].name]))
                relay.cut()
                for call, kind, texts in asked:
                    await self._note(call, kind, DROP, texts)

    async def _note(self, call: asyncio.Task[list[Row]], kind: Kind, way: str, texts: list[str]) -> None:
        seen = self.seen
        (ended,) = await asyncio.gather(call, return_exceptions=True)
        seen.last = time.monotonic()
        if not isinstance(ended, BaseException):
            seen.answered += 1
            if not self._questions.right(kind, texts, ended):
                seen.problems.append(f"{kind.name}, which was to be given up, was answered wrongly")
        elif isinstance(ended, asyncio.CancelledError | TooLateError):
            seen.given_up[way, kind.name] += 1
        elif isinstance(ended, StreamRefusalError) or (isinstance(ended, grpc.aio.AioRpcError) and refused(ended)):
            seen.refused += 1
        elif isinstance(ended, grpc.aio.AioRpcError) and (ended.code() in _STATUS[way] or _unsent(ended)):
            seen.given_up[way, kind.name] += 1
        else:
            seen.problems.append(f"{kind.name}, given up by {way}, ended with {ended!r}")

    async def _mate(self, rng: random.Random, channel: grpc.aio.Channel, goes_on: Callable[[], bool]) -> None:
        while goes_on():
            kind = rng.choice(KINDS)
            texts, began = self._questions.some(kind, rng), time.monotonic()
            try:
                rows = await kind.call(channel, texts, None)
            except (grpc.aio.AioRpcError, StreamFailureError) as error:
                self.seen.problems.append(f"{kind.name}, which nobody gave up, ended with {error!r}")
                continue
            taken = time.monotonic() - began
            self._seconds[kind.name] += (taken - self._seconds[kind.name]) / 10
            self.seen.mates += 1
            if not self._questions.right(kind, texts, rows):
                self.seen.problems.append(f"{kind.name}, which nobody gave up, was answered wrongly")


def _unsent(error: grpc.aio.AioRpcError) -> bool:
    """Whether this is what gRPC's client makes of a message that it was to send when the call had just ended."""
    return error.code() is grpc.StatusCode.INTERNAL and "SendMessageOperation" in (error.debug_error_string() or "")
