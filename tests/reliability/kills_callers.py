"""Clients of several replicas, with the published service config: balanced over all, or at the first that answers."""

from __future__ import annotations

import asyncio
import random
import time
from types import TracebackType
from typing import Any, Self

import grpc
from headwaiter.service_config import SERVICE_CONFIG, SERVICE_CONFIG_PICK_FIRST
from reliability.cancels_calls import KINDS, Kind, Questions

# However busy the machine is: the long form says how long the slowest took.
_TIMEOUT_SECONDS = 60.0
# As gRPC begins, and as the Python client ends.
RECONNECT_MS = (1000, 5000)
# Streams are tried again only up to their first answer.
_ASKED = tuple(kind for kind in KINDS if "tream" not in kind.name)


def _options(config: str, reconnect_ms: tuple[int, int]) -> list[tuple[str, Any]]:
    return [
        ("grpc.service_config", config),
        # A subchannel that is shared would be told of the dead by the callers of another test.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.initial_reconnect_backoff_ms", reconnect_ms[0]),
        ("grpc.min_reconnect_backoff_ms", reconnect_ms[0]),
        ("grpc.max_reconnect_backoff_ms", reconnect_ms[1]),
    ]


class Callers:
    """Calls at random times, from when they are entered until they are left.

    Attributes:
        right: Golden answers.
        problems: What must not happen.
        slowest_seconds: The longest that a call took.
    """

    def __init__(
        self, target: str, questions: Questions, calls_per_second: float, reconnect_ms: tuple[int, int], seed: int
    ) -> None:
        self.right = 0
        self.problems: list[str] = []
        self.slowest_seconds = 0.0
        self._questions = questions
        self._rng = random.Random(f"{seed} calls")
        self._rate = calls_per_second
        self._channels = [
            grpc.aio.insecure_channel(target, options=_options(config, reconnect_ms))
            for config in (SERVICE_CONFIG, SERVICE_CONFIG_PICK_FIRST)
        ]
        self._calls = set[asyncio.Task[None]]()
        self._sender: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        async with asyncio.timeout(_TIMEOUT_SECONDS):
            await asyncio.gather(*(channel.channel_ready() for channel in self._channels))
        self._sender = asyncio.create_task(self._send())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._sender is not None
        self._sender.cancel()
        await asyncio.gather(self._sender, *self._calls, return_exceptions=True)
        for channel in self._channels:
            await channel.close()

    async def _send(self) -> None:
        while True:
            await asyncio.sleep(self._rng.expovariate(self._rate))
            kind, channel = self._rng.choice(_ASKED), self._rng.choice(self._channels)
            call = asyncio.create_task(self._ask(channel, kind, self._questions.some(kind, self._rng)))
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)

    async def _ask(self, channel: grpc.aio.Channel, kind: Kind, texts: list[str]) -> None:
        began = time.monotonic()
        try:
            rows = await kind.call(channel, texts, _TIMEOUT_SECONDS)
        except grpc.aio.AioRpcError as error:
            self.problems.append(f"{kind.name} ended with {error.code().name}: {error.details()}")
        else:
            self.right += 1
            if not self._questions.right(kind, texts, rows):
                self.problems.append(f"{kind.name} was answered wrongly")
        self.slowest_seconds = max(self.slowest_seconds, time.monotonic() - began)
