"""Descriptions of models on the wire."""

from __future__ import annotations

from headwaiter_proto.v1 import inference_pb2

from headwaiter_server.lifecycle.catalog import ServedModel


def model_info(model: ServedModel) -> inference_pb2.ModelInfo:
    """What a caller needs to know of a model."""
    manifest = model.manifest
    return inference_pb2.ModelInfo(
        name=model.name,
        version=model.version,
        task=manifest.task,
        architecture=manifest.architecture,
        variant=model.variant,
        limits=manifest.limits,
        graph_kind=manifest.graph_kind,
        labels=manifest.labels,
        embedding=manifest.embedding if manifest.HasField("embedding") else None,
    )
