"""Models put together: the parts of each are constructed here, and joined to the scheduler and the metrics."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from headwaiter_server.allocator import give_freed_memory_back
from headwaiter_server.batching.lane import BatchLane, EncoderLane, LoneRuns, TensorLane
from headwaiter_server.batching.sharing import LikeTensors
from headwaiter_server.batching.task import RunFacts
from headwaiter_server.config import AUTO, ServerSettings
from headwaiter_server.cpu import available_cpus
from headwaiter_server.errors import BundleError
from headwaiter_server.generation.lane import GenerationLane
from headwaiter_server.generation.running import IterationFacts
from headwaiter_server.lifecycle.building import BuiltModel, build_model
from headwaiter_server.lifecycle.calibration import Calibrator
from headwaiter_server.lifecycle.catalog import Catalog, ServedModel
from headwaiter_server.lifecycle.memory import MemoryPlan, container_limit_bytes, resident_bytes
from headwaiter_server.lifecycle.planning import Beside, EncoderPlan, Planner, Subject, TensorSubject
from headwaiter_server.lifecycle.repository import BundleLocation
from headwaiter_server.lifecycle.signature import signature_of
from headwaiter_server.log import get_logger
from headwaiter_server.metrics import Metrics, definitions
from headwaiter_server.metrics.situation import ModelFacts
from headwaiter_server.metrics.statistics import ModelCounts
from headwaiter_server.model.contract import BatchModel, EncoderModel, GenerationModel, Graph, Source, Values, Wanted
from headwaiter_server.model.onnx import RUNTIME_VERSION, OnnxGraph
from headwaiter_server.pipeline import ResponseCache
from headwaiter_server.scheduling.admission import Admission
from headwaiter_server.scheduling.dispatcher import Dispatcher, Lane
from headwaiter_server.scheduling.forecast import Forecast, ModelForecast
from headwaiter_server.scheduling.policy import Budget
from headwaiter_server.scheduling.shares import FairShares
from headwaiter_server.tracing import TracedRun, Tracing

_log = get_logger(__name__)

# Until a model is calibrated, which is before its first call.
_UNCALIBRATED_TOKENS = 128
# Graphs whose sizes differ by less than about this part are taken to be of one architecture.
_ALIKE = 0.02


class _LaneMetrics:
    """Records a lane's runs, those of each name together and of each version apart; tells of those that are traced."""

    def __init__(self, metrics: Metrics, tracing: Tracing | None, model: str, counts: ModelCounts) -> None:
        self._metrics = metrics
        self._tracing = tracing
        self._model = model
        self._counts = counts

    def iteration_finished(self, facts: IterationFacts) -> None:
        """See `Observer`."""
        metrics, model = self._metrics, self._model
        metrics.cpu_spent(model, facts.cpu_seconds)
        if not facts.rows:  # none are left when every caller has gone
            return
        self._counts.ran(facts.rows, facts.seconds)
        metrics.run_finished(
            model, seconds=facts.seconds, rows=facts.rows, tokens=facts.tokens, wait_seconds=facts.wait_seconds
        )
        for seconds in facts.first_tokens:
            metrics.first_token(model, seconds)
        if facts.next_tokens:
            metrics.next_tokens(model, facts.token_seconds, facts.next_tokens)

    def run_finished(self, facts: RunFacts) -> None:
        """See `batching.lane.Observer`."""
        self._counts.ran(facts.rows, facts.seconds)
        self._metrics.cpu_spent(self._model, facts.cpu_seconds)
        self._metrics.run_finished(
            self._model,
            seconds=facts.seconds,
            rows=facts.rows,
            tokens=facts.tokens,
            padding_tokens=facts.padding_tokens,
            wait_seconds=facts.wait_seconds,
        )
        self._metrics.batch_closed(self._model, reason=facts.reason.value)
        if self._tracing is not None and facts.spans:
            self._tracing.run(self._traced(facts), facts.spans)

    def failed(self, error: BaseException) -> None:
        """Log and count what the engine raised."""
        _log.error("engine_failed", model=self._model, exc_info=error)
        self._metrics.engine_failed(self._model)

    def _traced(self, facts: RunFacts) -> TracedRun:
        return TracedRun(
            model=self._model,
            batch_id=facts.batch_id,
            started=facts.started,
            ended=facts.started + facts.seconds,
            rows=facts.rows,
            tokens=facts.tokens,
            padding_tokens=facts.padding_tokens,
            reason=facts.reason.value,
            abandoned=facts.abandoned,
            failures=facts.failures,
        )


