"""A dispatcher with one lane of an encoder model, for tests."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from headwaiter_server.batching.lane import EncoderLane
from headwaiter_server.batching.task import Answer, EncodingTask, RunFacts
from headwaiter_server.config import Batching
from headwaiter_server.encoding import Encoding
from headwaiter_server.model.contract import EncoderModel
from headwaiter_server.scheduling.calls import Call, Pending, Terms
from headwaiter_server.scheduling.dispatcher import Dispatcher, Timer
from headwaiter_server.scheduling.policy import Budget
from headwaiter_server.scheduling.shares import FairShares


@dataclass
class EncoderScheduler:
    """A dispatcher, its lane, and what they reported."""

    dispatcher: Dispatcher
    lane: EncoderLane
    runs: list[RunFacts] = field(default_factory=list)
    failures: list[BaseException] = field(default_factory=list)
    crashes: list[bool] = field(default_factory=list)

    def submit(self, *sources: Encoding, raw: bool = False, terms: Terms | None = None) -> Call[Answer]:
        """Submit one call with a text for each source."""
        now = self.dispatcher.clock()
        call: Call[Answer] = Call(terms or Terms(now), len(sources), now, asyncio.get_running_loop().create_future())
        self.lane.submit(
            [Pending(call, index, EncodingTask(source, raw), len(source)) for index, source in enumerate(sources)]
        )
        self.dispatcher.wake()
        return call

    async def idle(self) -> None:
        """Return when nothing runs and no worker is about to; what waits then is kept waiting."""
        async with asyncio.timeout(10):
            while True:
                await asyncio.sleep(0)
                if not self.dispatcher.busy_workers:
                    return

    async def quiet(self) -> None:
        """Return when nothing waits or runs."""
        async with asyncio.timeout(10):
            while self.lane.waiting or self.lane.running or self.dispatcher.busy_workers:
                await asyncio.sleep(0)


def text(*ids: int) -> Encoding:
    return Encoding(list(ids))


def of_lengths(lengths: Sequence[int]) -> list[Encoding]:
    """Texts of these lengths that tell themselves apart by their first token."""
    return [Encoding([1000 + number, *[7] * (length - 1)]) for number, length in enumerate(lengths)]


@asynccontextmanager
async def encoder_scheduler(
    model: EncoderModel,
    *,
    workers: int = 1,
    rows: int = 64,
    tokens: int = 1000,
    run_tokens: float = 10.0,
    batching: Batching = "auto",
    threads: int = 1,
    delay_seconds: float = 0.0,
    clock: Callable[[], float] = time.monotonic,
    call_later: Callable[[float, Callable[[], None]], Timer] | None = None,
) -> AsyncIterator[EncoderScheduler]:
    """A running scheduler; whatever happens in the test, its workers end."""
    runs: list[RunFacts] = []
    failures: list[BaseException] = []
    crashes: list[bool] = []
    dispatcher = Dispatcher(workers, on_crash=lambda: crashes.append(True), clock=clock, call_later=call_later)

    class Observer:
        def run_finished(self, facts: RunFacts) -> None:
            runs.append(facts)

    lane = EncoderLane(
        model,
        budget=Budget(rows, tokens),
        run_tokens=run_tokens,
        batching=batching,
        threads=threads,
        shares=FairShares(),
        numbers=itertools.count(1),
        clock=clock,
        observer=Observer(),
        on_failure=failures.append,
    )
    dispatcher.add_lane(lane, lane.wait_for_mates(delay_seconds))
    try:
        yield EncoderScheduler(dispatcher, lane, runs, failures, crashes)
    finally:
        assert await dispatcher.close(10)
