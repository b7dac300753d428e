"""What a call is told of where its time went, when it is answered and when it fails."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

import grpc
import pytest
from fakes import POISON, POISON_LATER, EchoModel, Gate
from headwaiter_proto.v1 import bundle_pb2, inference_pb2
from headwaiter_server.encoding import Encoding
from headwaiter_server.errors import DeadlineUnreachableError
from headwaiter_server.lifecycle.catalog import Catalog, ServedModel
from headwaiter_server.metrics import Metrics
from headwaiter_server.pipeline import Pipeline
from headwaiter_server.rpc.edge import Edge
from headwaiter_server.rpc.inference import SERVICE_NAME, InferenceService
from headwaiter_server.rpc.server import GrpcServer
from headwaiter_server.scheduling.admission import Admission
from headwaiter_server.tokenizer import Tokens
from headwaiter_server.tracing import Tracing
from headwaiter_server.tracing.otel import OtelTracing
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from .scheduler import Scheduler, scheduler

KNOWN = ["headwaiter-total-seconds", "headwaiter-tokenize-seconds"]
KNOWN_AFTER_RUN = [*KNOWN, "headwaiter-queue-seconds", "headwaiter-inference-seconds", "headwaiter-batch-id"]


class NumberTokenizer:
    """Reads a text of numbers as those token ids."""

    def encode_all(self, texts: list[str], field: str) -> list[Encoding]:
        return [Encoding([int(word) for word in text.split()]) for text in texts]

    def tokens_of(self, text: str, field: str) -> Tokens:
        words = text.split()
        return Tokens([int(word) for word in words], words, [(0, 0)] * len(words))

    def decode(self, ids: list[int]) -> str:
        return " ".join(map(str, ids))


@dataclass
class Served:
    """An echo model behind a real socket."""

    channel: grpc.aio.Channel
    parts: Scheduler
    admission: Admission


@asynccontextmanager
async def serving(model: EchoModel | None = None, tracing: Tracing | None = None) -> AsyncIterator[Served]:
    """Serve the model."""
    async with scheduler(model) as parts:
        manifest = bundle_pb2.Manifest(task=bundle_pb2.TASK_GENERATE, limits=bundle_pb2.Limits(max_new_tokens=9))
        catalog = Catalog()
        catalog.add(ServedModel("m", 1, "fp32", manifest, cast("Any", NumberTokenizer()), parts.lane))
        metrics = Metrics()
        service = InferenceService(Pipeline(catalog, parts.dispatcher, metrics, 10))
        admission = Admission(100, 1 << 20, 100)
        edge = Edge(admission, metrics, parts.dispatcher.clock, tracing)
        server = GrpcServer([service.handlers(edge)], [SERVICE_NAME], max_message_bytes=1 << 20, max_streams=100)
        address = server.listen("127.0.0.1:0")
        await server.start()
        try:
            async with grpc.aio.insecure_channel(address) as channel:
                yield Served(channel, parts, admission)
        finally:
            await server.stop(0)


async def call(channel: grpc.aio.Channel, method: str, request: Any, kind: Any) -> Any:  # noqa: ANN401 - any message
    return await channel.unary_unary(
        f"/{SERVICE_NAME}/{method}",
        request_serializer=kind[0].SerializeToString,
        response_deserializer=kind[1].FromString,
    )(request)


async def generate(channel: grpc.aio.Channel, *texts: str) -> inference_pb2.GenerateResponse:
    kind = (inference_pb2.GenerateRequest, inference_pb2.GenerateResponse)
    response: inference_pb2.GenerateResponse = await call(channel, "Generate", kind[0](texts=texts), kind)
    return response


async def told_by_failure(channel: grpc.aio.Channel, *texts: str) -> tuple[grpc.StatusCode, dict[str, str]]:
    """Status and trailing metadata of ours that a call ends with."""
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await generate(channel, *texts)
    trailers = cast("Any", failed.value.trailing_metadata())
    return failed.value.code(), {key: value for key, value in trailers if key.startswith("headwaiter-")}


@pytest.mark.parametrize("poison", [POISON, POISON_LATER])
async def test_call_that_fails_in_its_run_tells_what_came_before(poison: int) -> None:
    """Its trailing metadata holds the times as far as it came, in seconds, and the number of its first run."""
    async with serving() as it:
        code, told = await told_by_failure(it.channel, f"{poison} 5")
    assert code is grpc.StatusCode.INTERNAL
    assert list(told) == KNOWN_AFTER_RUN
    times = {name: float(value) for name, value in told.items()}
    parts = sum(times[name] for name in ("headwaiter-tokenize-seconds", "headwaiter-queue-seconds"))
    assert 0 < parts + times["headwaiter-inference-seconds"] <= times["headwaiter-total-seconds"] + 2e-6
    assert int(told["headwaiter-batch-id"]) == 1


async def test_call_that_is_refused_by_its_price_has_not_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is refused when its tokens are known tells how long it took to know them, and of no queue."""
    async with serving() as it:

        def refuse(_: object) -> None:
            raise DeadlineUnreachableError("too late", 1.0)

        monkeypatch.setattr(it.parts.lane, "submit", refuse)
        code, told = await told_by_failure(it.channel, "5")
    assert code is grpc.StatusCode.UNAVAILABLE
    assert list(told) == KNOWN


