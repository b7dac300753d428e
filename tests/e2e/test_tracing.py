"""Traces of a real server, as a real collector receives them."""

from __future__ import annotations

import asyncio
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from headwaiter import AsyncClient, Client, InvalidRequestError
from opentelemetry.sdk.trace import TracerProvider

from .otlp_receiver import Collected, OtlpReceiver, otlp_receiver
from .process import ServerProcess, running_server

SERVICE = "headwaiter.v1.InferenceService"
OPENMETRICS = "application/openmetrics-text"
CALLER = "b7ad6b7169203331"


def traceparent(number: int, *, sampled: bool = True) -> dict[str, str]:
    return {"traceparent": f"00-{trace(number)}-{CALLER}-0{int(sampled)}"}


def trace(number: int) -> str:
    return f"{number:032x}"


@pytest.fixture(scope="module")
def collector() -> Iterator[OtlpReceiver]:
    with otlp_receiver() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def server(models_dir: Path, collector: OtlpReceiver) -> Iterator[ServerProcess]:
    """A server that traces those of its callers that do."""
    options = ["--otlp-endpoint", collector.endpoint, "--trace-sample-ratio", "0", "--lame-duck-seconds", "0"]
    with running_server("--models", str(models_dir), *options) as process:
        yield process


@pytest.fixture(scope="module")
def encoders(encoders_dir: Path, collector: OtlpReceiver) -> Iterator[ServerProcess]:
    """The same with encoders, one worker, and fewer tokens in a run than a call of many texts has.

    Texts wait for mates until a run is full, so that calls share runs however far apart they come in.
    """
    options = ["--otlp-endpoint", collector.endpoint, "--trace-sample-ratio", "0", "--lame-duck-seconds", "0"]
    options += ["--workers", "1", "--max-batch-tokens", "64", "--batch-delay-seconds", "1", "--calibration", "off"]
    with running_server("--models", str(encoders_dir), *options) as process:
        yield process


def ended(number: int, method: str, count: int = 1) -> Callable[[list[Collected]], bool]:
    """Whether so many calls of a trace have been told of: a call's own span comes after all that is below it."""
    name = f"{SERVICE}/{method}"
    return lambda spans: sum(span.trace == trace(number) and span.name == name for span in spans) >= count


def by_name(spans: list[Collected]) -> dict[str, list[Collected]]:
    names: dict[str, list[Collected]] = {}
    for span in spans:
        names.setdefault(span.name, []).append(span)
    return names


def test_generation_in_the_callers_trace(server: ServerProcess, collector: OtlpReceiver) -> None:
    """The current span of a caller who uses OpenTelemetry is the parent of what the server tells of its call."""
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("caller")
    with Client(server.grpc) as client, tracer.start_as_current_span("my work") as span:
        reply = client.generate(["onomatopoeia", "word"])
    caller = span.get_span_context()
    collector.wait(lambda spans: any(each.trace == f"{caller.trace_id:032x}" and each.parent for each in spans))
    collector.wait(ended(caller.trace_id, "Generate"))
    told = by_name(collector.of_trace(f"{caller.trace_id:032x}"))
    (call,) = told[f"{SERVICE}/Generate"]
    assert call.parent == f"{caller.span_id:016x}"
    assert call.resource["service.name"] == "headwaiter"
    tokens = [len(each.token_ids) for each in reply.generations]
    assert call.attributes["headwaiter.generated_tokens"] == sum(tokens)
    assert call.attributes["headwaiter.batch.id"] == reply.timings.batch_id
    assert set(told) == {call.name, "tokenize", "queue", "generate"}
    assert {each.attributes["headwaiter.text.index"]: each for each in told["generate"]}.keys() == {0, 1}
    assert sorted(each.attributes["headwaiter.generated_tokens"] for each in told["generate"]) == sorted(tokens)
    for text in told["generate"]:
        assert text.attributes["headwaiter.finish_reason"] == "end_of_sequence"
        moments = [text.span.start_time_unix_nano, *(event.time_unix_nano for event in text.span.events)]
        assert [event.name for event in text.span.events] == ["prefilled", "first token"]
        assert moments == sorted(moments)
        assert moments[-1] <= text.span.end_time_unix_nano
        assert 0 < text.attributes["headwaiter.first_token_seconds"] < reply.timings.total_seconds
    for each in [*told["tokenize"], *told["queue"], *told["generate"]]:
        assert each.parent == call.id
        assert call.span.start_time_unix_nano <= each.span.start_time_unix_nano
        assert each.span.end_time_unix_nano <= call.span.end_time_unix_nano
    (queue,) = told["queue"]
    waited = (queue.span.end_time_unix_nano - queue.span.start_time_unix_nano) / 1e9
    assert waited == pytest.approx(reply.timings.queue_seconds, abs=1e-5)


