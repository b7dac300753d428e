"""`models`, `model` and `health`: arguments to requests, replies to results."""

from __future__ import annotations

from headwaiter_proto.v1 import bundle_pb2, inference_pb2

from headwaiter.codec.arguments import as_unicode, as_version
from headwaiter.results import EmbeddingInfo, GraphKind, Limits, ModelInfo, Task

_TASKS = {
    bundle_pb2.TASK_GENERATE: Task.GENERATE,
    bundle_pb2.TASK_EMBED: Task.EMBED,
    bundle_pb2.TASK_CLASSIFY: Task.CLASSIFY,
    bundle_pb2.TASK_TAG: Task.TAG,
    bundle_pb2.TASK_RERANK: Task.RERANK,
    bundle_pb2.TASK_TENSOR: Task.TENSOR,
}
_GRAPH_KINDS = {
    bundle_pb2.GRAPH_KIND_PADDED: GraphKind.PADDED,
    bundle_pb2.GRAPH_KIND_PACKED: GraphKind.PACKED,
    bundle_pb2.GRAPH_KIND_CACHED: GraphKind.CACHED,
}


def get_model_request(*, model: str, version: int) -> inference_pb2.GetModelRequest:
    """The request for one `model` call.

    Raises:
        InvalidRequestError: A value cannot be written to the wire.
    """
    return inference_pb2.GetModelRequest(model=as_unicode("model", model), version=as_version(version))


def health_request(*, model: str) -> str:
    """The request for one `health` call: health services go by the model's name.

    Raises:
        InvalidRequestError: The name cannot be written to the wire.
    """
    return as_unicode("service", model)


def model_infos(response: inference_pb2.ListModelsResponse) -> tuple[ModelInfo, ...]:
    """The result of one `models` call."""
    return tuple(_model_info(model) for model in response.models)


def model_info(response: inference_pb2.GetModelResponse) -> ModelInfo:
    """The result of one `model` call."""
    return _model_info(response.model)


def _model_info(model: inference_pb2.ModelInfo) -> ModelInfo:
    return ModelInfo(
        name=model.name,
        version=model.version,
        task=_TASKS.get(model.task, Task.UNKNOWN),
        architecture=model.architecture,
        variant=model.variant,
        limits=Limits(
            max_source_tokens=model.limits.max_source_tokens,
            max_new_tokens=model.limits.max_new_tokens,
            max_total_tokens=model.limits.max_total_tokens,
        ),
        graph_kind=_GRAPH_KINDS.get(model.graph_kind, GraphKind.UNKNOWN),
        labels=tuple(model.labels),
        embedding=_embedding(model.embedding) if model.HasField("embedding") else None,
    )


def _embedding(embedding: bundle_pb2.Embedding) -> EmbeddingInfo:
    return EmbeddingInfo(
        dimension=embedding.dimension,
        normalized=embedding.normalized,
        prompts=dict(embedding.prompts),
        default_prompt=embedding.default_prompt,
    )
