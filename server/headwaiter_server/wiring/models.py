"""Models put together: the parts of each are constructed here, planned, and given their place in the scheduler."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

from headwaiter_server.allocator import give_freed_memory_back
from headwaiter_server.batching.lane import BatchLane, EncoderLane, LoneRuns, TensorLane
from headwaiter_server.config import ServerSettings
from headwaiter_server.cpu import available_cpus
from headwaiter_server.errors import BundleError
from headwaiter_server.generation.lane import GenerationLane
from headwaiter_server.lifecycle.building import BuiltModel, build_model
from headwaiter_server.lifecycle.calibration import Calibrator
from headwaiter_server.lifecycle.catalog import ServedModel
from headwaiter_server.lifecycle.generation_plan import GenerationPlan, plan_generation
from headwaiter_server.lifecycle.learning import Beside
from headwaiter_server.lifecycle.memory import MemoryPlan, MemoryShare, memory_limit_bytes, resident_bytes
from headwaiter_server.lifecycle.planning import EncoderPlan, Planner
from headwaiter_server.lifecycle.repository import BundleLocation
from headwaiter_server.lifecycle.signature import signature_of
from headwaiter_server.lifecycle.subject import Subject, TensorSubject
from headwaiter_server.metrics import Metrics, definitions
from headwaiter_server.metrics.statistics import ModelCounts
from headwaiter_server.model.cached import CachedModel
from headwaiter_server.model.contract import Graph
from headwaiter_server.model.onnx import OnnxGraph
from headwaiter_server.model.session import RUNTIME_VERSION
from headwaiter_server.pipeline import ResponseCache
from headwaiter_server.scheduling.dispatcher import Dispatcher, Lane
from headwaiter_server.scheduling.forecast import Forecast, ModelForecast
from headwaiter_server.scheduling.policy import Budget
from headwaiter_server.tracing import Tracing
from headwaiter_server.wiring.lanes import Lanes

# Graphs whose sizes differ by less than about this part are taken to be of one architecture.
_ALIKE = 0.02


@dataclass(frozen=True)
class PlannedModel:
    """A built model, and how it will run.

    Attributes:
        built: The model.
        plan: How it runs.
        drift: By which runs are off its plan at present, as far as that is known.
    """

    built: BuiltModel
    plan: EncoderPlan | GenerationPlan
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
        self._cache = cache
        self.lanes = Lanes(settings, dispatcher, metrics, tracing)
        limit = memory_limit_bytes(settings)
        if limit is not None:
            metrics.watch(definitions.MEMORY_LIMIT_BYTES, lambda: float(limit))
        if cache is None:
            self._memory = MemoryPlan(limit)
        else:  # what it holds, and will hold, is kept apart from the models
            left = None if limit is None else limit - cache.max_bytes
            self._memory = MemoryPlan(left, lambda: resident_bytes() - cache.size_bytes)
        self._places: dict[Lane, _Place] = {}
        self._shares: dict[Lane, MemoryShare] = {}
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
        try:
            if not isinstance(built.body, Subject):
                return PlannedModel(built, self._planned_generation(built, built.body))
            return self._planned(built, built.body, predecessor, live=live)
        except BundleError as error:
            raise error.within(location.folder) from error

    def _planned_generation(self, built: BuiltModel, model: CachedModel) -> GenerationPlan:
        longest, workers = built.manifest.limits.max_source_tokens, self._dispatcher.workers
        return plan_generation(built.location.name, model, longest, self._settings, workers, self._memory)

    def _planned(
        self, built: BuiltModel, subject: Subject, predecessor: ServedModel | None, *, live: bool
    ) -> PlannedModel:
        if not live:
            return PlannedModel(built, self._planner.plan(subject))
        place = None if predecessor is None else self._places.get(predecessor.lane)
        if place is not None and not place.runs_like(subject):
            place = None
        plan = self._planner.plan(subject, Beside(None if place is None else place.plan.measured))
        return PlannedModel(built, plan, 1.0 if place is None else place.forecast.drift)

    def discard(self, model: PlannedModel) -> None:
        """See `Workshop`."""
        self._memory.remove(model.plan.share)

    def place(self, model: PlannedModel) -> ServedModel:
        """See `Workshop`."""
        built, counts = model.built, ModelCounts()
        lane = self._open_lane(model, counts)
        self._shares[lane] = model.plan.share
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
        self._places.pop(model.lane, None)
        self._memory.remove(self._shares.pop(model.lane))

    def tidy(self) -> None:
        """See `Workshop`."""
        give_freed_memory_back()
        self._memory.look()

    def _open_graph(
        self, name: str, graph: bytes, *, files: Mapping[str, bytes] | None = None, threads: int | None = None
    ) -> Graph:
        return OnnxGraph.load(name, graph, threads or self._settings.effective_threads_per_run, files=files)

    def _open_lane(self, planned: PlannedModel, counts: ModelCounts) -> GenerationLane | EncoderLane | TensorLane:
        name, plan = planned.built.location.name, planned.plan
        if isinstance(plan, GenerationPlan):
            return self.lanes.open_generation(name, plan.model, counts, plan.cache_bytes)
        body = cast("Subject", planned.built.body)
        lane: EncoderLane | TensorLane
        if isinstance(body, TensorSubject):
            lane = self.lanes.open_tensor(name, body, counts)
        else:
            lane = self.lanes.open_encoder(name, body.model, counts)
        forecast = self._follow(name, lane, plan, planned.drift, "rows" if body.asked.rows else "tokens")
        self._places[lane] = _Place(_kind(body), len(body.graph), plan, forecast)
        return lane

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
        forecast = lane.forecast = self._forecast.model(replace(plan.prices, most_texts=lane.most_texts))
        forecast.drift = drift
        return forecast


def _kind(subject: Subject) -> tuple[object, ...]:
    return subject.model.packed, subject.longest_tokens, subject.asked