async def test_call_that_is_refused_by_its_words_tells_nothing() -> None:
    """Nothing is known of a call without texts, and nothing is told."""
    async with serving() as it:
        assert await told_by_failure(it.channel) == (grpc.StatusCode.INVALID_ARGUMENT, {})


async def test_answer_tells_in_its_fields() -> None:
    """An answer has its timings, whose parts fit into the whole; of tokenizing alone nothing waits and nothing runs."""
    async with serving() as it:
        timings = (await generate(it.channel, "5 6")).timings
        parts = timings.tokenize_seconds + timings.queue_seconds + timings.inference_seconds
        assert 0 < parts <= timings.total_seconds
        assert (timings.batch_size, timings.batch_tokens, timings.batch_id) == (1, 3, 1)
        kind = (inference_pb2.TokenizeRequest, inference_pb2.TokenizeResponse)
        tokenized = (await call(it.channel, "Tokenize", kind[0](texts=["5 6"]), kind)).timings
        assert 0 < tokenized.tokenize_seconds <= tokenized.total_seconds
        assert tokenized == inference_pb2.Timings(
            total_seconds=tokenized.total_seconds, tokenize_seconds=tokenized.tokenize_seconds
        )


async def test_calls_that_end_early_are_traced_to_their_end() -> None:
    """A call that is cancelled in its run, and one whose model fails, are told of with status and stages."""
    exporter = InMemorySpanExporter()
    gate = Gate()
    tracing = OtelTracing(exporter, 1.0, "1", time.monotonic)
    async with serving(EchoModel(on_step=gate), tracing) as it:
        cancelled = asyncio.create_task(generate(it.channel, "5 6"))
        await gate.entered()
        cancelled.cancel()
        async with asyncio.timeout(10):
            while it.admission.calls:
                await asyncio.sleep(0)
        gate.open()
        await told_by_failure(it.channel, f"{POISON} 5")
    await tracing.close(10)
    told = {}
    for span in exporter.get_finished_spans():
        attributes = dict(span.attributes or {})
        if span.parent is None:
            below = [each for each in exporter.get_finished_spans() if each.parent and each.parent == span.context]
            told[attributes["rpc.grpc.status_code"]] = (span.status.is_ok, {each.name for each in below})
    stages = {"tokenize", "queue", "inference"}
    assert told == {
        grpc.StatusCode.CANCELLED.value[0]: (True, stages),
        grpc.StatusCode.INTERNAL.value[0]: (False, stages),
    }
