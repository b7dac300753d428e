"""Calls of every kind that can be given up in the middle: what each asks, and what its answers add up to."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
from headwaiter_proto.inference import grpc_service_pb2
from headwaiter_proto.v1 import inference_pb2
from headwaiter_server.rpc.open_inference.elements import join_bytes
from numpy.typing import NDArray

EMBEDDER, GENERATOR = "embed", "pronounce"
_V1, _OPEN = "/headwaiter.v1.InferenceService", "/inference.GRPCInferenceService"
_TOLERANCE = 1e-5
_MESSAGES = 3

# A row of the answer to each text: its vector, or what was generated from it.
Row = NDArray[np.float32] | str
Wait = float | None
Ask = Callable[[grpc.aio.Channel, Sequence[str], Wait], Coroutine[Any, Any, list[Row]]]


@dataclass(frozen=True)
class Kind:
    """One way to ask for texts.

    Attributes:
        name: Method, and model where that matters.
        model: Who is asked.
        call: Asks; the seconds after which the answer is not wanted any more are a deadline of the call.
    """

    name: str
    model: str
    call: Ask


class StreamFailureError(Exception):
    """One message of a stream was not answered; the stream went on."""


class StreamRefusalError(StreamFailureError):
    """The server would not have it now."""


class TooLateError(StreamFailureError):
    """Its deadline had passed."""


_FAILURES = {
    grpc.StatusCode.UNAVAILABLE.value[0]: StreamRefusalError,
    grpc.StatusCode.DEADLINE_EXCEEDED.value[0]: TooLateError,
}
# Where there are words only.
_FAILURE_WORDS = {
    "the deadline passed": TooLateError,
    "the answer would be there in": StreamRefusalError,
    "the wait would be": StreamRefusalError,
    "waiting already": StreamRefusalError,
}


def refused(error: grpc.aio.AioRpcError) -> bool:
    """Whether the server would not have a call now; what is unavailable without such a word is no server at all."""
    hinted = any(key == "grpc-retry-pushback-ms" for key, _ in error.trailing_metadata() or ())
    return error.code() is grpc.StatusCode.UNAVAILABLE and hinted


async def embed(channel: grpc.aio.Channel, texts: Sequence[str], seconds: Wait) -> list[Row]:
    """`Embed`."""
    request = inference_pb2.EmbedRequest(model=EMBEDDER, texts=texts)
    data = await _unary(channel, f"{_V1}/Embed", request, seconds)
    return _vectors(inference_pb2.EmbedResponse.FromString(data))


async def embed_stream(channel: grpc.aio.Channel, texts: Sequence[str], seconds: Wait) -> list[Row]:
    """`EmbedStream`, a message for each few texts."""
    parts = list(_parts(texts))
    requests = (
        inference_pb2.EmbedStreamRequest(id=number, request=inference_pb2.EmbedRequest(model=EMBEDDER, texts=part))
        for number, part in enumerate(parts)
    )
    answers: dict[int, list[Row]] = {}
    async for data in _streamed(channel, f"{_V1}/EmbedStream", requests, seconds):
        answer = inference_pb2.EmbedStreamResponse.FromString(data)
        if answer.HasField("error"):
            raise _FAILURES.get(answer.error.code, StreamFailureError)(answer.error.message)
        assert answer.id not in answers, "answered twice"
        answers[answer.id] = _vectors(answer.response)
    return [row for number in range(len(parts)) for row in answers[number]]


async def generate(channel: grpc.aio.Channel, texts: Sequence[str], seconds: Wait) -> list[Row]:
    """`Generate`."""
    request = inference_pb2.GenerateRequest(model=GENERATOR, texts=texts)
    data = await _unary(channel, f"{_V1}/Generate", request, seconds)
    return [each.text for each in inference_pb2.GenerateResponse.FromString(data).generations]


async def generate_stream(channel: grpc.aio.Channel, texts: Sequence[str], seconds: Wait) -> list[Row]:
    """`GenerateStream`, put together."""
    request = inference_pb2.GenerateRequest(model=GENERATOR, texts=texts)
    pieces = defaultdict[int, str](str)
    multi: Any = channel.unary_stream(f"{_V1}/GenerateStream")
    async for data in _to_its_end(multi(request.SerializeToString(), timeout=seconds)):
        piece = inference_pb2.GenerateStreamResponse.FromString(data)
        pieces[piece.index] += piece.text
    return [pieces[index] for index in range(len(texts))]


async def infer_vectors(channel: grpc.aio.Channel, texts: Sequence[str], seconds: Wait) -> list[Row]:
    """`ModelInfer` of the embedding model; the time is the request's own, not the call's."""
    data = await _unary(channel, f"{_OPEN}/ModelInfer", _tensors(EMBEDDER, texts, seconds), None)
    return _output(grpc_service_pb2.ModelInferResponse.FromString(data))


async def infer_text(channel: grpc.aio.Channel, texts: Sequence[str], seconds: Wait) -> list[Row]:
    """`ModelInfer` of the model that generates; likewise."""
    data = await _unary(channel, f"{_OPEN}/ModelInfer", _tensors(GENERATOR, texts, seconds), None)
    return _output(grpc_service_pb2.ModelInferResponse.FromString(data))


async def stream_vectors(channel: grpc.aio.Channel, texts: Sequence[str], seconds: Wait) -> list[Row]:
    """`ModelStreamInfer` of the embedding model, whose answers come in the order of the messages."""
    requests = (_tensors(EMBEDDER, part, None) for part in _parts(texts))
    return [row async for answer in _stream_infer(channel, requests, seconds) for row in _output(answer)]


async def stream_text(channel: grpc.aio.Channel, texts: Sequence[str], seconds: Wait) -> list[Row]:
    """`ModelStreamInfer` of the model that generates: pieces of all texts, put together."""
    whole = [""] * len(texts)
    async for answer in _stream_infer(channel, [_tensors(GENERATOR, texts, None)], seconds):
        whole = [text + str(piece) for text, piece in zip(whole, _output(answer), strict=True)]
    return list(whole)


KINDS = (
    Kind("Embed", EMBEDDER, embed),
    Kind("EmbedStream", EMBEDDER, embed_stream),
    Kind("Generate", GENERATOR, generate),
    Kind("GenerateStream", GENERATOR, generate_stream),
    Kind("ModelInfer, vectors", EMBEDDER, infer_vectors),
    Kind("ModelInfer, text", GENERATOR, infer_text),
    Kind("ModelStreamInfer, vectors", EMBEDDER, stream_vectors),
    Kind("ModelStreamInfer, text", GENERATOR, stream_text),
)


@dataclass(frozen=True)
class Questions:
    """Texts to ask for, and what each is answered when nobody else asks for anything."""

    golden: dict[str, dict[str, Row]]

    @classmethod
    async def asked_alone(cls, channel: grpc.aio.Channel, texts: Mapping[str, Sequence[str]]) -> Questions:
        """Ask for each text by itself.

        Args:
            channel: To the server.
            texts: Of each model.
        """
        calls = {EMBEDDER: embed, GENERATOR: generate}
        return cls(
            {name: {each: (await calls[name](channel, [each], None))[0] for each in texts[name]} for name in texts}
        )

    def some(self, kind: Kind, rng: random.Random) -> list[str]:
        """A few texts for a call."""
        known = list(self.golden[kind.model])
        return rng.sample(known, min(len(known), rng.choice((1, 1, 2, 6))))

    def right(self, kind: Kind, texts: Sequence[str], rows: Sequence[Row]) -> bool:
        """Whether an answer is the golden one: the same text, and numbers that hardly differ."""
        golden = self.golden[kind.model]
        return len(rows) == len(texts) and all(map(_same, rows, (golden[text] for text in texts)))


def _same(row: Row, expected: Row) -> bool:
    if isinstance(row, str) or isinstance(expected, str):
        return row is expected or (isinstance(row, str) and row == expected)
    return bool(row.shape == expected.shape and np.abs(row - expected).max() <= _TOLERANCE)


def _parts(texts: Sequence[str]) -> Iterable[Sequence[str]]:
    size = -(-len(texts) // _MESSAGES)
    return (texts[start : start + size] for start in range(0, len(texts), size))


def _vectors(response: inference_pb2.EmbedResponse) -> list[Row]:
    return list(np.frombuffer(response.vectors, "<f4").reshape(-1, response.dimension))


def _tensors(model: str, texts: Sequence[str], seconds: Wait) -> grpc_service_pb2.ModelInferRequest:
    request = grpc_service_pb2.ModelInferRequest(model_name=model)
    request.inputs.add(name="text", datatype="BYTES", shape=[len(texts), 1])
    request.raw_input_contents.append(join_bytes([text.encode() for text in texts]))
    if seconds is not None:
        request.parameters["timeout"].int64_param = max(1, round(seconds * 1e6))
    return request


def _output(response: grpc_service_pb2.ModelInferResponse) -> list[Row]:
    (tensor,), (raw,) = response.outputs, response.raw_output_contents
    if tensor.datatype != "BYTES":
        return list(np.frombuffer(raw, "<f4").reshape(tensor.shape))
    rows: list[Row] = []
    while raw:
        end = 4 + int.from_bytes(raw[:4], "little")
        rows.append(raw[4:end].decode())
        raw = raw[end:]
    return rows


async def _stream_infer(
    channel: grpc.aio.Channel, requests: Iterable[grpc_service_pb2.ModelInferRequest], seconds: Wait
) -> AsyncIterator[grpc_service_pb2.ModelInferResponse]:
    async for data in _streamed(channel, f"{_OPEN}/ModelStreamInfer", requests, seconds):
        answer = grpc_service_pb2.ModelStreamInferResponse.FromString(data)
        if words := answer.error_message:
            found = (kind for part, kind in _FAILURE_WORDS.items() if part in words)
            raise next(found, StreamFailureError)(words)
        yield answer.infer_response


async def _unary(channel: grpc.aio.Channel, method: str, request: Any, seconds: Wait) -> bytes:  # noqa: ANN401 - a message
    multi: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(method)
    return await multi(request.SerializeToString(), timeout=seconds)


async def _streamed(
    channel: grpc.aio.Channel, method: str, requests: Iterable[Any], seconds: Wait
) -> AsyncIterator[bytes]:
    stream: Any = channel.stream_stream(method)((each.SerializeToString() for each in requests), timeout=seconds)
    async for data in _to_its_end(stream):
        yield data


async def _to_its_end(stream: Any) -> AsyncIterator[bytes]:  # noqa: ANN401 - any call that is answered with many
    try:
        async for data in stream:
            yield data
    finally:
        stream.cancel()  # of a call that has ended this is nothing
