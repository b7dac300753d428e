"""Models put together: the parts of each are constructed here, and joined to the scheduler and the metrics."""

from __future__ import annotations

import itertools
from functools import partial

from headwaiter_server.batching.lane import EncoderLane, LoneRuns
from headwaiter_server.batching.task import RunFacts
from headwaiter_server.config import AUTO, ServerSettings
from headwaiter_server.cpu import available_cpus
from headwaiter_server.generation.lane import GenerationLane
from headwaiter_server.generation.running import IterationFacts
from headwaiter_server.lifecycle.calibration import Calibrator
from headwaiter_server.lifecycle.load import Loader
from headwaiter_server.lifecycle.memory import MemoryPlan, container_limit_bytes
from headwaiter_server.lifecycle.planning import Planner, Subject
from headwaiter_server.log import get_logger
from headwaiter_server.metrics import Metrics
from headwaiter_server.model.contract import EncoderModel, GenerationModel, Graph
from headwaiter_server.model.onnx import RUNTIME_VERSION, OnnxGraph
from headwaiter_server.scheduling.dispatcher import Dispatcher
from headwaiter_server.scheduling.forecast import Forecast
from headwaiter_server.scheduling.policy import Budget
from headwaiter_server.scheduling.shares import FairShares

_log = get_logger(__name__)

# Until a model is calibrated, which is before its first call.
_UNCALIBRATED_TOKENS = 128


class _LaneMetrics:
    """Records a lane's iterations under its model's name."""

    def __init__(self, metrics: Metrics, model: str) -> None:
        self._metrics = metrics
        self._model = model

    def iteration_finished(self, facts: IterationFacts) -> None:
        """See `Observer`."""
        if facts.rows:  # none are left when every caller has gone
            self._metrics.run_finished(self._model, seconds=facts.seconds, rows=facts.rows, tokens=facts.tokens)

    def run_finished(self, facts: RunFacts) -> None:
        """See `batching.lane.Observer`."""
        self._metrics.run_finished(self._model, seconds=facts.seconds, rows=facts.rows, tokens=facts.tokens)
        self._metrics.batch_closed(self._model, reason=facts.reason.value, padding_tokens=facts.padding_tokens)

    def failed(self, error: BaseException) -> None:
        """Log and count what the engine raised."""
        _log.error("engine_failed", model=self._model, exc_info=error)
        self._metrics.engine_failed(self._model)


class Wiring:
    """Gives every model its place in the scheduler."""

    def __init__(self, settings: ServerSettings, dispatcher: Dispatcher, forecast: Forecast, metrics: Metrics) -> None:
        """Take what all models share.

        Args:
            settings: The settings.
            dispatcher: Runs their lanes.
            forecast: Predicts their waits.
            metrics: Where their runs are recorded.
        """
        self._settings = settings
        self._dispatcher = dispatcher
        self._forecast = forecast
        self._metrics = metrics
        self._shares = FairShares()
        self._run_numbers = itertools.count(1)
        limit = container_limit_bytes() if settings.memory_limit_bytes == AUTO else settings.memory_limit_bytes
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
        observer = _LaneMetrics(self._metrics, name)
        lane = GenerationLane(
            model,
            budget=Budget(self._settings.max_batch_rows, self._settings.generation_batch_tokens),
            workers=self._dispatcher.workers,
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
        observer = _LaneMetrics(self._metrics, name)
        lane = EncoderLane(
            model,
            budget=Budget(self._settings.max_batch_rows, _UNCALIBRATED_TOKENS),
            run_tokens=_UNCALIBRATED_TOKENS,
            batching=self._settings.batching,
            shares=self._shares,
            numbers=self._run_numbers,
            clock=self._dispatcher.clock,
            observer=observer,
            on_failure=observer.failed,
        )
        self._dispatcher.add_lane(lane)
        return lane

    def _plan_encoder(self, subject: Subject, lane: EncoderLane) -> None:
        """Let a model run as its calibration says, and have its calls priced."""
        plan, lone_model = self._planner.plan(subject)
        lane.budget = Budget(self._settings.max_batch_rows, plan.budget_tokens)
        lane.run_tokens = plan.prices.run_tokens
        if lone_model is not None and plan.lone_tokens is not None:
            lane.lone_runs = LoneRuns(lone_model, self._dispatcher.workers, plan.lone_tokens)
        lane.forecast = self._forecast.model(plan.prices)
