"""`Generate` and `GenerateStream`: protobuf to plain Python and back."""

from __future__ import annotations

from collections.abc import Sequence

from headwaiter_proto.v1 import inference_pb2

from headwaiter_server.generation.decoding import MOST_STOP_TOKEN_IDS, MOST_STOPS, Decoding
from headwaiter_server.generation.sequence import FinishReason
from headwaiter_server.lifecycle.catalog import ServedModel
from headwaiter_server.pipeline import (
    GeneratedText,
    GenerationPiece,
    GenerationReply,
    GenerationRequest,
    WrittenToken,
)
from headwaiter_server.rpc.messages import timings_message
from headwaiter_server.rpc.wire import Counted, Few

COUNTED = Counted(
    {inference_pb2.GenerateRequest.TEXTS_FIELD_NUMBER: "texts"},
    few={
        inference_pb2.GenerateRequest.STOP_FIELD_NUMBER: Few("stop", MOST_STOPS),
        inference_pb2.GenerateRequest.STOP_TOKEN_IDS_FIELD_NUMBER: Few(
            "stop_token_ids", MOST_STOP_TOKEN_IDS, packed=True
        ),
    },
)

_FINISH_REASONS = {
    FinishReason.END_OF_SEQUENCE: inference_pb2.FINISH_REASON_END_OF_SEQUENCE,
    FinishReason.LENGTH: inference_pb2.FINISH_REASON_LENGTH,
    FinishReason.STOP: inference_pb2.FINISH_REASON_STOP,
}


def read_request(message: inference_pb2.GenerateRequest) -> GenerationRequest:
    """The request in plain Python."""
    return GenerationRequest(
        message.model,
        message.version,
        message.texts,
        Decoding(
            max_new_tokens=message.max_new_tokens,
            temperature=message.temperature,
            top_k=message.top_k,
            top_p=message.top_p if message.HasField("top_p") else 1.0,
            repetition_penalty=message.repetition_penalty if message.HasField("repetition_penalty") else 1.0,
            seed=message.seed if message.HasField("seed") else None,
            num_beams=message.num_beams or 1,
            num_return_sequences=message.num_return_sequences or 1,
            length_penalty=message.length_penalty if message.HasField("length_penalty") else 1.0,
            stop=tuple(message.stop),
            stop_token_ids=frozenset(message.stop_token_ids),
            logprobs=message.logprobs if message.HasField("logprobs") else None,
            attention=message.attention,
        ),
    )


def write_reply(reply: GenerationReply, total_seconds: float) -> inference_pb2.GenerateResponse:
    """The reply on the wire."""
    return inference_pb2.GenerateResponse(
        model=reply.model.name,
        version=reply.model.version,
        variant=reply.model.variant,
        generations=[_generation(each) for each in reply.texts],
        timings=timings_message(reply.timings, total_seconds),
    )


def write_piece(piece: GenerationPiece) -> inference_pb2.GenerateStreamResponse:
    """A piece on the wire."""
    message = inference_pb2.GenerateStreamResponse(
        index=piece.index, text=piece.text, token_ids=piece.token_ids, token_seconds=piece.token_seconds
    )
    if piece.logprobs:
        message.logprobs.extend(_logprobs(piece.logprobs))
    if piece.finished is not None:
        message.finished.CopyFrom(_rest(piece.finished))
    return message


def introduce(message: inference_pb2.GenerateStreamResponse, model: ServedModel) -> None:
    """Say in a stream's first message who answers."""
    message.model, message.version, message.variant = model.name, model.version, model.variant


def _generation(text: GeneratedText) -> inference_pb2.Generation:
    generation = _rest(text)
    generation.text = text.text
    generation.token_ids.extend(text.token_ids)
    generation.token_seconds.extend(text.token_seconds)
    generation.logprobs.extend(_logprobs(text.logprobs))
    return generation


def _rest(text: GeneratedText) -> inference_pb2.Generation:
    """What is known of a text but for what pieces tell."""
    return inference_pb2.Generation(
        finish_reason=_FINISH_REASONS[text.finish_reason],
        source_tokens=text.source_tokens,
        score=text.score,
        alternatives=[
            inference_pb2.Hypothesis(
                text=each.text,
                token_ids=each.token_ids,
                score=each.score,
                finish_reason=_FINISH_REASONS[each.finish_reason],
            )
            for each in text.alternatives
        ],
        attention=_attention(text),
        stopped_by="" if text.stopped_by is None else str(text.stopped_by),
        seed=text.seed,
    )


def _attention(text: GeneratedText) -> inference_pb2.Attention | None:
    if (attention := text.attention) is None:
        return None
    _, layers, heads, _ = attention.weights.shape
    return inference_pb2.Attention(
        layers=layers,
        heads=heads,
        source_tokens=attention.source_tokens,
        tokens=attention.tokens,
        weights=attention.weights.astype("<f4", copy=False).tobytes(),
    )


def _logprobs(tokens: Sequence[WrittenToken]) -> list[inference_pb2.TokenLogprob]:
    return [
        inference_pb2.TokenLogprob(
            logprob=each.logprob,
            top_token_ids=each.top_ids,
            top_logprobs=each.top_logprobs,
            token=each.token,
            top_tokens=each.top_tokens,
        )
        for each in tokens
    ]
