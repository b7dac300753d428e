"""RepositoryIndex, RepositoryModelLoad and RepositoryModelUnload."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from headwaiter_proto.inference import grpc_service_pb2

from headwaiter_server.config.version_policy import VersionPolicy
from headwaiter_server.errors import InvalidRequestError, UnsupportedError
from headwaiter_server.lifecycle.states import IndexEntry, State
from headwaiter_server.lifecycle.version_override import parse_override
from headwaiter_server.rpc.crossing import Crossing
from headwaiter_server.rpc.edge import Method
from headwaiter_server.rpc.messages import parse
from headwaiter_server.scheduling.admission import Permit

_CONFIG = "config"
_FILES = "file:"
_DEPENDENTS = "unload_dependents"
# What is repeated of a name that a caller has made up.
_MOST_NAME_CHARACTERS = 100


class Models(Protocol):
    """Who owns what is loaded."""

    async def load(self, name: str, policy: VersionPolicy | None = None) -> None:
        """Have a model serve."""
        ...

    async def unload(self, name: str) -> None:
        """Have it not serve."""
        ...

    async def index(self) -> list[IndexEntry]:
        """What there is."""
        ...


class Repository:
    """The methods, on raw bytes."""

    def __init__(self, models: Models, *, control: str) -> None:
        """Set up.

        Args:
            models: Who owns what is loaded.
            control: Who says what that is; callers do with "explicit".
        """
        self._models = models
        self._control = control

    def methods(self) -> Mapping[str, Method]:
        """By name. All are answered also when the server is full: to roll back may be what helps."""
        return {
            "RepositoryIndex": self.index,
            "RepositoryModelLoad": self.load,
            "RepositoryModelUnload": self.unload,
        }

    async def index(self, data: bytes, _permit: Permit, _crossing: Crossing) -> bytes:
        """List every version of every model that the repository holds, loaded or not."""
        request = parse(grpc_service_pb2.RepositoryIndexRequest, data)
        _refuse_other_repositories(request.repository_name)
        response = grpc_service_pb2.RepositoryIndexResponse(
            models=[
                grpc_service_pb2.RepositoryIndexResponse.ModelIndex(
                    name=entry.name,
                    version=str(entry.version) if entry.version else "",
                    state=entry.state.value,
                    reason=entry.reason,
                )
                for entry in await self._models.index()
                if entry.state is State.READY or not request.ready
            ]
        )
        return response.SerializeToString()

    async def load(self, data: bytes, _permit: Permit, _crossing: Crossing) -> bytes:
        """Load a model, or load it again; answered when it serves."""
        request = parse(grpc_service_pb2.RepositoryModelLoadRequest, data)
        self._check_control()
        _refuse_other_repositories(request.repository_name)
        policy = None
        for name, parameter in request.parameters.items():
            if name.startswith(_FILES):
                raise UnsupportedError(
                    f"parameters[{name[:_MOST_NAME_CHARACTERS]}]", "models are loaded from the model repository only"
                )
            if name != _CONFIG or parameter.WhichOneof("parameter_choice") != "string_param":
                raise _unknown(name, "config, a string")
            policy = parse_override(parameter.string_param, request.model_name)
        await self._models.load(request.model_name, policy)
        return grpc_service_pb2.RepositoryModelLoadResponse().SerializeToString()

    async def unload(self, data: bytes, _permit: Permit, _crossing: Crossing) -> bytes:
        """Unload a model; answered when its calls are, and its memory is free."""
        request = parse(grpc_service_pb2.RepositoryModelUnloadRequest, data)
        self._check_control()
        _refuse_other_repositories(request.repository_name)
        for name, parameter in request.parameters.items():
            # No model depends on another: whatever it says is done.
            if name != _DEPENDENTS or parameter.WhichOneof("parameter_choice") != "bool_param":
                raise _unknown(name, f"{_DEPENDENTS}, a boolean")
        await self._models.unload(request.model_name)
        return grpc_service_pb2.RepositoryModelUnloadResponse().SerializeToString()

    def _check_control(self) -> None:
        if self._control != "explicit":
            raise UnsupportedError(
                "model_name", f"callers cannot load or unload models here: --model-control is {self._control}"
            )


def _refuse_other_repositories(name: str) -> None:
    if name:
        raise InvalidRequestError(
            "repository_name", f"is {name[:_MOST_NAME_CHARACTERS]!r}, this server has one repository without a name"
        )


def _unknown(name: str, known: str) -> InvalidRequestError:
    return InvalidRequestError(f"parameters[{name[:_MOST_NAME_CHARACTERS]}]", f"is unknown, or no such; known: {known}")
