"""Which role each method takes: the one table, also of docs/access.md. A method that is not in it is not offered."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final


class Role(StrEnum):
    """What a client may do."""

    INFER = "infer"
    OBSERVE = "observe"
    CONTROL = "control"


_INFER: Final = frozenset({Role.INFER})
_OBSERVE: Final = frozenset({Role.OBSERVE})
_CONTROL: Final = frozenset({Role.CONTROL})
# Who calls a model needs to know how, and who watches the server what it has.
_ASK: Final = frozenset({Role.INFER, Role.OBSERVE})
_READ: Final = frozenset({Role.OBSERVE, Role.CONTROL})
_ANY: Final = frozenset(Role)

_ROLES: Final[dict[str, dict[str, frozenset[Role]]]] = {
    "headwaiter.v1.InferenceService": {
        "Generate": _INFER,
        "GenerateStream": _INFER,
        "Embed": _INFER,
        "EmbedStream": _INFER,
        "Classify": _INFER,
        "Tag": _INFER,
        "Rerank": _INFER,
        "Tokenize": _INFER,
        "ListModels": _ASK,
        "GetModel": _ASK,
    },
    "inference.GRPCInferenceService": {
        "ServerLive": _ANY,
        "ServerReady": _ANY,
        "ModelReady": _ANY,
        "ServerMetadata": _ASK,
        "ModelMetadata": _ASK,
        "ModelConfig": _ASK,
        "ModelInfer": _INFER,
        "ModelStreamInfer": _INFER,
        "ModelStatistics": _OBSERVE,
        # Whoever loads models must see which there are.
        "RepositoryIndex": _READ,
        "RepositoryModelLoad": _CONTROL,
        "RepositoryModelUnload": _CONTROL,
        # A region is known to all callers by its name, and registering one lets them have the server read it.
        "SystemSharedMemoryStatus": _READ,
        "SystemSharedMemoryRegister": _CONTROL,
        "SystemSharedMemoryUnregister": _CONTROL,
        "CudaSharedMemoryStatus": _READ,
        "CudaSharedMemoryRegister": _CONTROL,
        "CudaSharedMemoryUnregister": _CONTROL,
        # To change a setting takes `control` in any case; see `open_inference/settings.py`.
        "TraceSetting": _READ,
        "LogSettings": _READ,
    },
    "grpc.health.v1.Health": {"Check": _ANY, "Watch": _ANY, "List": _ANY},
    "grpc.reflection.v1alpha.ServerReflection": {"ServerReflectionInfo": _OBSERVE},
}

# Of each method, `package.Service/Method`, the roles any one of which is enough.
METHOD_ROLES: Final[Mapping[str, frozenset[Role]]] = MappingProxyType(
    {f"{service}/{method}": roles for service, methods in _ROLES.items() for method, roles in methods.items()}
)

# Methods that tell only whether something serves: open to everybody, where health is.
HEALTH_METHODS: Final = frozenset(
    {
        *(f"grpc.health.v1.Health/{method}" for method in _ROLES["grpc.health.v1.Health"]),
        *(f"inference.GRPCInferenceService/{method}" for method in ("ServerLive", "ServerReady", "ModelReady")),
    }
)
