"""`Tag`: protobuf to plain Python and back."""

from __future__ import annotations

from headwaiter_proto.v1 import inference_pb2

from headwaiter_server.errors import InvalidRequestError
from headwaiter_server.pipeline import TaggingReply, TaggingRequest
from headwaiter_server.pipeline.spans import Aggregation
from headwaiter_server.rpc.messages import reading_message, timings_message
from headwaiter_server.rpc.wire import Counted

COUNTED = Counted({inference_pb2.TagRequest.TEXTS_FIELD_NUMBER: "texts"})

_AGGREGATIONS: dict[int, Aggregation] = {
    inference_pb2.AGGREGATION_UNSPECIFIED: "entities",
    inference_pb2.AGGREGATION_NONE: "none",
}


def read_request(message: inference_pb2.TagRequest) -> TaggingRequest:
    """The request in plain Python.

    Raises:
        InvalidRequestError: It asks for an aggregation that this server does not know.
    """
    aggregation = _AGGREGATIONS.get(message.aggregation)
    if aggregation is None:
        raise InvalidRequestError("aggregation", f"is {message.aggregation}, which this server does not know")
    return TaggingRequest(
        message.model,
        message.version,
        message.texts,
        truncate=message.truncate,
        raw_scores=message.raw_scores,
        aggregation=aggregation,
    )


def write_reply(reply: TaggingReply, total_seconds: float) -> inference_pb2.TagResponse:
    """The reply on the wire."""
    return inference_pb2.TagResponse(
        model=reply.model.name,
        version=reply.model.version,
        variant=reply.model.variant,
        taggings=[
            inference_pb2.Tagging(
                spans=[
                    inference_pb2.Span(start=span.start, end=span.end, label=span.label, score=span.score)
                    for span in spans
                ]
            )
            for spans in reply.spans
        ],
        reading=reading_message(reply.reading),
        timings=timings_message(reply.timings, total_seconds),
    )
