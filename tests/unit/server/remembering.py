"""A pipeline that remembers answers, before a scheduler with one model, for tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

from fakes import EchoModel
from headwaiter_server.batching.task import EncodingTask, RunAnswer
from headwaiter_server.encoding import Encoding
from headwaiter_server.generation.decoding import Decoding
from headwaiter_server.generation.sequence import Generated, GenerationTask
from headwaiter_server.lifecycle.catalog import Catalog
from headwaiter_server.metrics import Metrics
from headwaiter_server.model.contract import EncoderModel, FloatArray
from headwaiter_server.pipeline import Pipeline, ResponseCache
from headwaiter_server.scheduling.calls import DEFAULT_PRIORITY, NO_DEADLINE, Terms

from .encoder_scheduler import EncoderScheduler, encoder_scheduler
from .scheduler import Scheduler, scheduler

Answers = list[RunAnswer[FloatArray]]
MODEL = "m"


@dataclass
class Asking:
    """A call: its task, and its terms."""

    task: asyncio.Task[Any]
    terms: Terms

    def cancel(self) -> None:
        """Have its caller go."""
        self.task.cancel()

    @property
    def hits(self) -> int:
        """Rows that were remembered, or on their way."""
        return self.terms.trail.cache_hits

    @property
    def misses(self) -> int:
        """Rows that had to run."""
        return self.terms.trail.cache_misses


@dataclass
class Remembering:
    """A pipeline with a cache, and what is behind it."""

    parts: EncoderScheduler | Scheduler
    metrics: Metrics
    cache: ResponseCache
    pipeline: Pipeline = field(init=False)

    def __post_init__(self) -> None:
        self.pipeline = Pipeline(Catalog(), self.parts.dispatcher, self.metrics, 100, self.cache)
        self.cache.open(self.parts.lane, MODEL)

    def ask(
        self,
        *sources: Encoding,
        raw: bool = False,
        seconds: float = NO_DEADLINE,
        priority: int = DEFAULT_PRIORITY,
        fairness_key: str = "",
    ) -> Asking:
        """A call to an encoder with these texts, begun now."""
        terms = self._terms(seconds, priority, fairness_key)
        return self._begin([EncodingTask(source, raw) for source in sources], terms)

    def generate(self, *sources: list[int], limit: int = 50) -> Asking:
        """A call to a model that generates."""
        return self._begin([GenerationTask(Encoding(source), Decoding(limit)) for source in sources], self._terms())

    async def begun(self) -> None:
        """Return when the calls that were begun have been looked up."""
        for _ in range(3):
            await asyncio.sleep(0)

    async def quiet(self) -> None:
        """Return when nothing waits or runs."""
        async with asyncio.timeout(10):
            while self.parts.lane.waiting or self.parts.lane.running or self.parts.dispatcher.busy_workers:
                await asyncio.sleep(0)

    def counted(self, result: str) -> float:
        """What the metrics say was looked for."""
        labels = {"model": MODEL, "result": result}
        return self.metrics.registry.get_sample_value("headwaiter_cache_requests_total", labels) or 0.0

    def on_their_way(self) -> int:
        """Texts that somebody waits for."""
        shelf = self.cache.shelf(self.parts.lane)
        assert shelf is not None
        return sum(map(len, shelf._flights.values()))

    def _terms(self, seconds: float = NO_DEADLINE, priority: int = DEFAULT_PRIORITY, fairness_key: str = "") -> Terms:
        now = self.pipeline.clock()
        return Terms(now, now + seconds, priority, fairness_key)

    def _begin(self, tasks: list[Any], terms: Terms) -> Asking:
        run = self.pipeline.run(cast("Any", self.parts.lane), terms, terms.arrived, tasks)
        return Asking(asyncio.get_running_loop().create_task(run), terms)


@asynccontextmanager
async def remembering(
    model: EncoderModel,
    *,
    max_bytes: int = 1 << 20,
    workers: int = 1,
    rows: int = 64,
    clock: Callable[[], float] | None = None,
) -> AsyncIterator[Remembering]:
    """An encoder whose answers are remembered."""
    more: dict[str, Any] = {} if clock is None else {"clock": clock}
    metrics = Metrics()
    async with encoder_scheduler(model, workers=workers, rows=rows, **more) as parts:
        yield Remembering(parts, metrics, ResponseCache(max_bytes, metrics))


@asynccontextmanager
async def remembering_generator(model: EchoModel, *, max_bytes: int = 1 << 20) -> AsyncIterator[Remembering]:
    """A model that generates whose answers are remembered."""
    metrics = Metrics()
    async with scheduler(model) as parts:
        yield Remembering(parts, metrics, ResponseCache(max_bytes, metrics))


def ids(answers: Answers) -> list[list[int]]:
    """The token ids that `MirrorModel` answers with."""
    return [answer.values.astype(int).tolist() for answer in answers]


def generated(answers: list[Generated]) -> list[list[int]]:
    """The token ids that `EchoModel` answers with."""
    return [answer.token_ids for answer in answers]
