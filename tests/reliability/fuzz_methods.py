"""Every method that the server answers, with valid requests to begin from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from headwaiter_proto.inference import grpc_service_pb2 as oip
from headwaiter_proto.v1 import inference_pb2 as v1
from reliability.fuzz_seeds import seeds

# What callers may do to others' models.
CONTROLS = ("RepositoryModelLoad", "RepositoryModelUnload")

_V1 = v1.DESCRIPTOR.services_by_name["InferenceService"]
_OIP = oip.DESCRIPTOR.services_by_name["GRPCInferenceService"]
_HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"]
_REFLECTION = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"]

# How often a method is asked; those that only answer questions seldom.
_SELDOM = 0.5
_WEIGHTS = {
    "ModelInfer": 40,
    "ModelStreamInfer": 10,
    "Embed": 12,
    "EmbedStream": 8,
    "Classify": 12,
    "Tag": 12,
    "Rerank": 12,
    "Tokenize": 10,
    "Generate": 4,
    "GenerateStream": 3,
    "RepositoryModelLoad": 0.3,
    "Watch": 0.3,
}


@dataclass(frozen=True)
class Method:
    """One method.

    Attributes:
        path: `/package.Service/Method`.
        kind: Its requests' message.
        weight: How often it is asked, among the others.
        sends_many: Whether its requests are a stream.
        gets_many: Whether its answers are.
        seeds: Valid requests.
    """

    path: str
    kind: type[Message]
    weight: float
    sends_many: bool
    gets_many: bool
    seeds: tuple[Message, ...]

    @property
    def name(self) -> str:
        """Without its service."""
        return self.path.rpartition("/")[2]

    @property
    def endless(self) -> bool:
        """Whether it goes on until its caller has enough."""
        return self.name == "Watch"

    @property
    def computes(self) -> bool:
        """Whether a good answer comes from the tokenizer or a model."""
        return "Infer" in self.name or (self.path.startswith(f"/{_V1.full_name}/") and "Model" not in self.name)


def methods() -> list[Method]:
    """All of them."""
    valid: dict[str, list[Message]] = {}
    for seed in seeds():
        valid.setdefault(seed.DESCRIPTOR.full_name, []).append(seed)
    return [_method(each, valid) for service in (_V1, _OIP, _HEALTH, _REFLECTION) for each in service.methods]


def _method(
    described: Any,  # noqa: ANN401 - one of two classes, as protobuf is built
    valid: Mapping[str, list[Message]],
) -> Method:
    kind = GetMessageClass(described.input_type)
    return Method(
        f"/{described.containing_service.full_name}/{described.name}",
        kind,
        _WEIGHTS.get(described.name, _SELDOM),
        described.client_streaming,
        described.server_streaming,
        tuple(valid.get(described.input_type.full_name, (kind(),))),
    )
