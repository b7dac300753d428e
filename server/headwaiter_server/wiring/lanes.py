"""Lanes opened: how the runs of each kind of model are put together, joined to the scheduler and the metrics."""

from __future__ import annotations

import itertools

from headwaiter_server.batching.lane import BatchLane, EncoderLane, TensorLane
from headwaiter_server.batching.sharing import LikeTensors
from headwaiter_server.config import ServerSettings
from headwaiter_server.generation.lane import GenerationLane
from headwaiter_server.lifecycle.subject import TensorSubject
from headwaiter_server.metrics import Metrics
from headwaiter_server.metrics.statistics import ModelCounts
from headwaiter_server.model.contract import BatchModel, EncoderModel, Source, Values, Wanted
from headwaiter_server.model.generation import GenerationModel
from headwaiter_server.scheduling.dispatcher import Dispatcher
from headwaiter_server.scheduling.policy import Budget
from headwaiter_server.scheduling.shares import FairShares
from headwaiter_server.tracing import Tracing
from headwaiter_server.wiring.recording import LaneMetrics

# Until a model is calibrated, which is before its first call.
_UNCALIBRATED_TOKENS = 128


class Lanes:
    """Opens the lane of every model, which runs as nobody has planned yet."""

    def __init__(
        self, settings: ServerSettings, dispatcher: Dispatcher, metrics: Metrics, tracing: Tracing | None
    ) -> None:
        """Take what all lanes share.

        Args:
            settings: The settings.
            dispatcher: Runs them.
            metrics: Where their runs are recorded.
            tracing: Told of runs that are traced; None if none is.
        """
        self._settings = settings
        self._dispatcher = dispatcher
        self._metrics = metrics
        self._tracing = tracing
        self._shares = FairShares()
        self._run_numbers = itertools.count(1)

    def open_generation(
        self, name: str, model: GenerationModel, counts: ModelCounts, cache_bytes: int | None = None
    ) -> GenerationLane:
        """Open the lane of a model that generates; its texts may keep so much, and as much as they could without it."""
        observer = LaneMetrics(self._metrics, self._tracing, name, counts)
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
            cache_bytes=cache_bytes,
        )
        self._dispatcher.add_lane(lane)
        return lane

    def open_encoder(self, name: str, model: EncoderModel, counts: ModelCounts) -> EncoderLane:
        """Open the lane of an encoder, which runs as nobody has planned yet."""
        lane = self._batch_lane(name, model, counts, self._settings.effective_threads_per_run)
        self._dispatcher.add_lane(lane, lane.wait_for_mates(self._settings.batch_delay_seconds))
        return lane

    def open_tensor(self, name: str, subject: TensorSubject, counts: ModelCounts) -> TensorLane:
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
        observer = LaneMetrics(self._metrics, self._tracing, name, counts)
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
