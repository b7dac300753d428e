"""`Tokenize`: protobuf to plain Python and back."""

from __future__ import annotations

from headwaiter_proto.v1 import inference_pb2

from headwaiter_server.pipeline import TokenizationReply, TokenizationRequest
from headwaiter_server.rpc.wire import Counted

COUNTED = Counted({inference_pb2.TokenizeRequest.TEXTS_FIELD_NUMBER: "texts"})


def read_request(message: inference_pb2.TokenizeRequest) -> TokenizationRequest:
    """The request in plain Python."""
    return TokenizationRequest(message.model, message.version, message.texts)


def write_reply(reply: TokenizationReply, total_seconds: float) -> inference_pb2.TokenizeResponse:
    """The reply on the wire, after so many seconds since the call was first seen."""
    return inference_pb2.TokenizeResponse(
        model=reply.model.name,
        version=reply.model.version,
        tokenizations=[
            inference_pb2.Tokenization(
                ids=each.ids,
                tokens=each.tokens,
                starts=[start for start, _ in each.offsets],
                ends=[end for _, end in each.offsets],
            )
            for each in reply.tokens
        ],
        timings=inference_pb2.Timings(total_seconds=total_seconds, tokenize_seconds=reply.tokenize_seconds),
    )
