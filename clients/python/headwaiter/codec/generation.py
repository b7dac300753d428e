"""`generate`: arguments to requests, replies to results."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headwaiter_proto.v1 import inference_pb2

from headwaiter.codec.arguments import as_number, as_texts, as_unicode, as_version
from headwaiter.codec.timings import timings_of
from headwaiter.results import FinishReason, GenerateReply, GenerationResult

if TYPE_CHECKING:
    from collections.abc import Sequence

_FINISH_REASONS = {
    inference_pb2.FINISH_REASON_END_OF_SEQUENCE: FinishReason.END_OF_SEQUENCE,
    inference_pb2.FINISH_REASON_LENGTH: FinishReason.LENGTH,
}


def generate_request(
    texts: str | Sequence[str], *, model: str, version: int, max_new_tokens: int
) -> inference_pb2.GenerateRequest:
    """The request for one `generate` call.

    Raises:
        InvalidRequestError: A value cannot be written to the wire. The model's own limits are the server's to
        check.
    """
    return inference_pb2.GenerateRequest(
        model=as_unicode("model", model),
        version=as_version(version),
        texts=as_texts(texts),
        max_new_tokens=as_number("max_new_tokens", max_new_tokens),
    )


def generate_reply(response: inference_pb2.GenerateResponse) -> GenerateReply:
    """The result of one `generate` call."""
    return GenerateReply(
        model=response.model,
        version=response.version,
        variant=response.variant,
        generations=tuple(_generation(generation) for generation in response.generations),
        timings=timings_of(response.timings),
    )


def _generation(generation: inference_pb2.Generation) -> GenerationResult:
    return GenerationResult(
        text=generation.text,
        token_ids=tuple(generation.token_ids),
        finish_reason=_FINISH_REASONS.get(generation.finish_reason, FinishReason.UNKNOWN),
        source_tokens=generation.source_tokens,
    )