def test_failed_call_is_told_with_its_status(server: ServerProcess, collector: OtlpReceiver) -> None:
    """A call that is refused is a span as well, with the status that the caller saw."""
    with Client(server.grpc) as client, pytest.raises(InvalidRequestError):
        client.generate("not a word", metadata=traceparent(0xBAD))
    collector.wait(ended(0xBAD, "Generate"))
    (call,) = collector.of_trace(trace(0xBAD))
    assert call.attributes["rpc.grpc.status_code"] == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert not call.failed


def test_only_sampled_callers_are_told_of(server: ServerProcess, collector: OtlpReceiver) -> None:
    """Unsampled callers, those without a trace and those with nonsense for one are answered, and never exported."""
    with Client(server.grpc) as client:
        client.generate("word", metadata=traceparent(0xA, sampled=False))
        client.generate("word", metadata={"traceparent": f"00-{trace(0xB)}-{CALLER}-zz"})
        client.generate("word", metadata={"traceparent": "nonsense", "tracestate": "===="})
        client.generate("word")
        client.generate("word", metadata=traceparent(0xC))
    spans = collector.wait(ended(0xC, "Generate"))
    assert not {trace(0xA), trace(0xB)} & {span.trace for span in spans}
    assert all(span.parent for span in spans), "a trace was begun that nobody asked for"


def test_exemplars_name_traces(server: ServerProcess, collector: OtlpReceiver) -> None:
    """The histogram of a traced call's duration has its trace as an exemplar, where OpenMetrics is asked for."""
    with Client(server.grpc) as client:
        client.generate("word", metadata=traceparent(0xE))
    collector.wait(ended(0xE, "Generate"))
    lines = [line for line in server.scrape_text(OPENMETRICS).splitlines() if "request_duration" in line]
    exemplars = {found[1] for line in lines if (found := re.search(r'# \{trace_id="([0-9a-f]{32})"\}', line))}
    assert trace(0xE) in exemplars


@pytest.mark.torch
async def test_run_is_linked_with_all_its_callers(encoders: ServerProcess, collector: OtlpReceiver) -> None:
    """Calls that shared a run: one span for it, linked to each of them, and each call's inference linked to it."""
    numbers = range(0x100, 0x120)
    async with AsyncClient(encoders.grpc, timeout_seconds=60) as client:
        replies = await asyncio.gather(
            *[client.embed("read the note", model="embed", metadata=traceparent(number)) for number in numbers]
        )
    for number in numbers:
        collector.wait(ended(number, "Embed"))
    spans = [span for number in numbers for span in collector.of_trace(trace(number))]
    told = by_name(spans)
    calls = {call.id: call for call in told[f"{SERVICE}/Embed"]}
    batches = {batch.attributes["headwaiter.batch.id"]: batch for batch in told["batch embed"]}
    assert {reply.timings.batch_id for reply in replies} == set(batches)
    assert max(len(batch.links) for batch in batches.values()) > 1, "no two calls shared a run"
    assert sorted(link for batch in batches.values() for link in batch.links) == sorted(calls)
    for number, reply in zip(numbers, replies, strict=True):
        own = by_name(collector.of_trace(trace(number)))
        (call,), (inference,) = own[f"{SERVICE}/Embed"], own["inference"]
        batch = batches[reply.timings.batch_id]
        assert (call.parent, inference.parent, inference.links) == (CALLER, call.id, {batch.id})
        assert call.attributes["headwaiter.batch.id"] == reply.timings.batch_id
        assert batch.attributes["headwaiter.batch.size"] == reply.timings.batch_size == len(batch.links)
    for batch in batches.values():
        assert batch.parent in batch.links
        assert calls[batch.parent].trace == batch.trace


