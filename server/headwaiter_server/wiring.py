"""Models put together: the parts of each are constructed here, and joined to the scheduler and the metrics."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial

from headwaiter_server.batching.lane import EncoderLane, LoneRuns
from headwaiter_server.batching.task import RunFacts
from headwaiter_server.config import AUTO, ServerSettings
from headwaiter_server.cpu import available_cpus
from headwaiter_server.generation.lane import GenerationLane
from headwaiter_server.generation.running import IterationFacts
from headwaiter_server.lifecycle.calibration import Calibrator
from headwaiter_server.lifecycle.catalog import Catalog, ServedModel
from headwaiter_server.lifecycle.load import Loader
from headwaiter_server.lifecycle.memory import MemoryPlan, container_limit_bytes
from headwaiter_server.lifecycle.planning import Planner, Subject
from headwaiter_server.log import get_logger
from headwaiter_server.metrics import Metrics, definitions
from headwaiter_server.metrics.situation import ModelFacts
from headwaiter_server.model.contract import EncoderModel, GenerationModel, Graph
from headwaiter_server.model.onnx import RUNTIME_VERSION, OnnxGraph
from headwaiter_server.scheduling.admission import Admission
from headwaiter_server.scheduling.dispatcher import Dispatcher
from headwaiter_server.scheduling.forecast import Forecast
from headwaiter_server.scheduling.policy import Budget
from headwaiter_server.scheduling.shares import FairShares
from headwaiter_server.tracing import TracedRun, Tracing

_log = get_logger(__name__)

# Until a model is calibrated, which is before its first call.
_UNCALIBRATED_TOKENS = 128


class _LaneMetrics:
    """Records a lane's runs under its model's name, and tells of those that are traced."""

    def __init__(self, metrics: Metrics, tracing: Tracing | None, model: str) -> None:
        self._metrics = metrics
        self._tracing = tracing
        self._model = model

    def iteration_finished(self, facts: IterationFacts) -> None:
        """See `Observer`."""
        metrics, model = self._metrics, self._model
        metrics.cpu_spent(model, facts.cpu_seconds)
        if not facts.rows:  # none are left when every caller has gone
            return
        metrics.run_finished(
            model, seconds=facts.seconds, rows=facts.rows, tokens=facts.tokens, wait_seconds=facts.wait_seconds
        )
        for seconds in facts.first_tokens:
            metrics.first_token(model, seconds)
        if facts.next_tokens:
            metrics.next_tokens(model, facts.token_seconds, facts.next_tokens)

    def run_finished(self, facts: RunFacts) -> None:
        """See `batching.lane.Observer`."""
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


class Wiring:
    """Gives every model its place in the scheduler."""

    def __init__(
        self,
        settings: ServerSettings,
        dispatcher: Dispatcher,
        forecast: Forecast,
        metrics: Metrics,
        tracing: Tracing | None,
    ) -> None:
        """Take what all models share.

        Args:
            settings: The settings.
            dispatcher: Runs their lanes.
            forecast: Predicts their waits.
            metrics: Where their runs are recorded.
            tracing: Told of runs that are traced; None if none is.
        """
        self._settings = settings
        self._dispatcher = dispatcher
        self._forecast = forecast
        self._metrics = metrics
        self._tracing = tracing
        self._shares = FairShares()
        self._run_numbers = itertools.count(1)
        limit = container_limit_bytes() if settings.memory_limit_bytes == AUTO else settings.memory_limit_bytes
        if limit is not None:
            metrics.watch(definitions.MEMORY_LIMIT_BYTES, lambda: float(limit))
        self._planner = Planner(
            settings,
            metrics,
            MemoryPlan(limit),
            partial(OnnxGraph.load, alone=True),
            RUNTIME_VERSION,
            Calibrator(dispatcher.workers),
            available_cpus(),
        )

    def loader(self) -> Loader:
        """What loads models into their places."""
        return Loader(
            open_graph=self._open_graph,
            open_generation_lane=self._open_generation_lane,
            open_encoder_lane=self._open_encoder_lane,
            plan_encoder=self._plan_encoder,
        )

    def _open_graph(self, name: str, graph: bytes) -> Graph:
        return OnnxGraph.load(name, graph, self._settings.effective_threads_per_run)

    def _open_generation_lane(self, name: str, model: GenerationModel) -> GenerationLane:
        observer = _LaneMetrics(self._metrics, self._tracing, name)
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

    def _open_encoder_lane(self, name: str, model: EncoderModel) -> EncoderLane:
        observer = _LaneMetrics(self._metrics, self._tracing, name)
        lane = EncoderLane(
            model,
            budget=Budget(self._settings.max_batch_rows, _UNCALIBRATED_TOKENS),
            run_tokens=_UNCALIBRATED_TOKENS,
            batching=self._settings.batching,
            threads=self._settings.effective_threads_per_run,
            shares=self._shares,
            numbers=self._run_numbers,
            clock=self._dispatcher.clock,
            observer=observer,
            on_failure=observer.failed,
        )
        self._dispatcher.add_lane(lane, lane.wait_for_mates(self._settings.batch_delay_seconds))
        return lane

    def _plan_encoder(self, subject: Subject, lane: EncoderLane) -> None:
        """Let a model run as its calibration says, and have its calls priced."""
        plan, lone_model = self._planner.plan(subject)
        lane.budget = Budget(self._settings.max_batch_rows, plan.budget_tokens)
        lane.run_tokens = plan.prices.run_tokens
        if lone_model is not None and plan.lone_tokens is not None:
            threads = self._planner.lone_threads
            lane.lone_runs = LoneRuns(lone_model, threads, self._dispatcher.workers, plan.lone_tokens)
        lane.forecast = self._forecast.model(plan.prices)


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
            if isinstance(lane, EncoderLane) and lane.forecast is not None
        }

    metrics.watch(definitions.QUEUE_DEPTH, lambda: {each.name: float(each.lane.waiting) for each in catalog.all()})
    metrics.watch(definitions.RUNNING_TEXTS, lambda: {each.name: float(each.lane.running) for each in catalog.all()})
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


def model_facts(models: Sequence[ServedModel]) -> list[ModelFacts]:
    """What the live page is told of the models."""
    return [
        ModelFacts(each.name, each.task, each.lane.budget.tokens if isinstance(each.lane, EncoderLane) else None)
        for each in models
    ]
