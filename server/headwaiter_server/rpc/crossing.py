"""One call, or one message of a stream, on its way through the edge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import grpc

from headwaiter_server.errors import InvalidRequestError
from headwaiter_server.metrics import OTHER, CallFacts, Metrics
from headwaiter_server.pipeline import Timings
from headwaiter_server.rpc.status import Metadata
from headwaiter_server.scheduling.calls import DEFAULT_PRIORITY, NO_DEADLINE, Terms
from headwaiter_server.tracing import CallEnd, CallSpan

Context = grpc.aio.ServicerContext[Any, bytes]

PRIORITY_KEY = "headwaiter-priority"
FAIRNESS_KEY = "headwaiter-fairness-key"
MAX_PRIORITY = 16
_MAX_FAIRNESS_KEY_LENGTH = 256
# gRPC sends a deadline with two or three digits, rounded up.
_ROUNDED_PART = 0.01
_ON_THE_WAY_SECONDS = 0.01
# What was spent on a call that ended so was spent for nothing.
_WASTED_AS = {grpc.StatusCode.CANCELLED: "cancelled", grpc.StatusCode.DEADLINE_EXCEEDED: "expired"}


@dataclass(slots=True)
class Crossing:
    """One call on its way through the edge; handlers fill in what they learn.

    Attributes:
        terms: What the caller asked of the scheduler.
        model: The model that answers.
        version: Its version.
        texts: Texts answered.
        tokenize_seconds: See `CallFacts`.
        queue_seconds: See `CallFacts`.
        inference_seconds: See `CallFacts`.
        batch_size: Most texts of any of its runs.
        batch_tokens: Most tokens of any of its runs.
        unreachable: Whether it was refused because it would have been answered too late.
        span: What is told of it, if it is traced.
    """

    terms: Terms
    model: str = OTHER
    version: str = ""
    texts: int = 0
    tokenize_seconds: float | None = None
    queue_seconds: float | None = None
    inference_seconds: float | None = None
    batch_size: int | None = None
    batch_tokens: int | None = None
    unreachable: bool = False
    span: CallSpan | None = None

    def recorded(self, timings: Timings) -> None:
        """Learn where the time went."""
        self.tokenize_seconds = timings.tokenize_seconds
        self.queue_seconds = timings.queue_seconds
        self.inference_seconds = timings.inference_seconds
        self.batch_size = timings.batch_size
        self.batch_tokens = timings.batch_tokens

    def finish(self, method: str, code: grpc.StatusCode, ended: float, metrics: Metrics) -> None:
        """Record the call, once its answer is out.

        Args:
            method: `package.Service/Method`.
            code: How it ended.
            ended: Now, on the scheduler's clock.
            metrics: Where it is recorded.
        """
        metrics.call_finished(
            CallFacts(
                method=method,
                model=self.model,
                version=self.version,
                code=code.name,
                seconds=ended - self.terms.arrived,
                texts=self.texts,
                tokenize_seconds=self.tokenize_seconds,
                queue_seconds=self.queue_seconds,
                inference_seconds=self.inference_seconds,
                deadline_met=self._deadline_met(code, ended),
                trace_id=self.span.trace_id if self.span is not None else None,
            )
        )
        if code is not grpc.StatusCode.OK and (reason := _WASTED_AS.get(code)) is not None:
            model = self.model
            self.terms.spending.write_off(lambda seconds: metrics.cpu_wasted(model, reason=reason, seconds=seconds))
        self._finish_span(code, ended)

    def _deadline_met(self, code: grpc.StatusCode, ended: float) -> bool | None:
        if self.terms.deadline == NO_DEADLINE:
            return None
        if code is grpc.StatusCode.OK:
            return ended <= self.terms.deadline
        return False if self.unreachable or code is grpc.StatusCode.DEADLINE_EXCEEDED else None

    def _finish_span(self, code: grpc.StatusCode, ended: float) -> None:
        """Tell how the call ended, if it is traced."""
        if self.span is None:
            return
        trail = self.terms.trail
        self.span.finish(
            CallEnd(
                ended=ended,
                code=code.name,
                code_number=code.value[0],
                model=self.model,
                version=self.version,
                texts=self.texts,
                tokens=trail.tokens,
                tokenizing=trail.tokenizing,
                tokenized=trail.tokenized,
                submitted=trail.submitted,
                started=trail.started,
                batch_id=trail.batch_id,
                batch_size=self.batch_size,
                batch_tokens=self.batch_tokens,
            )
        )


def cancelled_code(crossing: Crossing, now: float) -> grpc.StatusCode:
    """Why a caller has gone: it cancelled, or its deadline passed and gRPC cancelled for it.

    A client's gRPC cancels by the client's clock: by the way of the call earlier than this server would, and by what
    the deadline was rounded up on the wire.
    """
    allowed = crossing.terms.deadline - crossing.terms.arrived
    late = now - crossing.terms.arrived >= allowed * (1 - _ROUNDED_PART) - _ON_THE_WAY_SECONDS
    return grpc.StatusCode.DEADLINE_EXCEEDED if late else grpc.StatusCode.CANCELLED


def terms_of(started: float, context: Context) -> Terms:
    """What the caller asks of the scheduler, by its deadline and metadata.

    Args:
        started: When the call arrived, on the scheduler's clock.
        context: The call.

    Raises:
        InvalidRequestError: The metadata cannot be understood.
    """
    remaining = context.time_remaining()
    priority, key = DEFAULT_PRIORITY, ""
    for name, value in context.invocation_metadata() or ():
        if name == PRIORITY_KEY:
            priority = _parse_priority(str(value))
        elif name == FAIRNESS_KEY:
            key = str(value)[:_MAX_FAIRNESS_KEY_LENGTH]
    return Terms(started, NO_DEADLINE if remaining is None else started + remaining, priority, key)


def _parse_priority(value: str) -> int:
    # The length first: int() takes its time over thousands of digits, and refuses still more in words of its own.
    digits = len(value) <= len(str(MAX_PRIORITY)) and value.isascii() and value.isdecimal()
    if not digits or not 1 <= int(value) <= MAX_PRIORITY:
        raise InvalidRequestError(
            f"metadata {PRIORITY_KEY}", f"is {value[:20]!r}, expected a whole number from 1 (first) to {MAX_PRIORITY}"
        )
    return int(value)


def known_times(crossing: Crossing, now: float) -> Metadata:
    """What is known of where the time of a call went that fails now, for its trailing metadata.

    Nothing of a call that did not come so far that its texts were tokens.
    """
    trail = crossing.terms.trail
    if trail.tokenizing is None or trail.tokenized is None:
        return ()
    known = {"total": now - crossing.terms.arrived, "tokenize": trail.tokenized - trail.tokenizing}
    if trail.submitted is not None:
        started = now if trail.started is None else trail.started
        known["queue"] = started - trail.submitted
        if trail.started is not None:
            known["inference"] = now - started
    times = tuple((f"headwaiter-{name}-seconds", f"{seconds:.6f}") for name, seconds in known.items())
    return times if trail.batch_id is None else (*times, ("headwaiter-batch-id", str(trail.batch_id)))
