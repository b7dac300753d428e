"""What the runs of a lane are recorded as: metrics, the Open Inference Protocol's statistics, and traces."""

from __future__ import annotations

from headwaiter_server.batching.task import RunFacts
from headwaiter_server.generation.outcome import IterationFacts
from headwaiter_server.log import get_logger
from headwaiter_server.metrics import Metrics
from headwaiter_server.metrics.statistics import ModelCounts
from headwaiter_server.tracing import TracedRun, Tracing

_log = get_logger(__name__)


class LaneMetrics:
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
        for reason in facts.finish_reasons:
            metrics.generation_ended(model, reason.name.lower())
        if not facts.tokens:  # none are left when every caller has gone
            return
        rows = facts.rows or 1  # that only read a part of a text
        self._counts.ran(rows, facts.seconds)
        metrics.run_finished(
            model,
            seconds=facts.seconds,
            rows=rows,
            tokens=facts.tokens,
            padding_tokens=facts.dummy_rows,
            wait_seconds=facts.wait_seconds,
        )
        metrics.iteration_finished(
            model,
            prefill_tokens=facts.prefill_tokens,
            overhead_seconds=facts.python_seconds,
            copied_bytes=facts.copied_bytes,
            short_of_room=facts.short_of_room,
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
