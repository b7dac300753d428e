"""Metadata that calls carry: the caller's own, and the trace that it is in."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest
from headwaiter import AsyncClient, Client
from headwaiter.trace_context import current_trace
from headwaiter_proto.v1 import inference_pb2
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import grpc
    from unit.client.scripted_server import ScriptedServer

TRACER = TracerProvider(shutdown_on_exit=False).get_tracer("caller")


@pytest.fixture
def seen() -> list[dict[str, Any]]:
    return []


@pytest.fixture
def target(serve: Callable[..., ScriptedServer], seen: list[dict[str, Any]]) -> str:
    """A server that notes the metadata it is sent."""

    def note(context: grpc.ServicerContext) -> None:
        seen.append(dict(tuple(context.invocation_metadata())))

    def generate(raw: bytes, context: grpc.ServicerContext) -> bytes:
        note(context)
        return inference_pb2.GenerateResponse().SerializeToString()

    def embed_stream(raw: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        note(context)
        for _ in raw:
            yield inference_pb2.EmbedStreamResponse().SerializeToString()

    return serve({"Generate": generate}, streams={"EmbedStream": embed_stream}).target


async def test_calls_carry_the_current_span(target: str, seen: list[dict[str, Any]]) -> None:
    """Both clients, by calls and by streams, name the span in which they are called."""
    with Client(target) as client, TRACER.start_as_current_span("work") as span:
        client.generate("a")
        list(client.embed_stream(["a"]))
        async with AsyncClient(target) as client_too:
            await client_too.generate("a")
            assert len([each async for each in client_too.embed_stream(["a"])]) == 1
    context = span.get_span_context()
    expected = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
    assert [metadata.get("traceparent") for metadata in seen] == [expected] * 4
    assert not any("tracestate" in metadata for metadata in seen)


def test_state_and_flags_go_with_it() -> None:
    """The state that other tracers left is passed on, and a trace that is not sampled is said not to be."""
    state = TraceState([("vendor", "1"), ("other", "2")])
    span = NonRecordingSpan(SpanContext(1, 2, is_remote=False, trace_flags=TraceFlags(0), trace_state=state))
    with trace.use_span(span):
        assert current_trace() == (
            ("traceparent", f"00-{1:032x}-{2:016x}-00"),
            ("tracestate", "vendor=1,other=2"),
        )


def test_no_span_is_no_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside of any span, and in a process without OpenTelemetry, or that is about to load it."""
    assert current_trace() == ()
    with TRACER.start_as_current_span("work"):
        monkeypatch.delattr("opentelemetry.trace.get_current_span")
        assert current_trace() == ()
        monkeypatch.delitem(sys.modules, "opentelemetry.trace")
        assert current_trace() == ()


async def test_calls_carry_their_own_metadata(target: str, seen: list[dict[str, Any]]) -> None:
    """What is given with a call goes with that call only; a traceparent among it stands for the current span."""
    mine = {"headwaiter-priority": "1", "traceparent": f"00-{5:032x}-{6:016x}-01"}
    with Client(target) as client, TRACER.start_as_current_span("work"):
        client.generate("a", metadata=mine)
        list(client.embed_stream(["a"], metadata=mine))
        client.generate("a")
        async with AsyncClient(target) as client_too:
            await client_too.generate("a", metadata={"headwaiter-priority": "1"})
    assert [mine.items() <= metadata.items() for metadata in seen] == [True, True, False, False]
    assert seen[3]["headwaiter-priority"] == "1"
    assert seen[3]["traceparent"] == seen[2]["traceparent"] != mine["traceparent"]


@pytest.mark.parametrize(
    ("metadata", "named"),
    [
        ({"Upper": "a"}, "Upper"),
        ({"": "a"}, "''"),
        ({"grpc-timeout": "1S"}, "grpc-timeout"),
        ({"a-bin": "a"}, "a-bin"),
        ({"a": "é"}, "printable"),
        ({"a": "b\n"}, "printable"),
    ],
)
def test_metadata_that_grpc_does_not_take_is_named(target: str, metadata: dict[str, str], named: str) -> None:
    """Before anything is sent, in words that say which."""
    with Client(target) as client, pytest.raises(ValueError, match=named):
        client.generate("a", metadata=metadata)
