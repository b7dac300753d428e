"""The edge every call crosses: clock, deadline, admission before parsing, errors to statuses, recording."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import grpc

from headwaiter_server.errors import InvalidRequestError
from headwaiter_server.metrics import OTHER, CallFacts, Metrics
from headwaiter_server.rpc.status import status_of
from headwaiter_server.scheduling.admission import Admission, Permit
from headwaiter_server.scheduling.calls import DEFAULT_PRIORITY, NO_DEADLINE, Terms

Context = grpc.aio.ServicerContext[bytes, bytes]
UnaryHandler = Callable[[bytes, Context], Awaitable[bytes]]

PRIORITY_KEY = "headwaiter-priority"
FAIRNESS_KEY = "headwaiter-fairness-key"
MAX_PRIORITY = 16
_MAX_FAIRNESS_KEY_LENGTH = 256


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


Method = Callable[[bytes, Permit, Crossing], Awaitable[bytes]]


class Edge:
    """Wraps methods into handlers."""

    def __init__(self, admission: Admission, metrics: Metrics, clock: Callable[[], float] = time.monotonic) -> None:
        """Set up.

        Args:
            admission: Gives permits.
            metrics: Where calls are recorded.
            clock: The scheduler's clock.
        """
        self._admission = admission
        self._metrics = metrics
        self.clock = clock

    def unary(self, name: str, method: Method) -> UnaryHandler:
        """A gRPC handler for a method on raw bytes.

        Args:
            name: `package.Service/Method`, for metrics.
            method: Parses, computes, serializes; what it raises becomes a status.
        """

        async def handle(request: bytes, context: Context) -> bytes:
            started = self.clock()
            crossing = Crossing(Terms(started))
            code = grpc.StatusCode.OK
            self._metrics.call_started(name)
            try:
                with self._admission.admit(len(request)) as permit:
                    crossing.terms = _terms(started, context)
                    return await method(request, permit, crossing)
            except asyncio.CancelledError:
                # The caller has gone: it cancelled, or its deadline passed and gRPC cancelled for it.
                expired = self.clock() >= crossing.terms.deadline
                code = grpc.StatusCode.DEADLINE_EXCEEDED if expired else grpc.StatusCode.CANCELLED
                raise
            except Exception as error:
                status = status_of(error)
                code = status.code
                await context.abort(code, status.message, status.trailers)
                raise  # abort never returns
            finally:
                self._metrics.call_finished(_facts(name, crossing, code, self.clock() - started))

        return handle


def _terms(started: float, context: Context) -> Terms:
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


def _facts(method: str, crossing: Crossing, code: grpc.StatusCode, seconds: float) -> CallFacts:
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