@pytest.mark.torch
def test_call_of_many_runs_links_them_all(encoders: ServerProcess, collector: OtlpReceiver) -> None:
    """A call whose texts fill several runs has a span for each, one after the other, in its own trace."""
    with Client(encoders.grpc) as client:
        client.embed(["read the note " * 5] * 20, model="embed", metadata=traceparent(0xF))
    collector.wait(ended(0xF, "Embed"))
    told = by_name(collector.of_trace(trace(0xF)))
    assert len(told["batch embed"]) > 3
    assert told["inference"][0].links == {batch.id for batch in told["batch embed"]}
    assert sum(batch.attributes["headwaiter.batch.size"] for batch in told["batch embed"]) == 20


@pytest.mark.torch
def test_each_message_of_a_stream_is_a_span(encoders: ServerProcess, collector: OtlpReceiver) -> None:
    """All under the stream's traceparent, also the one that fails."""
    texts = ["a note", "the water", "word " * 500, "the fire"]
    with Client(encoders.grpc) as client:
        results = list(client.embed_stream(texts, model="embed", metadata=traceparent(0x5)))
    assert [result.error is None for result in results] == [True, True, False, True]
    collector.wait(ended(0x5, "EmbedStream", len(texts)))
    messages = by_name(collector.of_trace(trace(0x5)))[f"{SERVICE}/EmbedStream"]
    assert {message.parent for message in messages} == {CALLER}
    assert sorted(message.attributes["rpc.grpc.status_code"] for message in messages) == [0, 0, 0, 3]


def test_spans_that_wait_are_sent_before_the_end(models_dir: Path) -> None:
    """SIGTERM right after a call: its spans arrive, and the exit code is 0."""
    with otlp_receiver() as collector:
        options = ["--otlp-endpoint", collector.endpoint, "--trace-sample-ratio", "1", "--lame-duck-seconds", "0"]
        with running_server("--models", str(models_dir), *options) as process:
            with Client(process.grpc) as client:
                client.generate("word")
            assert process.terminate() == 0
        assert f"{SERVICE}/Generate" in {span.name for span in collector.spans}


def test_collector_may_come_late(models_dir: Path) -> None:
    """While nothing listens calls are answered as ever; once a collector does, it is told of the calls from then on."""
    with socket.socket() as place:
        # Nobody listens here, and nobody but a collector that shares the port takes it meanwhile.
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        place.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{place.getsockname()[1]}"
        options = ["--otlp-endpoint", f"http://{address}", "--trace-sample-ratio", "1", "--lame-duck-seconds", "0"]
        with running_server("--models", str(models_dir), *options) as process, Client(process.grpc) as client:
            for _ in range(20):
                client.generate("word")
            with otlp_receiver(address) as collector:
                client.generate("word", metadata=traceparent(0x1))
                collector.wait(ended(0x1, "Generate"))
                assert process.terminate() == 0


def test_missing_collector_does_not_keep_the_server_from_ending(models_dir: Path) -> None:
    """Nobody ever listens: the server starts, answers, and ends in order."""
    options = ["--otlp-endpoint", "http://127.0.0.1:9", "--trace-sample-ratio", "1", "--lame-duck-seconds", "0"]
    with running_server("--models", str(models_dir), *options) as process:
        with Client(process.grpc) as client:
            client.generate("word")
        assert process.terminate() == 0


def test_client_of_another_process_needs_no_opentelemetry(server: ServerProcess) -> None:
    """A process that does not use OpenTelemetry does not come to load it by calling a server that traces."""
    code = (
        "import sys; from headwaiter import Client\n"
        f"with Client({server.grpc!r}) as client: client.generate('word')\n"
        "print([name for name in sys.modules if 'opentelemetry' in name])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
