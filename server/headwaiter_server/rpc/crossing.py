"""One call, or one message of a stream, on its way through the edge."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import grpc

from headwaiter_server.access.clients import Client
from headwaiter_server.access.roles import Role
from headwaiter_server.errors import InvalidRequestError, NotAllowedError
from headwaiter_server.lifecycle.catalog import ServedModel
from headwaiter_server.log import get_logger
from headwaiter_server.metrics import OTHER, CallFacts, Metrics
from headwaiter_server.metrics.statistics import ModelCounts
from headwaiter_server.pipeline import Timings
from headwaiter_server.rpc.status import Metadata
from headwaiter_server.scheduling.calls import DEFAULT_PRIORITY, NO_DEADLINE, Terms
from headwaiter_server.tracing import CallEnd, CallSpan

_log = get_logger(__name__)

Context = grpc.aio.ServicerContext[Any, bytes]

PRIORITY_KEY = "headwaiter-priority"
FAIRNESS_KEY = "headwaiter-fairness-key"
# In the trailing metadata of a good answer: how many of its texts, or rows, were remembered or computed for others.
CACHE_HITS_KEY = "headwaiter-cache-hits"
MAX_PRIORITY = 16
_FIRST_PIECE = "first-token"
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
        counts: What the model has done, where this call asks it for inference.
        rows: Rows asked for: texts, or those of the tensors; 0 of a call that asks for no inference.
        texts: Texts answered.
        tokenize_seconds: See `CallFacts`.
        queue_seconds: See `CallFacts`.
        inference_seconds: See `CallFacts`.
        batch_size: Most texts of any of its runs.
        batch_tokens: Most tokens of any of its runs.
        unreachable: Whether it was refused because it would have been answered too late.
        span: What is told of it, if it is traced.
        client: Who calls; None where everybody may.
        paid: Whether it was counted against that client's quota of calls, of a message of a stream.
        paid_texts: Likewise, its texts against that of texts.
        trailers: What its trailing metadata says when it is answered well.
    """

    terms: Terms
    model: str = OTHER
    version: str = ""
    counts: ModelCounts | None = None
    rows: int = 0
    texts: int = 0
    tokenize_seconds: float | None = None
    queue_seconds: float | None = None
    inference_seconds: float | None = None
    batch_size: int | None = None
    batch_tokens: int | None = None
    unreachable: bool = False
    span: CallSpan | None = None
    client: Client | None = None
    paid: bool = False
    paid_texts: bool = False
    trailers: Metadata = ()

    def recognize(self, model: ServedModel, rows: int = 0) -> None:
        """Learn who is asked for how many rows, so that also a call that fails is recorded under it.

        Args:
            model: The model.
            rows: Rows that it is to infer; 0 if the call asks for something else.
        """
        self.model, self.version = model.name, str(model.version)
        self.counts, self.rows = model.counts, rows

    def hurry(self, timeout_seconds: float | None, priority: int) -> None:
        """Learn what the request itself asks of the scheduler; before anything is done for it.

        Args:
            timeout_seconds: For how long the answer is wanted, if that is shorter than the call may take; None if the
                request does not say.
            priority: In place of the metadata's; 0 if the request does not say.
        """
        terms = self.terms
        deadline = NO_DEADLINE if timeout_seconds is None else terms.arrived + timeout_seconds
        if self.client is not None and priority:
            priority = max(priority, self.client.highest_priority)
        self.terms = replace(terms, deadline=min(deadline, terms.deadline), priority=priority or terms.priority)
        self.terms.trail.span = self.span

    def require(self, role: Role, what: str) -> None:
        """Have only clients do something that have a role.

        Args:
            role: The role.
            what: What it is for.

        Raises:
            NotAllowedError: Who calls has it not.
        """
        if self.client is not None and role not in self.client.roles:
            raise NotAllowedError(f"the client {self.client.name} may not {what}: that takes the role {role}")

    def recorded(self, timings: Timings) -> None:
        """Learn where the time went."""
        self.tokenize_seconds = timings.tokenize_seconds
        self.queue_seconds = timings.queue_seconds
        self.inference_seconds = timings.inference_seconds
        self.batch_size = timings.batch_size
        self.batch_tokens = timings.batch_tokens

    def finish(self, method: str, code: grpc.StatusCode, ended: float, metrics: Metrics) -> None:
        """Record the call, once its answer is out. A fault in that is logged, and is nothing to the call.

        Args:
            method: `package.Service/Method`.
            code: How it ended.
            ended: Now, on the scheduler's clock.
            metrics: Where it is recorded.
        """
        try:
            seconds = ended - self.terms.arrived
            if self.rows:
                self._count(code, seconds, ended)
            metrics.call_finished(
                CallFacts(
                    method=method,
                    model=self.model,
                    version=self.version,
                    code=code.name,
                    seconds=seconds,
                    texts=self.texts,
                    tokenize_seconds=self.tokenize_seconds,
                    queue_seconds=self.queue_seconds,
                    inference_seconds=self.inference_seconds,
                    deadline_met=self._deadline_met(code, ended),
                    trace_id=self.span.trace_id if self.span is not None else None,
                    client=self.client.name if self.client is not None else None,
                )
            )
            if code is not grpc.StatusCode.OK and (reason := _WASTED_AS.get(code)) is not None:
                model = self.model
                self.terms.spending.write_off(lambda seconds: metrics.cpu_wasted(model, reason=reason, seconds=seconds))
            self._finish_span(code, ended)
        except Exception:  # noqa: BLE001 - the call has its answer, and gRPC would tell its caller of this
            _log.exception("recording_failed", method=method)

    def _count(self, code: grpc.StatusCode, seconds: float, ended: float) -> None:
        """Count a call that asked for inference among those of its model."""
        counts, trail = self.counts, self.terms.trail
        if counts is None:
            return
        if code is not grpc.StatusCode.OK:
            counts.failed(seconds)
            return
        submitted, started, answered = trail.submitted, trail.started, trail.answered
        if submitted is None or started is None or answered is None:  # nothing had to run for it
            counts.remembered(seconds)
            return
        counts.answered(self.rows - trail.cache_hits, self.terms.arrived, submitted, started, answered, ended)
        if trail.cache_misses:
            counts.cache_miss.add(submitted - (submitted if trail.tokenized is None else trail.tokenized))

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


