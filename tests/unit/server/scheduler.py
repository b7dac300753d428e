"""A dispatcher with one generating lane on an echo model, for tests."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from fakes import EchoModel
from headwaiter_server.config import Batching
from headwaiter_server.encoding import Encoding
from headwaiter_server.generation.lane import GenerationLane
from headwaiter_server.generation.running import IterationFacts
from headwaiter_server.generation.sequence import Generated, GenerationTask
from headwaiter_server.scheduling.calls import Call, Pending, Terms
from headwaiter_server.scheduling.dispatcher import Dispatcher
from headwaiter_server.scheduling.policy import Budget
from headwaiter_server.scheduling.shares import FairShares


@dataclass
class Scheduler:
    """A dispatcher, its lane, and what they reported."""

    dispatcher: Dispatcher
    lane: GenerationLane
    model: EchoModel
    iterations: list[IterationFacts] = field(default_factory=list)
    failures: list[BaseException] = field(default_factory=list)
    crashes: list[bool] = field(default_factory=list)

    def iteration_finished(self, facts: IterationFacts) -> None:
        self.iterations.append(facts)

    def submit(self, *sources: Sequence[int], max_new_tokens: int = 100, terms: Terms | None = None) -> Call[Generated]:
        """Submit one call with a text for each source."""
        now = self.dispatcher.clock()
        call: Call[Generated] = Call(terms or Terms(now), len(sources), now, asyncio.get_running_loop().create_future())
        self.lane.submit(
            [
                Pending(call, index, GenerationTask(Encoding(list(ids)), max_new_tokens), len(ids))
                for index, ids in enumerate(sources)
            ]
        )
        self.dispatcher.wake()
        return call


@asynccontextmanager
async def scheduler(
    model: EchoModel | None = None,
    *,
    workers: int = 1,
    rows: int = 8,
    tokens: int = 1000,
    batching: Batching = "auto",
    threads: int = 1,
    clock: Callable[[], float] = time.monotonic,
) -> AsyncIterator[Scheduler]:
    """A running scheduler; whatever happens in the test, its workers end."""
    model = model or EchoModel()
    crashes: list[bool] = []
    failures: list[BaseException] = []
    dispatcher = Dispatcher(workers, on_crash=lambda: crashes.append(True), clock=clock)

    class Observer:
        def iteration_finished(self, facts: IterationFacts) -> None:
            parts.iteration_finished(facts)

    lane = GenerationLane(
        model,
        budget=Budget(rows, tokens),
        workers=workers,
        threads=threads,
        batching=batching,
        shares=FairShares(),
        numbers=itertools.count(1),
        clock=clock,
        observer=Observer(),
        on_failure=failures.append,
    )
    parts = Scheduler(dispatcher, lane, model, failures=failures, crashes=crashes)
    dispatcher.add_lane(lane)
    try:
        yield parts
    finally:
        assert await dispatcher.close(10)
