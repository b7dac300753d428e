"""Scripted servers for whole load tests: an echo that may stall, one of known capacity, one that refuses."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future

import grpc
from headwaiter_proto.inference import grpc_service_pb2 as inference
from headwaiter_proto.v1 import inference_pb2

Handler = Callable[[bytes, grpc.ServicerContext], bytes]


class Stall:
    """Answers at once, but for one stretch of time in which nothing is answered at all.

    Args:
        after_seconds: From the first call to the beginning of that stretch.
        seconds: Its length.
    """

    def __init__(self, after_seconds: float, seconds: float) -> None:
        self._after, self._seconds = after_seconds, seconds
        self._first: float | None = None
        self._lock = threading.Lock()

    def __call__(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        with self._lock:
            now = time.monotonic()
            self._first = self._first or now
            begin = self._first + self._after
        if begin <= now < begin + self._seconds:
            time.sleep(begin + self._seconds - now)
        return b""


class FixedCapacity:
    """A server that takes so many calls a second, one after the other, and lets the others queue."""

    def __init__(self, calls_per_second: float) -> None:
        self._gap = 1 / calls_per_second
        self._free_at = 0.0
        self._lock = threading.Lock()

    def __call__(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        with self._lock:
            self._free_at = max(self._free_at, time.monotonic()) + self._gap
            ready = self._free_at
        time.sleep(max(0.0, ready - time.monotonic()))
        return b""


METADATA = inference.ModelMetadataResponse(
    name="pair",
    versions=["1"],
    platform="test",
    inputs=[
        inference.ModelMetadataResponse.TensorMetadata(name="text", datatype="BYTES", shape=[-1, 1]),
        inference.ModelMetadataResponse.TensorMetadata(name="scale", datatype="FP32", shape=[-1, 2]),
    ],
)


def model_metadata(raw: bytes, context: grpc.ServicerContext) -> bytes:
    """Answers `ModelMetadata` for the one model "pair"."""
    if inference.ModelMetadataRequest.FromString(raw).name != "pair":
        context.abort(grpc.StatusCode.NOT_FOUND, "no such model")
    return METADATA.SerializeToString()


def model_infer(raw: bytes, context: grpc.ServicerContext) -> bytes:
    """Answers `ModelInfer` with the request's id, and refuses what is not laid out as the protocol says."""
    request = inference.ModelInferRequest.FromString(raw)
    rows = request.inputs[0].shape[0]
    sizes = [len(each) for each in request.raw_input_contents]
    if [each.name for each in request.inputs] != ["text", "scale"] or sizes[1] != rows * 2 * 4:
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, "bad tensors")
    return inference.ModelInferResponse(model_name=request.model_name, id=request.id).SerializeToString()


def model_stream_infer(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
    """Answers a stream, every fifth message with an error, others with an empty piece before the last one."""
    for count, raw in enumerate(requests, 1):
        identity = inference.ModelInferRequest.FromString(raw).id
        answer = inference.ModelInferResponse(id=identity)
        if count % 5 == 0:
            failed = inference.ModelStreamInferResponse(error_message="no luck", infer_response=answer)
            yield failed.SerializeToString()
            continue
        for final in (False, True):
            answer.parameters["triton_final_response"].bool_param = final
            yield inference.ModelStreamInferResponse(infer_response=answer).SerializeToString()


def embed_stream(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
    """Answers pairs of messages in reverse order; texts that say "bad" with an error."""
    held: list[inference_pb2.EmbedStreamRequest] = []
    for raw in requests:
        held.append(inference_pb2.EmbedStreamRequest.FromString(raw))
        if len(held) < 2:
            continue
        while held:
            message = held.pop()
            answer = inference_pb2.EmbedStreamResponse(id=message.id)
            if "bad" in message.request.texts:
                answer.error.code, answer.error.message = 3, "bad text"
            else:
                answer.response.model = "m"
            yield answer.SerializeToString()


def in_thread(work: Callable[[], None]) -> Future[None]:
    """Runs something beside the test."""
    done: Future[None] = Future()

    def run() -> None:
        try:
            work()
            done.set_result(None)
        except BaseException as error:  # noqa: BLE001 - told to the test
            done.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return done


async def settled(seconds: float = 0.0) -> None:
    """Lets what is ready run."""
    await asyncio.sleep(seconds)