def terms_of(started: float, context: Context, client: Client | None = None) -> Terms:
    """What the caller asks of the scheduler, by its deadline and metadata.

    Args:
        started: When the call arrived, on the scheduler's clock.
        context: The call.
        client: Who calls. Its fair share is its own, whatever key the metadata has, and its level is bounded.

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
    deadline = NO_DEADLINE if remaining is None else started + remaining
    if client is None:
        return Terms(started, deadline, priority, key)
    return Terms(started, deadline, max(priority, client.highest_priority), client.name, client.weight)


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
    if trail.first_token is not None:
        known[_FIRST_PIECE] = trail.first_token - crossing.terms.arrived
    times = tuple((f"headwaiter-{name}-seconds", f"{seconds:.6f}") for name, seconds in known.items())
    return times if trail.batch_id is None else (*times, ("headwaiter-batch-id", str(trail.batch_id)))


def first_token_trailers(crossing: Crossing) -> Metadata:
    """When the first piece was there of a call that is told of pieces, for its trailing metadata."""
    first, arrived = crossing.terms.trail.first_token, crossing.terms.arrived
    return () if first is None else ((f"headwaiter-{_FIRST_PIECE}-seconds", f"{first - arrived:.6f}"),)


def timing_trailers(timings: Timings, total_seconds: float) -> Metadata:
    """Where the time of a call went that is answered well, for its trailing metadata.

    Args:
        timings: What the pipeline knows.
        total_seconds: From the server's first sight of the call.
    """
    return (
        ("headwaiter-total-seconds", f"{total_seconds:.6f}"),
        ("headwaiter-tokenize-seconds", f"{timings.tokenize_seconds:.6f}"),
        ("headwaiter-queue-seconds", f"{timings.queue_seconds:.6f}"),
        ("headwaiter-inference-seconds", f"{timings.inference_seconds:.6f}"),
        ("headwaiter-batch-size", str(timings.batch_size)),
        ("headwaiter-batch-tokens", str(timings.batch_tokens)),
        ("headwaiter-batch-id", str(timings.batch_id)),
    )
