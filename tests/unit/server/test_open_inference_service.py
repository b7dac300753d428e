"""The service on a real socket: which method answers when, and what becomes of the others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
import pytest
from headwaiter_proto.inference import grpc_service_pb2, grpc_service_pb2_grpc
from headwaiter_proto.v1 import bundle_pb2
from headwaiter_server.metrics import Metrics
from headwaiter_server.rpc.edge import Edge
from headwaiter_server.rpc.open_inference.service import SERVICE_NAME, OpenInferenceService
from headwaiter_server.rpc.server import GrpcServer
from headwaiter_server.scheduling.admission import Admission

from .open_inference import Asked, text_request

Code = grpc.StatusCode


@dataclass
class Served:
    """The service, and what it depends on.

    Attributes:
        channel: To it.
        stub: Calls it.
        admission: Lets calls in.
        edge: Knows its streams.
        metrics: What was recorded.
        asked: The model.
        ready: Whether it says so.
    """

    channel: grpc.aio.Channel
    stub: Any
    admission: Admission
    edge: Edge
    metrics: Metrics
    asked: Asked
    ready: bool = True

    async def all_recorded(self) -> None:
        """Return when every call is recorded: those that fail are told first."""
        labels = {"method": f"{SERVICE_NAME}/ModelInfer"}
        async with asyncio.timeout(10):
            while self.metrics.registry.get_sample_value("headwaiter_requests_in_flight", labels):
                await asyncio.sleep(0)

    def recorded(self, method: str, code: str, model: str = "m", version: str = "1") -> float:
        labels = {"method": f"{SERVICE_NAME}/{method}", "model": model, "version": version, "code": code}
        return self.metrics.registry.get_sample_value("headwaiter_requests_total", labels) or 0.0


@asynccontextmanager
async def serving(most_calls: int = 10) -> AsyncIterator[Served]:
    """Serve an embedding model."""
    embedding = bundle_pb2.Embedding(dimension=1)
    asked = Asked(
        bundle_pb2.Manifest(task=bundle_pb2.TASK_EMBED, embedding=embedding),
        lambda text, _raw: np.array([len(text)], np.float32),
    )
    admission, metrics = Admission(most_calls, 1 << 20), Metrics()
    edge = Edge(admission, metrics)
    service = OpenInferenceService(asked.inference, lambda: served.ready, questions={}, calls={})
    server = GrpcServer([service.handlers(edge)], [SERVICE_NAME], max_message_bytes=1 << 20, max_streams=100)
    address = server.listen("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(address) as channel:
            stub: Any = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
            served = Served(channel, stub, admission, edge, metrics, asked)
            yield served
    finally:
        await server.stop(0)


async def test_full_server_is_live_and_ready() -> None:
    """Those who ask how it is are answered also when there is no place left, and take none of it."""
    async with serving(most_calls=1) as it:
        with it.admission.admit(1):
            assert (await it.stub.ServerLive(grpc_service_pb2.ServerLiveRequest())).live
            assert (await it.stub.ServerReady(grpc_service_pb2.ServerReadyRequest())).ready
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await it.stub.ModelInfer(text_request("a"))
        assert caught.value.code() is Code.UNAVAILABLE
        assert (await it.stub.ModelInfer(text_request("a"))).id == "17"
        assert it.admission.calls == 0


async def test_long_question_is_refused_unread() -> None:
    """What is answered beyond the bounds of the server costs next to nothing, whatever is in it."""
    async with serving(most_calls=1) as it:
        ask: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
        ask = it.channel.unary_unary(f"/{SERVICE_NAME}/ServerLive")
        # Nobody knows the field, and it would be passed over.
        field = b"\x7a\xfc\xff\x03" + bytes(65_532)
        assert grpc_service_pb2.ServerLiveResponse.FromString(await ask(field)).live
        with (
            it.admission.admit(1),
            pytest.raises(grpc.aio.AioRpcError, match="message: has 65537 bytes, the limit is 65536"),
        ):
            await ask(field + b"\0")
        assert it.admission.calls == 0


async def test_ending_server_says_so() -> None:
    """While it drains it is live, and not ready; nothing is let in, and the drain waits for answers to questions."""
    async with serving() as it:
        it.ready = False
        it.admission.close()
        assert (await it.stub.ServerLive(grpc_service_pb2.ServerLiveRequest())).live
        assert not (await it.stub.ServerReady(grpc_service_pb2.ServerReadyRequest())).ready
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await it.stub.ModelInfer(text_request("a"))
        assert caught.value.code() is Code.UNAVAILABLE
        await asyncio.wait_for(it.admission.drained(), 10)


async def test_method_that_nobody_gives_is_unimplemented() -> None:
    """That is what gRPC says by itself."""
    async with serving() as it:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await it.stub.ModelConfig(grpc_service_pb2.ModelConfigRequest(name="m"))
        assert caught.value.code() is Code.UNIMPLEMENTED


async def test_calls_are_recorded_under_model_and_status() -> None:
    """Those that fail are, too; of a model that is not there under none."""
    async with serving() as it:
        await it.stub.ModelInfer(text_request("a", "bb"))
        request = text_request("a" * 60)
        with pytest.raises(grpc.aio.AioRpcError, match=r"inputs\[text\]\[0\]: has 60 tokens"):
            await it.stub.ModelInfer(request)
        request.model_name = "nobody"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await it.stub.ModelInfer(request)
        assert caught.value.code() is Code.NOT_FOUND
        await it.all_recorded()
        assert it.recorded("ModelInfer", "OK") == 1
        assert it.recorded("ModelInfer", "INVALID_ARGUMENT") == 1
        assert it.recorded("ModelInfer", "NOT_FOUND", model="_other", version="") == 1


async def test_answers_tell_their_times_in_trailing_metadata() -> None:
    """On every good answer of `ModelInfer`."""
    async with serving() as it:
        call = it.stub.ModelInfer(text_request("a"))
        await call
        trailers = dict(await call.trailing_metadata())
        assert trailers["headwaiter-batch-size"] == "3"
        assert float(trailers["headwaiter-total-seconds"]) > 0


async def test_stream() -> None:
    """Answers in order, each the last of its request; what is wrong is told in its place, and the stream goes on."""
    async with serving() as it:
        messages = [text_request("a"), text_request("b" * 60), text_request("cc", "ddd"), text_request("e")]
        messages[3].model_version = "two"
        for index, message in enumerate(messages):
            message.id = str(index)
        stream = it.stub.ModelStreamInfer()
        answers = []
        for message in messages:
            await stream.write(message)
        for _ in messages:
            answers.append(await stream.read())  # noqa: PERF401 - a stream that stays open
        await stream.write(messages[0])
        answers.append(await stream.read())
        await stream.done_writing()
        assert await stream.read() is grpc.aio.EOF
        assert await stream.code() is Code.OK
        assert [answer.infer_response.id for answer in answers] == ["0", "1", "2", "3", "0"]
        errors = [answer.error_message.partition(": ")[0] for answer in answers]
        assert errors == ["", "inputs[text][0]", "", "model_version", ""]
        for answer in (answers[0], answers[2], answers[4]):
            assert answer.infer_response.parameters["triton_final_response"].bool_param
        assert np.frombuffer(answers[2].infer_response.raw_output_contents[0], np.float32).tolist() == [2.0, 3.0]
        assert it.recorded("ModelStreamInfer", "OK") == 3


async def test_bytes_that_are_no_message_leave_a_stream_open() -> None:
    """Answers come in order, and so it is known to whom such an answer belongs."""
    async with serving() as it:
        stream: Any = it.channel.stream_stream(f"/{SERVICE_NAME}/ModelStreamInfer")()
        for data in (b"no message", text_request("a").SerializeToString()):
            await stream.write(data)
        answers = [grpc_service_pb2.ModelStreamInferResponse.FromString(await stream.read()) for _ in range(2)]
        assert [answer.error_message for answer in answers] == ["message: is no inference.ModelInferRequest", ""]
        assert answers[1].infer_response.id == "17"


async def test_drain_ends_streams() -> None:
    """What was sent is answered, then the stream ends with UNAVAILABLE."""
    async with serving() as it:
        stream = it.stub.ModelStreamInfer()
        await stream.write(text_request("a"))
        assert (await stream.read()).infer_response.id == "17"
        it.admission.close()
        it.edge.leave()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stream.read()
        assert caught.value.code() is Code.UNAVAILABLE
