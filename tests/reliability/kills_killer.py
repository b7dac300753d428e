"""Replicas are killed at such moments and started again, and looked at for what the dead have left."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from e2e.hostile_loads import RepositoryClient
from reliability.cancels_calls import EMBEDDER, embed
from reliability.kills_replica import Replica

SERVING, LOADING, TRIAL, SWAP = "serving", "loading", "trying", "swapping"
MOMENTS = (TRIAL, SWAP, LOADING, SERVING)
_PATIENCE_SECONDS = 60.0
# From start to ready, before that was measured.
_TYPICAL_SECONDS = 1.0
# Of both channels that balance, each finding it in its own time.
_FOUND_CALLS = 3


@dataclass
class Result:
    """What came of it.

    Attributes:
        kills: By when they came.
        calls: Answers, all golden.
        problems: What must not happen.
        litter: Files, names of shared memory and processes that were left.
        unloaded_seconds: From start to ready, without load.
        orderly_seconds: From start to ready after an end in order, under load.
        loaded_seconds: From start to ready after a kill, under the same load, with nothing to try anew.
        slowdowns: Median of these times over that without load, right before and after, for each stage.
        found_seconds: From ready until balanced clients called it again.
        slowest_seconds: The longest that a call took.
        gone_seconds: The longest time that what a replica had started was there after it was killed.
    """

    kills: Counter[str] = field(default_factory=Counter)
    calls: int = 0
    problems: list[str] = field(default_factory=list)
    litter: list[str] = field(default_factory=list)
    unloaded_seconds: list[float] = field(default_factory=list)
    orderly_seconds: list[float] = field(default_factory=list)
    loaded_seconds: list[float] = field(default_factory=list)
    slowdowns: list[float] = field(default_factory=list)
    found_seconds: list[float] = field(default_factory=list)
    slowest_seconds: float = 0.0
    gone_seconds: float = 0.0


class Killer:
    """Kills replicas, and starts them again."""

    def __init__(self, replicas: Sequence[Replica], life_seconds: float, seed: int, result: Result) -> None:
        self._life_seconds = life_seconds
        self._replicas = replicas
        self._rng = random.Random(f"{seed} kills")
        self._result = result

    async def start_all(self) -> None:
        """Start every replica for the first time, which takes longer."""
        for replica in self._replicas:
            await replica.start()
        await asyncio.gather(*(replica.ready() for replica in self._replicas))

    async def measure(self, times: int) -> None:
        """Start replicas anew while nobody calls; what is killed for it is not counted."""
        for number in range(times):
            replica = self._replicas[number % len(self._replicas)]
            await self._kill(replica, None)
            await replica.start()
            self._result.unloaded_seconds.append(await replica.ready())
            await self._check(replica)

    async def end_one(self) -> None:
        """Have one of them end in order, and start it again: it loads and warms up just as after a kill."""
        replica = self._rng.choice(self._replicas)
        if code := await replica.terminate():
            self._result.problems.append(f"{replica.folder.name} ended with {code}")
        await replica.start()
        self._result.orderly_seconds.append(await replica.ready())
        await self._check(replica)
        await self.found(replica)

    async def kill_one(self, moment: str) -> None:
        """Kill one of them at such a moment, and wait until it is back."""
        replica = self._rng.choice(self._replicas)
        await asyncio.sleep(self._rng.uniform(0, self._life_seconds))
        if moment == SWAP:
            await self._kill_in_swap(replica)
        else:
            await self._kill(replica, SERVING)
        if moment == TRIAL:
            for record in replica.kept.glob("*"):
                record.unlink()
        await replica.start()
        if moment == LOADING:
            await asyncio.sleep(self._rng.uniform(0.05, 0.95) * self._typical_seconds)
        if moment == TRIAL:
            await _until(lambda: replica.children() > 1)
            await asyncio.sleep(self._rng.uniform(0, 0.2))
        if moment in {LOADING, TRIAL}:
            await self._kill(replica, moment)
            await replica.start()
        seconds = await replica.ready()
        if moment != TRIAL:
            self._result.loaded_seconds.append(seconds)
        await self._check(replica)
        self._result.found_seconds.append(await self.found(replica))

    @property
    def _typical_seconds(self) -> float:
        return statistics.median(self._result.unloaded_seconds or [_TYPICAL_SECONDS])

    async def _kill_in_swap(self, replica: Replica) -> None:
        """Kill it while one version takes the place of another."""
        async with grpc.aio.insecure_channel(f"127.0.0.1:{replica.port}") as channel:
            repository = RepositoryClient(channel)
            _toggle(replica.models / EMBEDDER)
            swap = asyncio.create_task(repository.load(EMBEDDER))
            await asyncio.wait([swap], timeout=self._rng.uniform(0, self._typical_seconds))
            await self._kill(replica, SWAP if not swap.done() else SERVING)
            await asyncio.gather(swap, return_exceptions=True)

    async def _kill(self, replica: Replica, moment: str | None) -> None:
        alive = await replica.kill()
        self._result.litter += [f"process {each.pid} of {replica.folder.name}" for each in alive]
        if moment is not None:
            self._result.kills[moment] += 1

    async def _check(self, replica: Replica) -> None:
        """Look for what the dead has left, and whether the living one has its socket."""
        self._result.litter += replica.litter()
        async with grpc.aio.insecure_channel(f"unix:{replica.unix}") as channel:
            try:
                await embed(channel, ["w1"], _PATIENCE_SECONDS)
            except grpc.aio.AioRpcError as error:
                self._result.problems.append(f"{replica.folder.name} does not answer at its socket: {error!r}")

    async def found(self, replica: Replica) -> float:
        """Wait until clients call it: before, there is one replica for them, and its end is theirs.

        Returns:
            How many seconds that took.
        """
        began, calls = time.monotonic(), await replica.calls()
        async with asyncio.timeout(_PATIENCE_SECONDS):
            while await replica.calls() < calls + _FOUND_CALLS:
                await asyncio.sleep(0.05)
        return time.monotonic() - began


def _toggle(model: Path) -> None:
    """Have the newest version not be there, or be there again: so the next load is a swap."""
    shown, hidden = model / "2", model / ".2"
    shown.rename(hidden) if shown.exists() else hidden.rename(shown)


async def _until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(_PATIENCE_SECONDS):
        while not true():
            await asyncio.sleep(0.005)
