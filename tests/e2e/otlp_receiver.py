"""A collector of traces: OpenTelemetry's own service, on a real socket, that keeps what it is sent."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

# Generous: a server sends every second, on a machine that may be busy.
_PATIENCE_SECONDS = 30


@dataclass
class Collected:
    """One span, and the resource it came from.

    Attributes:
        span: As it was on the wire.
        resource: Its resource's attributes.
    """

    span: Span
    resource: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.span.name)

    @property
    def trace(self) -> str:
        return str(self.span.trace_id.hex())

    @property
    def id(self) -> str:
        return str(self.span.span_id.hex())

    @property
    def parent(self) -> str:
        return str(self.span.parent_span_id.hex())

    @property
    def links(self) -> set[str]:
        return {link.span_id.hex() for link in self.span.links}

    @property
    def attributes(self) -> dict[str, Any]:
        return _attributes(self.span.attributes)

    @property
    def failed(self) -> bool:
        return bool(self.span.status.code == Status.STATUS_CODE_ERROR)


def _attributes(pairs: Iterable[KeyValue]) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value") or "") for pair in pairs}


@dataclass
class OtlpReceiver(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps every span; refuses them while `broken`."""

    spans: list[Collected] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)
    endpoint: str = ""

    def Export(  # noqa: N802 - the service's name
        self, request: trace_service_pb2.ExportTraceServiceRequest, context: grpc.ServicerContext
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        with self.changed:
            for each in request.resource_spans:
                resource = _attributes(each.resource.attributes)
                self.spans += [Collected(span, resource) for scope in each.scope_spans for span in scope.spans]
            self.changed.notify_all()
        return trace_service_pb2.ExportTraceServiceResponse()

    def of_trace(self, trace: str) -> list[Collected]:
        """Spans of one trace."""
        with self.changed:
            return [span for span in self.spans if span.trace == trace]

    def wait(self, enough: Callable[[list[Collected]], bool]) -> list[Collected]:
        """All spans, as soon as they are enough."""
        with self.changed:
            assert self.changed.wait_for(lambda: enough(self.spans), _PATIENCE_SECONDS), [
                (span.name, span.attributes) for span in self.spans
            ]
            return list(self.spans)


@contextmanager
def otlp_receiver(address: str = "127.0.0.1:0") -> Iterator[OtlpReceiver]:
    """A collector that listens."""
    receiver = OtlpReceiver()
    server = grpc.server(ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(receiver, server)  # type: ignore[no-untyped-call]
    receiver.endpoint = f"http://127.0.0.1:{server.add_insecure_port(address)}"
    server.start()
    try:
        yield receiver
    finally:
        server.stop(None).wait()
