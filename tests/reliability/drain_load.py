"""Load that never pauses, by several ways at once, with and without retries; and what became of each call."""

from __future__ import annotations

import asyncio
import gc
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import grpc
from headwaiter.methods import EMBED
from headwaiter_proto.v1 import inference_pb2

from .replicas import REQUEST
from .ways import Way

# Of the calls that come at random, one in so many goes without retries: enough to see what is lost, too few to matter.
_ONE_IN = 5
BURST_CALLS = 60
_CALLERS = 8

Send = Callable[[], Awaitable[bytes]]


@dataclass(frozen=True, slots=True)
class Called:
    """A call that has ended.

    Attributes:
        way: The name of its way.
        retries: Whether its client tries again.
        started: When, by the monotonic clock.
        seconds: How long it took.
        replica: The number of the one that answered; 0 if none did.
        failure: Why none did.
    """

    way: str
    retries: bool
    started: float
    seconds: float
    replica: int
    failure: str = ""


class Load:
    """Calls by every way at random times; see `running_load`.

    Attributes:
        begun: The way of every call, and when it was started, in that order.
        ended: The calls that have ended, in that order.
    """

    def __init__(self, sends: dict[tuple[str, bool], Send], seed: int) -> None:
        self.begun: list[tuple[str, float]] = []
        self.ended: list[Called] = []
        self._vectors = b""
        self._sends = sends
        self._random = random.Random(seed)
        self._on_their_way: set[asyncio.Task[None]] = set()

    async def burst(self) -> float:
        """Start many calls at once, by every way as many; their clients try again.

        Returns:
            The clock when the first one began; all of them have begun.
        """
        retrying = [way for way, retries in self._sends if retries]
        # Looking for cycles among all calls so far would take longer than the burst.
        gc.disable()
        try:
            began = time.monotonic()
            calls = [(way, self._sends[way, True]()) for _ in range(BURST_CALLS // len(retrying)) for way in retrying]
            # The turn of the event loop in which gRPC's tasks for them begin.
            await asyncio.sleep(0)
        finally:
            gc.enable()
        for way, call in calls:
            self._keep(way, call, retries=True)
        return began

    async def arrive(self, way: str, rate: float) -> None:
        """Start calls at random times, whatever becomes of them, for ever."""
        due = time.monotonic()
        while True:
            due += self._random.expovariate(rate)
            await asyncio.sleep(due - time.monotonic())
            self._start(way, retries=self._random.randrange(_ONE_IN) > 0)

    async def settled(self) -> None:
        """Wait until every call that has been started has ended, and see that none is missing."""
        while self._on_their_way:
            await asyncio.wait(self._on_their_way)
        assert len(self.ended) == len(self.begun), "a call has ended in another way than calls do"

    def _start(self, way: str, *, retries: bool) -> None:
        self._keep(way, self._sends[way, retries](), retries=retries)

    def _keep(self, way: str, call: Awaitable[bytes], *, retries: bool) -> None:
        started = time.monotonic()
        self.begun.append((way, started))
        task = asyncio.create_task(self._record(way, call, started, retries=retries))
        self._on_their_way.add(task)
        task.add_done_callback(self._on_their_way.discard)

    async def _record(self, way: str, call: Awaitable[bytes], started: float, *, retries: bool) -> None:
        replica, failure = 0, ""
        try:
            answer = inference_pb2.EmbedResponse.FromString(await call)
        except grpc.aio.AioRpcError as error:
            failure = f"{error.code().name}: {error.details()}"
        else:
            self._vectors = self._vectors or answer.vectors
            replica = answer.version
            if answer.vectors != self._vectors:
                replica, failure = 0, "another answer than the first call's"
        self.ended.append(Called(way, retries, started, time.monotonic() - started, replica, failure))


@asynccontextmanager
async def running_load(ways: Sequence[Way], rate: float, seed: int = 0) -> AsyncIterator[Load]:
    """Load by these ways, each with its share of the calls a second; in the end every call is waited for."""
    async with AsyncExitStack() as stack:
        sends: dict[tuple[str, bool], Send] = {}
        for way in ways:
            for retries in (True, False):
                channel = await stack.enter_async_context(way.channel(retries=retries))
                sends[way.name, retries] = _sender(channel)
        load = Load(sends, seed)
        arrivals = [asyncio.create_task(load.arrive(way.name, rate / len(ways))) for way in ways]
        try:
            yield load
        finally:
            for task in arrivals:
                task.cancel()
            await asyncio.gather(*arrivals, return_exceptions=True)
            await load.settled()


async def capacity(way: Way, seconds: float) -> float:
    """Calls a second that are answered when as many as can be are asked for."""
    async with way.channel(retries=True) as channel:
        send = _sender(channel)
        await send()
        answered, until = 0, time.monotonic() + seconds

        async def caller() -> None:
            nonlocal answered
            while time.monotonic() < until:
                await send()
                answered += 1

        await asyncio.gather(*(caller() for _ in range(_CALLERS)))
        return answered / seconds


def _sender(channel: grpc.aio.Channel) -> Send:
    method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(EMBED.path)
    return lambda: method(REQUEST, timeout=30.0)
