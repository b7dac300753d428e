"""`Classify`: protobuf to plain Python and back."""

from __future__ import annotations

from headwaiter_proto.v1 import inference_pb2

from headwaiter_server.pipeline import ClassificationReply, ClassificationRequest
from headwaiter_server.rpc.messages import reading_message, timings_message
from headwaiter_server.rpc.wire import Counted

COUNTED = Counted(
    {
        inference_pb2.ClassifyRequest.TEXTS_FIELD_NUMBER: "texts",
        inference_pb2.ClassifyRequest.SECOND_TEXTS_FIELD_NUMBER: "second_texts",
    }
)


def read_request(message: inference_pb2.ClassifyRequest) -> ClassificationRequest:
    """The request in plain Python."""
    return ClassificationRequest(
        message.model,
        message.version,
        message.texts,
        message.second_texts,
        truncate=message.truncate,
        raw_scores=message.raw_scores,
    )


def write_reply(reply: ClassificationReply, total_seconds: float) -> inference_pb2.ClassifyResponse:
    """The reply on the wire."""
    return inference_pb2.ClassifyResponse(
        model=reply.model.name,
        version=reply.model.version,
        variant=reply.model.variant,
        labels=reply.model.manifest.labels,
        classifications=[inference_pb2.Classification(scores=scores.tolist()) for scores in reply.scores],
        reading=reading_message(reply.reading),
        timings=timings_message(reply.timings, total_seconds),
    )