@dataclass(frozen=True)
class PlannedModel:
    """A built model, and how it will run.

    Attributes:
        built: The model.
        plan: How it runs; None for a model that generates.
        drift: By which runs are off its plan at present, as far as that is known.
    """

    built: BuiltModel
    plan: EncoderPlan | None
    drift: float = 1.0

    @property
    def digest(self) -> str:
        """See `making.Built`."""
        return self.built.digest


@dataclass(frozen=True)
class _Place:
    """What is kept of an encoder while it has its place.

    Attributes:
        kind: What it must share with a model whose runs should cost the same.
        graph_bytes: Size of its graph.
        plan: How it runs.
        forecast: Its part in the forecast.
    """

    kind: tuple[object, ...]
    graph_bytes: int
    plan: EncoderPlan
    forecast: ModelForecast

    def runs_like(self, subject: Subject) -> bool:
        """Whether the runs of another model should cost what its own cost."""
        return self.kind == _kind(subject) and math.isclose(len(subject.graph), self.graph_bytes, rel_tol=_ALIKE)


class Wiring:
    """Gives every model its place in the scheduler."""

    def __init__(
        self,
        settings: ServerSettings,
        dispatcher: Dispatcher,
        forecast: Forecast,
        metrics: Metrics,
        tracing: Tracing | None,
        cache: ResponseCache | None = None,
    ) -> None:
        """Take what all models share.

        Args:
            settings: The settings.
            dispatcher: Runs their lanes.
            forecast: Predicts their waits.
            metrics: Where their runs are recorded.
            tracing: Told of runs that are traced; None if none is.
            cache: Remembers their answers; None if none is.
        """
        self._settings = settings
        self._dispatcher = dispatcher
        self._forecast = forecast
        self._metrics = metrics
        self._tracing = tracing
        self._cache = cache
        self._shares = FairShares()
        self._run_numbers = itertools.count(1)
        limit = container_limit_bytes() if settings.memory_limit_bytes == AUTO else settings.memory_limit_bytes
        if limit is not None:
            metrics.watch(definitions.MEMORY_LIMIT_BYTES, lambda: float(limit))
        if cache is None:
            self._memory = MemoryPlan(limit)
        else:  # what it holds, and will hold, is kept apart from the models
            left = None if limit is None else limit - cache.max_bytes
            self._memory = MemoryPlan(left, lambda: resident_bytes() - cache.size_bytes)
        self._places: dict[Lane, _Place] = {}
        self._planner = Planner(
            settings,
            metrics,
            self._memory,
            partial(OnnxGraph.load, alone=True),
            RUNTIME_VERSION,
            Calibrator(dispatcher.workers),
            available_cpus(),
        )

    def build(
        self, location: BundleLocation, variant: str, predecessor: ServedModel | None, *, live: bool, tried: str
    ) -> PlannedModel:
        """See `Workshop`."""
        self._memory.look()
        built = build_model(location, variant, self._open_graph, tried, live=live)
        if not isinstance(built.body, Subject):
            return PlannedModel(built, None)
        place = None if predecessor is None else self._places.get(predecessor.lane)
        if place is not None and not place.runs_like(built.body):
            place = None
        try:
            if not live:
                return PlannedModel(built, self._planner.plan(built.body))
            plan = self._planner.plan(built.body, Beside(None if place is None else place.plan.calibration))
        except BundleError as error:
            raise BundleError(f"{location.folder}: {error}") from error
        return PlannedModel(built, plan, 1.0 if place is None else place.forecast.drift)

    def discard(self, model: PlannedModel) -> None:
        """See `Workshop`."""
        if model.plan is not None:
            self._memory.remove(model.plan.share)

    def place(self, model: PlannedModel) -> ServedModel:
        """See `Workshop`."""
        built, counts = model.built, ModelCounts()
        lane = self._open_lane(model, counts)
        setup = built.body.setup if isinstance(built.body, TensorSubject) else None
        if self._cache is not None and (setup is None or setup.cached is not False):
            self._cache.open(lane, built.location.name)
        return ServedModel(
            name=built.location.name,
            version=built.location.version,
            variant=built.variant,
            manifest=built.manifest,
            text_tokenizer=built.tokenizer,
            lane=lane,
            counts=counts,
            signature=built.body.signature
            if isinstance(built.body, TensorSubject)
            else signature_of(built.manifest, self._settings.max_texts),
            setup=setup,
        )

    def remove(self, model: ServedModel) -> None:
        """See `Workshop`."""
        self._dispatcher.remove_lane(model.lane)
        if self._cache is not None:
            self._cache.forget(model.lane)
        if (place := self._places.pop(model.lane, None)) is not None:
            self._memory.remove(place.plan.share)

    def tidy(self) -> None:
        """See `Workshop`."""
        give_freed_memory_back()
        self._memory.look()

    def _open_graph(
        self, name: str, graph: bytes, *, files: Mapping[str, bytes] | None = None, threads: int | None = None
    ) -> Graph:
        return OnnxGraph.load(name, graph, threads or self._settings.effective_threads_per_run, files=files)

    def _open_lane(self, planned: PlannedModel, counts: ModelCounts) -> GenerationLane | EncoderLane | TensorLane:
        name, body = planned.built.location.name, planned.built.body
        if not isinstance(body, Subject):
            return self.open_generation_lane(name, body, counts)
        lane: EncoderLane | TensorLane
        if isinstance(body, TensorSubject):
            lane = self.open_tensor_lane(name, body, counts)
        else:
            lane = self.open_encoder_lane(name, body.model, counts)
        if planned.plan is not None:
            forecast = self._follow(name, lane, planned.plan, planned.drift, "rows" if body.asked.rows else "tokens")
            self._places[lane] = _Place(_kind(body), len(body.graph), planned.plan, forecast)
        return lane

    def open_generation_lane(self, name: str, model: GenerationModel, counts: ModelCounts) -> GenerationLane:
        """Open the lane of a model that generates."""
        observer = _LaneMetrics(self._metrics, self._tracing, name, counts)
        lane = GenerationLane(
            model,
            budget=Budget(self._settings.max_batch_rows, self._settings.generation_batch_tokens),
            workers=self._dispatcher.workers,
            threads=self._settings.effective_threads_per_run,
            batching=self._settings.batching,
            shares=self._shares,
            numbers=self._run_numbers,
            clock=self._dispatcher.clock,
            observer=observer,
            on_failure=observer.failed,
        )
        self._dispatcher.add_lane(lane)
        return lane

    def open_encoder_lane(self, name: str, model: EncoderModel, counts: ModelCounts) -> EncoderLane:
        """Open the lane of an encoder, which runs as nobody has planned yet."""
        lane = self._batch_lane(name, model, counts, self._settings.effective_threads_per_run)
        self._dispatcher.add_lane(lane, lane.wait_for_mates(self._settings.batch_delay_seconds))
        return lane

    def open_tensor_lane(self, name: str, subject: TensorSubject, counts: ModelCounts) -> TensorLane:
        """Open the lane of a model of tensors, which runs as its configuration says, and is not planned yet."""
        setup, threads = subject.setup, self._settings.effective_threads_per_run
        lane = self._batch_lane(name, subject.model, counts, setup.threads or threads)
        lane.sharing = LikeTensors(subject.longest_tokens)
        lane.most_runs = setup.most_runs
        delay = self._settings.batch_delay_seconds if setup.delay_seconds is None else setup.delay_seconds
        self._dispatcher.add_lane(lane, lane.wait_for_mates(delay if subject.signature.joined else 0.0))
        return lane

    def _batch_lane(
        self, name: str, model: BatchModel[Source, Wanted, Values], counts: ModelCounts, threads: int
    ) -> BatchLane[Source, Wanted, Values]:
        observer = _LaneMetrics(self._metrics, self._tracing, name, counts)
        return BatchLane(
            model,
            budget=Budget(self._settings.max_batch_rows, _UNCALIBRATED_TOKENS),
            run_tokens=_UNCALIBRATED_TOKENS,
            batching=self._settings.batching,
            threads=threads,
            shares=self._shares,
            numbers=self._run_numbers,
            clock=self._dispatcher.clock,
            observer=observer,
            on_failure=observer.failed,
        )

    def _follow(
        self, name: str, lane: BatchLane[Any, Any, Any], chosen: EncoderPlan, drift: float, unit: str
    ) -> ModelForecast:
        """Let a model run as its plan says, and have its calls priced."""
        plan, lone_model = chosen.calibration, chosen.lone_model
        self._planner.show(name, plan, unit)
        lane.budget = Budget(self._settings.max_batch_rows, plan.budget_tokens)
        lane.run_tokens = plan.prices.run_tokens
        if lone_model is not None and plan.lone_tokens is not None:
            threads = self._planner.lone_threads
            lane.lone_runs = LoneRuns(lone_model, threads, self._dispatcher.workers, plan.lone_tokens)
        forecast = lane.forecast = self._forecast.model(plan.prices)
        forecast.drift = drift
        return forecast


