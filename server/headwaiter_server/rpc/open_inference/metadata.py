"""`ServerMetadata`, `ModelMetadata` and `ModelReady`: what the server is, and what its models take and give."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from headwaiter_proto.inference import grpc_service_pb2
from headwaiter_proto.v1 import bundle_pb2

from headwaiter_server.errors import UnknownModelError
from headwaiter_server.lifecycle.catalog import ServedModel
from headwaiter_server.model.contract import TensorSpec
from headwaiter_server.pipeline import Pipeline
from headwaiter_server.rpc.crossing import Crossing
from headwaiter_server.rpc.edge import Method
from headwaiter_server.rpc.messages import parse
from headwaiter_server.rpc.open_inference.parameters import read_version
from headwaiter_server.scheduling.admission import Permit

# Whatever the task, an ONNX model runs on onnxruntime; tools know both by these names.
PLATFORM: Final = "onnxruntime_onnx"
BACKEND: Final = "onnxruntime"

_NAME = "headwaiter"
# What the protocol's documents call the parts of it that every server of ours offers.
_ALWAYS = ("classification", "model_configuration", "parameters", "schedule_policy", "statistics")
_CONTROL = ("logging", "model_repository")
_SHARED_MEMORY = "system_shared_memory"
# Of a classifier with more, only how many there are.
_MOST_LABELS = 100


def extensions(*, control: bool, shared_memory: bool) -> list[str]:
    """What the server offers beyond the core protocol.

    Args:
        control: Whether callers may load and unload models, and set up the log.
        shared_memory: Whether tensors may lie in shared memory.
    """
    return sorted([*_ALWAYS, *(_CONTROL if control else ()), *([_SHARED_MEMORY] if shared_memory else ())])


class Metadata:
    """Tells what the server and its models are."""

    def __init__(self, pipeline: Pipeline, version: str, ready: Callable[[], bool], offered: Sequence[str]) -> None:
        """Set up.

        Args:
            pipeline: Has the models.
            version: Of the server.
            ready: Whether the server takes requests now.
            offered: Its `extensions`.
        """
        self._pipeline = pipeline
        self._version = version
        self._ready = ready
        self._offered = offered

    def methods(self) -> dict[str, Method]:
        """Its methods by name."""
        return {
            "ModelReady": self.model_ready,
            "ServerMetadata": self.server_metadata,
            "ModelMetadata": self.model_metadata,
        }

    async def model_ready(self, data: bytes, _permit: Permit, crossing: Crossing) -> bytes:
        """Say whether a model takes requests; one that is not there does not."""
        message = parse(grpc_service_pb2.ModelReadyRequest, data)
        version = read_version(message.version, "version")
        ready = self._ready()
        try:
            crossing.recognize(self._pipeline.find(message.name, version))
        except UnknownModelError:
            ready = False
        return grpc_service_pb2.ModelReadyResponse(ready=ready).SerializeToString()

    async def server_metadata(self, data: bytes, _permit: Permit, _crossing: Crossing) -> bytes:
        """Say what the server is and can do."""
        parse(grpc_service_pb2.ServerMetadataRequest, data)
        return grpc_service_pb2.ServerMetadataResponse(
            name=_NAME, version=self._version, extensions=self._offered
        ).SerializeToString()

    async def model_metadata(self, data: bytes, _permit: Permit, crossing: Crossing) -> bytes:
        """Say what a model takes and gives."""
        message = parse(grpc_service_pb2.ModelMetadataRequest, data)
        model = self._pipeline.find(message.name, read_version(message.version, "version"))
        crossing.recognize(model)
        return grpc_service_pb2.ModelMetadataResponse(
            name=model.name,
            versions=[str(each.version) for each in self._pipeline.models() if each.name == model.name],
            platform=PLATFORM,
            inputs=_tensors(model.signature.inputs),
            outputs=_tensors(model.signature.outputs),
            properties=dict(_properties(model)),
        ).SerializeToString()


def _tensors(specs: Iterable[TensorSpec]) -> list[grpc_service_pb2.ModelMetadataResponse.TensorMetadata]:
    return [
        grpc_service_pb2.ModelMetadataResponse.TensorMetadata(name=each.name, datatype=each.datatype, shape=each.shape)
        for each in specs
    ]


def _properties(model: ServedModel) -> Iterator[tuple[str, str]]:
    """What else a caller may want to know, as text."""
    manifest, limits = model.manifest, model.manifest.limits
    yield "task", model.task
    yield "variant", model.variant
    if manifest.architecture:
        yield "architecture", manifest.architecture
    if manifest.graph_kind:
        yield "graph_kind", bundle_pb2.GraphKind.Name(manifest.graph_kind).removeprefix("GRAPH_KIND_").lower()
    if model.setup is not None:  # of tensors
        yield "joined", str(model.signature.joined).lower()
    for field, value in limits.ListFields():
        yield field.name, str(value)
    if model.signature.more_outputs:
        yield "more_outputs", json.dumps([each.name for each in model.signature.more_outputs])
    if manifest.labels:
        yield "label_count", str(len(manifest.labels))
        if len(manifest.labels) <= _MOST_LABELS:
            yield "labels", json.dumps(list(manifest.labels), ensure_ascii=False)
        yield "multi_label", json.dumps(manifest.multi_label)
    if manifest.HasField("embedding"):
        yield "normalized", json.dumps(manifest.embedding.normalized)
        if manifest.embedding.prompts:
            yield "prompts", json.dumps(sorted(manifest.embedding.prompts), ensure_ascii=False)
            yield "default_prompt", manifest.embedding.default_prompt
