"""Traces by OpenTelemetry, sent to a collector over OTLP. No other file of the server imports it.

Spans are made when what they tell of is over, with the times at which it happened: only a call's own span is opened
when the call arrives, as runs link to it. Sending them is a thread's work.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import ParamSpec, TypeVar

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from headwaiter_server.log import get_logger
from headwaiter_server.tracing.spans import CallEnd, CallSpan, GeneratedText, TracedRun

_log = get_logger(__name__)

_TRACEPARENT = "traceparent"
_TRACESTATE = "tracestate"
_PROPAGATOR = TraceContextTextMapPropagator()

# What waits for the collector: further spans push out the oldest.
_MOST_SPANS = 4096
_EXPORT_SPANS = 512
_EXPORT_EVERY_MILLISECONDS = 1000
_EXPORT_SECONDS = 5
# How often a collector that fails may say so in the log.
_LOG_SECONDS = 60.0

# What OpenTelemetry's conventions for gRPC servers call an error: the others are the caller's.
_SERVER_ERRORS = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})

_SECONDS_TO_NS = 1_000_000_000


P = ParamSpec("P")
R = TypeVar("R")


def _harmless(told: Callable[P, R]) -> Callable[P, R | None]:
    """Let a fault in telling of a call be logged, and be nothing to the call."""

    @functools.wraps(told)
    def tell(*args: P.args, **kwargs: P.kwargs) -> R | None:
        try:
            return told(*args, **kwargs)
        except Exception:  # noqa: BLE001 - logged
            _log.exception("tracing_failed")
            return None

    return tell


def otlp_exporter(endpoint: str) -> SpanExporter:
    """What sends spans to a collector. It connects with the first of them, and again whenever that is needed.

    Args:
        endpoint: `http://HOST:PORT` or `https://HOST:PORT`.
    """
    return OTLPSpanExporter(endpoint, insecure=endpoint.startswith("http://"), timeout=_EXPORT_SECONDS)


class OtelTracing:
    """Implements `Tracing`."""

    def __init__(
        self,
        exporter: SpanExporter,
        sample_ratio: float,
        version: str,
        clock: Callable[[], float],
    ) -> None:
        """Begin to export.

        Args:
            exporter: Where finished spans go, from a thread.
            sample_ratio: Share of the calls without a traceparent that are traced.
            version: The server's.
            clock: The scheduler's clock.
        """
        _limit_log(_LOG_SECONDS)
        self._sample_ratio = sample_ratio
        self._clock = clock
        self._exporter = exporter
        # The resource may be given more attributes, and another name, by OpenTelemetry's own variables.
        resource = Resource.create({"service.version": version, "service.instance.id": str(uuid.uuid4())})
        if str(resource.attributes.get("service.name", "")).startswith("unknown_service"):
            resource = resource.merge(Resource({"service.name": "headwaiter"}))
        self._provider = TracerProvider(sampler=ALWAYS_ON, resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(
            BatchSpanProcessor(
                exporter,
                max_queue_size=_MOST_SPANS,
                max_export_batch_size=_EXPORT_SPANS,
                schedule_delay_millis=_EXPORT_EVERY_MILLISECONDS,
            )
        )
        self.tracer = self._provider.get_tracer("headwaiter", version)

    @_harmless
    def begin(self, method: str, arrived: float, metadata: Iterable[tuple[str, str | bytes]]) -> CallSpan | None:
        """See `Tracing`."""
        headers: dict[str, list[str]] = {}
        for name, value in metadata:
            if name in (_TRACEPARENT, _TRACESTATE):
                headers.setdefault(name, []).append(str(value))
        parent = Context()
        if len(headers.get(_TRACEPARENT, ())) == 1:  # of several nobody can say which one holds
            parent = _PROPAGATOR.extract(headers, parent)
        caller = trace.get_current_span(parent).get_span_context()
        if caller.is_valid:
            if not caller.trace_flags.sampled:
                return None
        elif random.random() >= self._sample_ratio:  # noqa: S311 - no secret
            return None
        return OtelCall(self.tracer, method, arrived, self._to_wall(), parent)

    @_harmless
    def run(self, run: TracedRun, calls: Sequence[CallSpan]) -> None:
        """See `Tracing`."""
        traced = [call for call in calls if isinstance(call, OtelCall)]
        first = min(traced, key=lambda call: call.arrived)
        to_wall = self._to_wall()
        span = self.tracer.start_span(
            f"batch {run.model}",
            # A place in a trace, so that it is found there: that of the call which has been here longest.
            first.context,
            links=[Link(call.span_context) for call in traced],
            start_time=to_wall(run.started),
            attributes={
                "headwaiter.model.name": run.model,
                "headwaiter.batch.id": run.batch_id,
                "headwaiter.batch.size": run.rows,
                "headwaiter.batch.tokens": run.tokens,
                "headwaiter.batch.padding_tokens": run.padding_tokens,
                "headwaiter.batch.close_reason": run.reason,
                "headwaiter.batch.traced_calls": len(traced),
                "headwaiter.batch.abandoned": run.abandoned,
            },
        )
        if run.failures:
            span.set_status(Status(StatusCode.ERROR, f"the model failed on {run.failures} of the texts"))
        span.end(to_wall(run.ended))
        for call in traced:
            call.ran(span.get_span_context(), run.ended)

    async def close(self, timeout_seconds: float) -> None:
        """See `Tracing`."""
        done = threading.Event()

        def close() -> None:
            with suppress(Exception):  # the spans are lost, and the server ends all the same
                self._provider.shutdown()
            done.set()

        # Not on asyncio's pool, whose threads Python would wait for.
        threading.Thread(target=close, name="traces", daemon=True).start()
        if not await asyncio.to_thread(done.wait, timeout_seconds):
            _log.warning("traces_lost", reason="the collector did not take them in time", seconds=timeout_seconds)
            # Some versions wait here for the export that is under way.
            threading.Thread(target=self._exporter.shutdown, name="traces-end", daemon=True).start()

    def _to_wall(self) -> Callable[[float], int]:
        """What turns the scheduler's seconds into nanoseconds of the epoch, now: the two may drift apart."""
        offset = time.time_ns() - int(self._clock() * _SECONDS_TO_NS)
        return lambda seconds: offset + int(seconds * _SECONDS_TO_NS)