def _kind(subject: Subject) -> tuple[object, ...]:
    return subject.model.packed, subject.longest_tokens, subject.asked


def watch(metrics: Metrics, catalog: Catalog, admission: Admission, dispatcher: Dispatcher, forecast: Forecast) -> None:
    """Have what the scheduler knows anyway read when it is asked for, instead of being recorded.

    The readers run on other threads: each reads single numbers, or copies.

    Args:
        metrics: What shows it.
        catalog: The models.
        admission: Calls and texts that are held, and how many may be.
        dispatcher: The workers.
        forecast: Waits.
    """

    def drifts() -> dict[str, float]:
        lanes = {model.name: model.lane for model in catalog.all()}
        return {
            name: lane.forecast.drift
            for name, lane in lanes.items()
            if isinstance(lane, BatchLane) and lane.forecast is not None
        }

    metrics.watch(definitions.MODELS_LOADED, lambda: float(len(catalog.all())))
    metrics.watch(definitions.QUEUE_DEPTH, lambda: _summed((each.name, each.lane.waiting) for each in catalog.placed()))
    metrics.watch(
        definitions.RUNNING_TEXTS, lambda: _summed((each.name, each.lane.running) for each in catalog.placed())
    )
    metrics.watch(
        definitions.PREDICTED_WAIT_SECONDS, lambda: dict.fromkeys(drifts(), forecast.wait_seconds(dispatcher.clock()))
    )
    metrics.watch(definitions.COST_CORRECTION, drifts)
    metrics.watch(definitions.CALLS_HELD, lambda: float(admission.calls))
    metrics.watch(definitions.CALLS_LIMIT, lambda: float(admission.max_calls))
    metrics.watch(definitions.WAITING_TEXTS_HELD, lambda: float(admission.texts))
    metrics.watch(definitions.WAITING_TEXTS_LIMIT, lambda: float(admission.max_texts))
    metrics.watch(definitions.WORKERS, lambda: float(dispatcher.workers))
    metrics.watch(definitions.WORKER_BUSY_SECONDS, dispatcher.busy_seconds)


def watch_cache(metrics: Metrics, cache: ResponseCache) -> None:
    """Have what is known of the remembered answers read when it is asked for; as `watch`."""
    metrics.watch(definitions.CACHE_ENTRIES, lambda: float(cache.entries))
    metrics.watch(definitions.CACHE_BYTES, lambda: float(cache.size_bytes))
    metrics.watch(definitions.CACHE_LIMIT_BYTES, lambda: float(cache.max_bytes))
    metrics.watch(definitions.CACHE_EVICTIONS, lambda: float(cache.evicted))


def _summed(counts: Iterable[tuple[str, int]]) -> dict[str, float]:
    """Counts of the versions of each model, together."""
    totals: Counter[str] = Counter()
    for name, count in counts:
        totals[name] += count
    return {name: float(total) for name, total in totals.items()}


def model_facts(models: Sequence[ServedModel]) -> list[ModelFacts]:
    """What the live page is told of the models."""
    return [
        ModelFacts(
            each.name,
            each.task,
            each.lane.budget.tokens if isinstance(each.lane, BatchLane) and each.text_tokenizer else None,
        )
        for each in models
    ]
