"""A dispatcher with one generating lane on an echo model, for tests."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import cast

from fakes import EchoModel
from headwaiter_server.config import Batching
from headwaiter_server.encoding import Encoding
from headwaiter_server.generation.decoding import Decoding
from headwaiter_server.generation.lane import GenerationLane
from headwaiter_server.generation.outcome import IterationFacts
from headwaiter_server.generation.sequence import Generated, GenerationTask, Progress
from headwaiter_server.generation.texts import TextStream
from headwaiter_server.model.generation import GenerationModel
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

    def submit(
        self,
        *sources: Sequence[int],
        max_new_tokens: int = 100,
        terms: Terms | None = None,
        decoding: Decoding | None = None,
        text: TextStream | None = None,
        watch: Callable[[Progress], None] | None = None,
    ) -> Call[Generated]:
        """Submit one call with a text for each source, likeliest tokens unless other ones are asked for."""
        wanted = decoding or Decoding(max_new_tokens)
        now = self.dispatcher.clock()
        call: Call[Generated] = Call(terms or Terms(now), len(sources), now, asyncio.get_running_loop().create_future())
        self.lane.submit(
            [
                Pending(call, index, GenerationTask(Encoding(list(ids)), wanted, text, watch), len(ids))
                for index, ids in enumerate(sources)
            ]
        )
        self.dispatcher.wake()
        return call


@asynccontextmanager
async def scheduler(
    model: GenerationModel | None = None,
    *,
    workers: int = 1,
    rows: int = 8,
    tokens: int = 1000,
    batching: Batching = "auto",
    threads: int = 1,
    clock: Callable[[], float] = time.monotonic,
    cache_bytes: int | None = None,
) -> AsyncIterator[Scheduler]:
    """A running scheduler; whatever happens in the test, its workers end."""
    model = model or EchoModel()
    echo = cast("EchoModel", model)  # of those tests that look at it
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
        cache_bytes=cache_bytes,
    )
    parts = Scheduler(dispatcher, lane, echo, failures=failures, crashes=crashes)
    dispatcher.add_lane(lane)
    try:
        yield parts
    finally:
        assert await dispatcher.close(10)
