"""`Generate`: protobuf to plain Python and back."""

from __future__ import annotations

from headwaiter_proto.v1 import inference_pb2

from headwaiter_server.generation.sequence import FinishReason
from headwaiter_server.pipeline import GenerationReply, GenerationRequest
from headwaiter_server.rpc.messages import timings_message
from headwaiter_server.rpc.wire import Counted

COUNTED = Counted({inference_pb2.GenerateRequest.TEXTS_FIELD_NUMBER: "texts"})

_FINISH_REASONS = {
    FinishReason.END_OF_SEQUENCE: inference_pb2.FINISH_REASON_END_OF_SEQUENCE,
    FinishReason.LENGTH: inference_pb2.FINISH_REASON_LENGTH,
}


def read_request(message: inference_pb2.GenerateRequest) -> GenerationRequest:
    """The request in plain Python."""
    return GenerationRequest(message.model, message.version, message.texts, message.max_new_tokens)


def write_reply(reply: GenerationReply, total_seconds: float) -> inference_pb2.GenerateResponse:
    """The reply on the wire."""
    return inference_pb2.GenerateResponse(
        model=reply.model.name,
        version=reply.model.version,
        variant=reply.model.variant,
        generations=[
            inference_pb2.Generation(
                text=each.text,
                token_ids=each.token_ids,
                finish_reason=_FINISH_REASONS[each.finish_reason],
                source_tokens=each.source_tokens,
            )
            for each in reply.texts
        ],
        timings=timings_message(reply.timings, total_seconds),
    )
