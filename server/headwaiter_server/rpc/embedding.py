"""`Embed` and `EmbedStream`: protobuf to plain Python and back."""

from __future__ import annotations

from headwaiter_proto.v1 import inference_pb2

from headwaiter_server.pipeline import EmbeddingReply, EmbeddingRequest
from headwaiter_server.rpc.messages import reading_message, timings_message
from headwaiter_server.rpc.status import Status
from headwaiter_server.rpc.wire import Counted

COUNTED = Counted({inference_pb2.EmbedRequest.TEXTS_FIELD_NUMBER: "texts"})
COUNTED_IN_STREAM = Counted(inside={inference_pb2.EmbedStreamRequest.REQUEST_FIELD_NUMBER: COUNTED})
ID_NUMBER = inference_pb2.EmbedStreamRequest.ID_FIELD_NUMBER


def read_request(message: inference_pb2.EmbedRequest) -> EmbeddingRequest:
    """The request in plain Python."""
    return EmbeddingRequest(
        message.model,
        message.version,
        message.texts,
        truncate=message.truncate,
        prompt=message.prompt if message.HasField("prompt") else None,
        dimensions=message.dimensions,
        normalize=message.normalize if message.HasField("normalize") else None,
    )


def write_reply(reply: EmbeddingReply, total_seconds: float) -> inference_pb2.EmbedResponse:
    """The reply on the wire."""
    return inference_pb2.EmbedResponse(
        model=reply.model.name,
        version=reply.model.version,
        variant=reply.model.variant,
        vectors=reply.vectors.astype("<f4", copy=False).tobytes(),
        dimension=reply.vectors.shape[1],
        reading=reading_message(reply.reading),
        timings=timings_message(reply.timings, total_seconds),
    )


def write_stream_reply(number: int, response: inference_pb2.EmbedResponse) -> inference_pb2.EmbedStreamResponse:
    """The answer to the message of a stream that has this id."""
    return inference_pb2.EmbedStreamResponse(id=number, response=response)


def write_stream_error(number: int, status: Status) -> inference_pb2.EmbedStreamResponse:
    """What says that the message of a stream that has this id has no other answer."""
    error = inference_pb2.StreamError(code=status.number, message=status.message, retry_seconds=status.retry_seconds)
    return inference_pb2.EmbedStreamResponse(id=number, error=error)
