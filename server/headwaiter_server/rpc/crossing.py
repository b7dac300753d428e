"""One call, or one message of a stream, on its way through the edge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import grpc

from headwaiter_server.errors import InvalidRequestError
from headwaiter_server.metrics import OTHER, CallFacts
from headwaiter_server.pipeline import Timings
from headwaiter_server.scheduling.calls import DEFAULT_PRIORITY, NO_DEADLINE, Terms

Context = grpc.aio.ServicerContext[Any, bytes]

PRIORITY_KEY = "headwaiter-priority"
FAIRNESS_KEY = "headwaiter-fairness-key"
MAX_PRIORITY = 16
_MAX_FAIRNESS_KEY_LENGTH = 256
# gRPC sends a deadline with two or three digits, rounded up.
_ROUNDED_PART = 0.01
_ON_THE_WAY_SECONDS = 0.01


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
    """

    terms: Terms
    model: str = OTHER
    version: str = ""
    texts: int = 0
    tokenize_seconds: float | None = None
    queue_seconds: float | None = None
    inference_seconds: float | None = None

    def recorded(self, timings: Timings) -> None:
        """Learn where the time went."""
        self.tokenize_seconds = timings.tokenize_seconds
        self.queue_seconds = timings.queue_seconds
        self.inference_seconds = timings.inference_seconds


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


def facts_of(method: str, crossing: Crossing, code: grpc.StatusCode, seconds: float) -> CallFacts:
    """What is recorded of a call when its answer is out."""
    return CallFacts(
        method=method,
        model=crossing.model,
        version=crossing.version,
        code=code.name,
        seconds=seconds,
        texts=crossing.texts,
        tokenize_seconds=crossing.tokenize_seconds,
        queue_seconds=crossing.queue_seconds,
        inference_seconds=crossing.inference_seconds,
    )
