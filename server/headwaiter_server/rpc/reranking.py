"""`Rerank`: protobuf to plain Python and back."""

from __future__ import annotations

from headwaiter_proto.v1 import inference_pb2

from headwaiter_server.pipeline import RerankingReply, RerankingRequest
from headwaiter_server.rpc.messages import reading_message, timings_message
from headwaiter_server.rpc.wire import Counted

COUNTED = Counted({inference_pb2.RerankRequest.TEXTS_FIELD_NUMBER: "texts"})


def read_request(message: inference_pb2.RerankRequest) -> RerankingRequest:
    """The request in plain Python."""
    return RerankingRequest(
        message.model,
        message.version,
        message.query,
        message.texts,
        truncate=message.truncate,
        raw_scores=message.raw_scores,
        top_n=message.top_n,
    )


def write_reply(reply: RerankingReply, total_seconds: float) -> inference_pb2.RerankResponse:
    """The reply on the wire."""
    return inference_pb2.RerankResponse(
        model=reply.model.name,
        version=reply.model.version,
        variant=reply.model.variant,
        ranking=[inference_pb2.RankedText(index=each.index, score=each.score) for each in reply.ranking],
        reading=reading_message(reply.reading),
        timings=timings_message(reply.timings, total_seconds),
    )
