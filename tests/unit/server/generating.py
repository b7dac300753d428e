"""A model that generates what a test says, when it says so, behind a real socket and both protocols."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import grpc
from fakes import BOS, VOCAB
from headwaiter_proto.inference import grpc_service_pb2
from headwaiter_proto.v1 import bundle_pb2, inference_pb2
from headwaiter_server.encoding import Encoding
from headwaiter_server.generation.choosing import ChosenToken
from headwaiter_server.generation.decoding import Decoding
from headwaiter_server.generation.sequence import FinishReason, Generated, GenerationEntry, GenerationTask, Progress
from headwaiter_server.lifecycle.catalog import Catalog, ServedModel
from headwaiter_server.lifecycle.leases import Leases
from headwaiter_server.lifecycle.signature import signature_of
from headwaiter_server.metrics import Metrics
from headwaiter_server.metrics.statistics import ModelCounts
from headwaiter_server.pipeline import Pipeline, ResponseCache
from headwaiter_server.rpc.edge import Edge
from headwaiter_server.rpc.inference import SERVICE_NAME, InferenceService
from headwaiter_server.rpc.open_inference.infer import Inference
from headwaiter_server.rpc.open_inference.service import SERVICE_NAME as OPEN_SERVICE_NAME
from headwaiter_server.rpc.open_inference.service import OpenInferenceService
from headwaiter_server.rpc.open_inference.shared_memory import SharedMemory
from headwaiter_server.rpc.server import GrpcServer
from headwaiter_server.scheduling.admission import Admission
from headwaiter_server.shared_memory import Regions

Request = inference_pb2.GenerateRequest
Message = inference_pb2.GenerateStreamResponse
StreamCall = grpc.aio.UnaryStreamCall[Request, Message]

MAX_TEXTS = 8
MAX_NEW_TOKENS = 5000
MAX_TOTAL_TOKENS = 6000
LAYERS, HEADS = 2, 4
MAX_CALL_BYTES = 1 << 24


class WordTokenizer:
    """A token for each word, which is its number; what they are in text, the lane's script says."""

    detokenizing: ClassVar[dict[str, object]] = {}

    def encode_all(self, texts: Sequence[str], field: str, *, truncate: bool = False) -> list[Encoding]:
        return [Encoding([int(word) for word in text.split()]) for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(f" {number}" for number in ids)

    def written(self, ids: Sequence[int]) -> list[str]:
        return [f"<{number}>" for number in ids]


# A reader's window that does not grow with the speed at which data comes.
SMALL_WINDOW = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1 << 16)]


@dataclass(eq=False)
class Script:
    """One text that is being generated, as the test says."""

    entry: GenerationEntry
    text: str = ""
    tokens: list[ChosenToken] = field(default_factory=list)
    times: list[float] = field(default_factory=list)

    @property
    def decoding(self) -> Decoding:
        return self.entry.payload.decoding

    def unwanted(self) -> bool:
        """Whether nobody waits for it any more."""
        return self.entry.call.over

    def say(self, text: str, *token_ids: int) -> None:
        """It goes on."""
        told = None if self.decoding.logprobs is None else -0.5
        top = ((7, -0.5), (8, -1.5))[: self.decoding.logprobs or 0]
        tokens = [ChosenToken(number, told, top) for number in token_ids]
        now = time.monotonic()
        self.text += text
        self.tokens += tokens
        self.times += [now] * len(tokens)
        if not self.entry.call.over and self.entry.payload.watch is not None:
            self.entry.payload.watch(Progress(text, tuple(tokens), now))

    def end(self, text: str = "", *token_ids: int, **more: Any) -> None:  # noqa: ANN401 - fields of `Generated`
        """It ends with this, which nobody is told of before."""
        task, told = self.entry.payload, self.decoding.logprobs is not None
        self.text += text
        self.tokens += [ChosenToken(number, -0.5 if told else None, ()) for number in token_ids]
        self.times += [time.monotonic()] * len(token_ids)
        self.entry.resolve(
            replace(
                Generated([each.token_id for each in self.tokens], FinishReason.LENGTH, 0.25, 0.5, 3, 40, 5),
                text=None if task.text is None else self.text,
                tokens=tuple(self.tokens) if told else None,
                token_times=() if self.decoding.num_beams > 1 else tuple(self.times),
                **more,
            )
        )


async def fill(script: Script, pieces: int, start: int = 0) -> str:
    """Have so many pieces of a kilobyte come, each in a turn of its own."""
    told = ""
    for number in range(start, start + pieces):
        text = f"{number:04d}" * 256
        script.say(text, number % 90)
        told += text
        await asyncio.sleep(0)
    return told


class ScriptedLane:
    """The lane of a model that generates what the test says."""

    def __init__(self, *, start_id: int | None = BOS) -> None:
        self.model = SimpleNamespace(vocab_size=VOCAB, start_id=start_id)
        self.scripts: list[Script] = []
        self._more = asyncio.Event()

    def check(self, task: GenerationTask, field: str) -> None:
        pass

    def submit(self, entries: list[GenerationEntry]) -> None:
        for entry in entries:
            entry.call.terms.trail.began(time.monotonic(), 5)
            self.scripts.append(Script(entry))
        self._more.set()

    async def script(self, index: int = 0) -> Script:
        """The text that was submitted as this one, as soon as it is."""
        async with asyncio.timeout(10):
            while len(self.scripts) <= index:
                self._more.clear()
                await self._more.wait()
        return self.scripts[index]


