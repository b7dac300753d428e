"""Between plain Python and the wire, for every client alike: arguments to requests, replies to results."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headwaiter_proto.v1 import bundle_pb2, inference_pb2

from headwaiter.errors import InvalidRequestError
from headwaiter.results import (
    FinishReason,
    GenerateReply,
    GenerationResult,
    Limits,
    ModelInfo,
    Task,
    Timings,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

_MAX_UINT32 = 2**32 - 1
_MAX_INT64 = 2**63 - 1

_FINISH_REASONS = {
    inference_pb2.FINISH_REASON_END_OF_SEQUENCE: FinishReason.END_OF_SEQUENCE,
    inference_pb2.FINISH_REASON_LENGTH: FinishReason.LENGTH,
}
_TASKS = {bundle_pb2.TASK_GENERATE: Task.GENERATE}


def generate_request(
    texts: str | Sequence[str], *, model: str, version: int, max_new_tokens: int
) -> inference_pb2.GenerateRequest:
    """The request for one `generate` call.

    Raises:
        InvalidRequestError: A value cannot be written to the wire. The model's own limits are the server's to
        check.
    """
    return inference_pb2.GenerateRequest(
        model=_unicode("model", model),
        version=_in_range("version", version, _MAX_INT64),
        texts=_texts(texts),
        max_new_tokens=_in_range("max_new_tokens", max_new_tokens, _MAX_UINT32),
    )


def get_model_request(*, model: str, version: int) -> inference_pb2.GetModelRequest:
    """The request for one `model` call.

    Raises:
        InvalidRequestError: A value cannot be written to the wire.
    """
    return inference_pb2.GetModelRequest(
        model=_unicode("model", model), version=_in_range("version", version, _MAX_INT64)
    )


def health_request(*, model: str) -> str:
    """The request for one `health` call: health services go by the model's name.

    Raises:
        InvalidRequestError: The name cannot be written to the wire.
    """
    return _unicode("service", model)


def generate_reply(response: inference_pb2.GenerateResponse) -> GenerateReply:
    """The result of one `generate` call."""
    return GenerateReply(
        model=response.model,
        version=response.version,
        variant=response.variant,
        generations=tuple(_generation(generation) for generation in response.generations),
        timings=_timings(response.timings),
    )


def model_infos(response: inference_pb2.ListModelsResponse) -> tuple[ModelInfo, ...]:
    """The result of one `models` call."""
    return tuple(_model_info(model) for model in response.models)


def model_info(response: inference_pb2.GetModelResponse) -> ModelInfo:
    """The result of one `model` call."""
    return _model_info(response.model)


def _texts(texts: str | Sequence[str]) -> list[str]:
    if isinstance(texts, str):
        texts = [texts]
    return [_unicode(f"texts[{index}]", text) for index, text in enumerate(texts)]


def _unicode(field: str, text: str) -> str:
    # A lone surrogate, as `surrogateescape` and JSON make them, has no UTF-8 form: name the field it is in.
    try:
        text.encode()
    except UnicodeEncodeError as error:
        description = f"holds {text[error.start]!r} at position {error.start}, which is not a Unicode character"
        raise InvalidRequestError(f"{field}: {description}", field, description) from error
    return text


def _in_range(field: str, value: int, maximum: int) -> int:
    if not 0 <= value <= maximum:
        description = f"is {value}, outside 0 to {maximum}"
        raise InvalidRequestError(f"{field}: {description}", field, description)
    return value


def _generation(generation: inference_pb2.Generation) -> GenerationResult:
    return GenerationResult(
        text=generation.text,
        token_ids=tuple(generation.token_ids),
        finish_reason=_FINISH_REASONS.get(generation.finish_reason, FinishReason.UNKNOWN),
        source_tokens=generation.source_tokens,
    )


def _timings(timings: inference_pb2.Timings) -> Timings:
    return Timings(
        total_seconds=timings.total_seconds,
        tokenize_seconds=timings.tokenize_seconds,
        queue_seconds=timings.queue_seconds,
        inference_seconds=timings.inference_seconds,
        batch_size=timings.batch_size,
        batch_tokens=timings.batch_tokens,
        batch_id=timings.batch_id,
    )


def _model_info(model: inference_pb2.ModelInfo) -> ModelInfo:
    return ModelInfo(
        name=model.name,
        version=model.version,
        task=_TASKS.get(model.task, Task.UNKNOWN),
        architecture=model.architecture,
        variant=model.variant,
        limits=Limits(max_source_tokens=model.limits.max_source_tokens, max_new_tokens=model.limits.max_new_tokens),
    )