class OtelCall:
    """Implements `CallSpan`.

    Attributes:
        arrived: When the call arrived, on the scheduler's clock.
        context: Where its children belong.
        span_context: What links to it say.
    """

    __slots__ = (
        "_generated_tokens",
        "_ran_until",
        "_runs",
        "_span",
        "_texts",
        "_to_wall",
        "_tracer",
        "arrived",
        "context",
        "span_context",
    )

    def __init__(
        self,
        tracer: trace.Tracer,
        method: str,
        arrived: float,
        to_wall: Callable[[float], int],
        parent: Context,
    ) -> None:
        """Open the span.

        Args:
            tracer: What makes spans.
            method: `package.Service/Method`.
            arrived: When the call arrived.
            to_wall: The scheduler's seconds to nanoseconds of the epoch.
            parent: The caller's span, if there is one.
        """
        self._tracer = tracer
        self._to_wall = to_wall
        self._texts = 0
        self._generated_tokens = 0
        self._runs: list[SpanContext] = []
        self._ran_until: float | None = None
        self.arrived = arrived
        service, _, name = method.rpartition("/")
        self._span: Span = tracer.start_span(
            method,
            parent,
            SpanKind.SERVER,
            start_time=to_wall(arrived),
            attributes={"rpc.system": "grpc", "rpc.service": service, "rpc.method": name},
        )
        self.span_context = self._span.get_span_context()
        self.context = trace.set_span_in_context(self._span, Context())

    @property
    def trace_id(self) -> str:
        """See `CallSpan`."""
        return trace.format_trace_id(self.span_context.trace_id)

    def ran(self, run: SpanContext, ended: float) -> None:
        """A run has ended that held some of its texts."""
        self._runs.append(run)
        self._ran_until = max(ended, self._ran_until or ended)

    @_harmless
    def generated(self, text: GeneratedText) -> None:
        """See `CallSpan`."""
        self._texts += 1
        self._generated_tokens += text.generated_tokens
        self._ran_until = max(text.ended, self._ran_until or text.ended)
        attributes: dict[str, AttributeValue] = {
            "headwaiter.text.index": text.index,
            "headwaiter.source_tokens": text.source_tokens,
            "headwaiter.generated_tokens": text.generated_tokens,
            "headwaiter.finish_reason": text.finish_reason,
            "headwaiter.batch.id": text.batch_id,
            "headwaiter.batch.size": text.batch_size,
            "headwaiter.rows": text.rows,
        }
        if text.prefilled is not None:
            attributes["headwaiter.prefill_seconds"] = text.prefilled - text.started
        if text.first_token is not None:
            attributes["headwaiter.first_token_seconds"] = text.first_token - self.arrived
        moments = {"prefilled": text.prefilled, "first token": text.first_token}
        self._child("generate", text.started, text.ended, attributes, moments=moments)

    @_harmless
    def finish(self, end: CallEnd) -> None:
        """See `CallSpan`."""
        self._tell_stages(end)
        known: dict[str, AttributeValue | None] = {
            "rpc.grpc.status_code": end.code_number,
            "headwaiter.model.name": end.model,
            "headwaiter.model.version": end.version,
            "headwaiter.texts": end.texts,
            "headwaiter.source_tokens": end.tokens,
            "headwaiter.generated_tokens": self._generated_tokens if self._texts else None,
            "headwaiter.batch.id": end.batch_id,
            "headwaiter.batch.size": end.batch_size,
            "headwaiter.batch.tokens": end.batch_tokens,
        }
        self._span.set_attributes({name: value for name, value in known.items() if value is not None})
        if end.code in _SERVER_ERRORS:
            self._span.set_attribute("error.type", end.code)
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end(self._to_wall(end.ended))

    def _tell_stages(self, end: CallEnd) -> None:
        if end.tokenizing is not None and end.tokenized is not None:
            self._child("tokenize", end.tokenizing, end.tokenized)
            self._span.set_attribute("headwaiter.tokenize_seconds", end.tokenized - end.tokenizing)
        if end.submitted is None:
            return
        # What never ran has waited to the end.
        started = end.ended if end.started is None else end.started
        self._child("queue", end.submitted, started)
        self._span.set_attribute("headwaiter.queue_seconds", started - end.submitted)
        if end.started is None:
            return
        # Of a run that the caller did not stay for, nobody knows when it ended.
        finished = self._ran_until if end.code == "OK" and self._ran_until is not None else end.ended
        self._span.set_attribute("headwaiter.inference_seconds", finished - started)
        if end.code != "OK" or not self._texts:
            self._child("inference", started, finished, links=[Link(run) for run in self._runs])

    def _child(
        self,
        name: str,
        started: float,
        ended: float,
        attributes: dict[str, AttributeValue] | None = None,
        links: Sequence[Link] = (),
        moments: Mapping[str, float | None] = MappingProxyType({}),
    ) -> None:
        span = self._tracer.start_span(
            name, self.context, attributes=attributes, links=links, start_time=self._to_wall(started)
        )
        for moment, at in moments.items():
            if at is not None:
                span.add_event(moment, timestamp=self._to_wall(at))
        span.end(self._to_wall(ended))


class _Limited(logging.Handler):
    """Passes on what each part of OpenTelemetry says, of a collector that fails for example, one line now and then."""

    def __init__(self, every_seconds: float) -> None:
        super().__init__(logging.WARNING)
        self._every_seconds = every_seconds
        self._last: dict[str, float] = {}
        self._held_back: Counter[str] = Counter()

    def emit(self, record: logging.LogRecord) -> None:
        if record.created - self._last.get(record.name, 0.0) < self._every_seconds:
            self._held_back[record.name] += 1
            return
        self._last[record.name] = record.created
        left_out = self._held_back.pop(record.name, 0)
        _log.warning("tracing_trouble", source=record.name, reason=record.getMessage(), lines_left_out=left_out)


def _limit_log(every_seconds: float) -> None:
    logger = logging.getLogger("opentelemetry")
    logger.propagate = False
    logger.handlers = [_Limited(every_seconds)]