@dataclass
class Served:
    """A scripted model behind a real socket."""

    channel: grpc.aio.Channel
    address: str
    lane: ScriptedLane
    admission: Admission
    metrics: Metrics
    cache: ResponseCache | None
    counts: ModelCounts
    leases: Leases

    def stream(
        self,
        *texts: str,
        timeout: float | None = None,
        channel: grpc.aio.Channel | None = None,
        **options: Any,  # noqa: ANN401 - fields of the request
    ) -> StreamCall:
        """A call of `GenerateStream`, over a channel of the test's own if it has one."""
        method: grpc.aio.UnaryStreamMultiCallable[Request, Message] = (channel or self.channel).unary_stream(
            f"/{SERVICE_NAME}/GenerateStream",
            request_serializer=Request.SerializeToString,
            response_deserializer=Message.FromString,
        )
        return method(Request(model="m", texts=texts or ["3 4"], **options), timeout=timeout)

    async def generate(self, *texts: str, **options: Any) -> inference_pb2.GenerateResponse:  # noqa: ANN401 - see above
        """A call of `Generate`."""
        method = self.channel.unary_unary(
            f"/{SERVICE_NAME}/Generate",
            request_serializer=Request.SerializeToString,
            response_deserializer=inference_pb2.GenerateResponse.FromString,
        )
        return await method(Request(model="m", texts=texts or ["3 4"], **options))

    async def infer(self, request: grpc_service_pb2.ModelInferRequest) -> grpc_service_pb2.ModelInferResponse:
        """A call of `ModelInfer`."""
        method = self.channel.unary_unary(
            f"/{OPEN_SERVICE_NAME}/ModelInfer",
            request_serializer=grpc_service_pb2.ModelInferRequest.SerializeToString,
            response_deserializer=grpc_service_pb2.ModelInferResponse.FromString,
        )
        return await method(request)

    def open_stream(
        self, channel: grpc.aio.Channel | None = None
    ) -> grpc.aio.StreamStreamCall[Any, grpc_service_pb2.ModelStreamInferResponse]:
        """A call of `ModelStreamInfer`, over a channel of the test's own if it has one."""
        method = (channel or self.channel).stream_stream(
            f"/{OPEN_SERVICE_NAME}/ModelStreamInfer",
            request_serializer=grpc_service_pb2.ModelInferRequest.SerializeToString,
            response_deserializer=grpc_service_pb2.ModelStreamInferResponse.FromString,
        )
        call: grpc.aio.StreamStreamCall[Any, grpc_service_pb2.ModelStreamInferResponse] = method()
        return call

    def calls(self, code: str, method: str = f"{SERVICE_NAME}/GenerateStream", model: str = "m") -> float:
        """How many calls have ended so."""
        labels = {"method": method, "model": model, "version": "1", "code": code}
        return self.metrics.registry.get_sample_value("headwaiter_requests_total", labels) or 0.0

    async def over(self) -> None:
        """Return when no call is held any more, nor anything for one."""
        async with asyncio.timeout(10):
            await self.admission.drained()
        assert (self.admission.texts, self.leases.count) == (0, 0)


@asynccontextmanager
async def serving(
    *,
    start_id: int | None = BOS,
    cache_bytes: int = 0,
    more: Sequence[ServedModel] = (),
    regions: Regions | None = None,
) -> AsyncIterator[Served]:
    """Serve a scripted model, `m`, and others."""
    lane = ScriptedLane(start_id=start_id)
    manifest = bundle_pb2.Manifest(
        task=bundle_pb2.TASK_GENERATE,
        limits=bundle_pb2.Limits(max_new_tokens=MAX_NEW_TOKENS, max_total_tokens=MAX_TOTAL_TOKENS),
        kv_cache=bundle_pb2.KvCache(num_layers=LAYERS, num_heads=HEADS, head_dim=8),
    )
    catalog, metrics = Catalog(), Metrics()
    tokenizer, signature = cast("Any", WordTokenizer()), signature_of(manifest, MAX_TEXTS)
    served = ServedModel("m", 1, "fp32", manifest, tokenizer, cast("Any", lane), signature=signature)
    catalog.add(served)
    for each in more:
        catalog.add(each)
    cache = ResponseCache(cache_bytes, metrics) if cache_bytes else None
    if cache is not None:
        cache.open(lane, "m")
    dispatcher = SimpleNamespace(clock=time.monotonic, wake=lambda: None)
    pipeline = Pipeline(catalog, cast("Any", dispatcher), metrics, MAX_TEXTS, cache)
    admission = Admission(100, MAX_CALL_BYTES, 100)
    edge = Edge(admission, metrics)
    inference = Inference(pipeline, SharedMemory(regions))
    handlers = [
        InferenceService(pipeline).handlers(edge),
        OpenInferenceService(inference, lambda: True, questions={}, calls={}).handlers(edge),
    ]
    server = GrpcServer(handlers, [SERVICE_NAME, OPEN_SERVICE_NAME], max_message_bytes=1 << 20, max_streams=100)
    address = server.listen("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(address) as channel:
            yield Served(channel, address, lane, admission, metrics, cache, served.counts, served.leases)
    finally:
        await server.stop(0)
