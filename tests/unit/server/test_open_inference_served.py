"""What a whole server says that it offers, held to what it does when it is asked."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from headwaiter_proto.inference import grpc_service_pb2
from headwaiter_server.log import logged, set_logged

from .served import ask, serving

ALWAYS = {"classification", "model_configuration", "parameters", "schedule_policy", "statistics"}


@pytest.fixture(autouse=True)
def log_as_it_was() -> Iterator[None]:
    before = logged()
    yield
    set_logged(before)


def what_each_needs() -> dict[str, tuple[tuple[str, Message], ...]]:
    """By extension, calls that only a server with it answers with OK."""
    log = grpc_service_pb2.LogSettingsRequest()
    log.settings["log_verbose_level"].uint32_param = 0
    return {
        "model_configuration": (("ModelConfig", grpc_service_pb2.ModelConfigRequest(name="small")),),
        "statistics": (("ModelStatistics", grpc_service_pb2.ModelStatisticsRequest(name="small")),),
        "logging": (("LogSettings", log),),
        "model_repository": (
            ("RepositoryIndex", grpc_service_pb2.RepositoryIndexRequest()),
            ("RepositoryModelLoad", grpc_service_pb2.RepositoryModelLoadRequest(model_name="small")),
            ("RepositoryModelUnload", grpc_service_pb2.RepositoryModelUnloadRequest(model_name="small")),
        ),
        "system_shared_memory": (
            ("SystemSharedMemoryUnregister", grpc_service_pb2.SystemSharedMemoryUnregisterRequest()),
            ("SystemSharedMemoryRegister", grpc_service_pb2.SystemSharedMemoryRegisterRequest(name="n", key="/none")),
        ),
    }


async def code(channel: grpc.aio.Channel, method: str, request: Message) -> grpc.StatusCode:
    """How a call ends."""
    try:
        await ask(channel, method, request)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


@pytest.mark.parametrize(
    ("settings", "more"),
    [
        ({"model_control": "explicit", "shared_memory": "on"}, {"logging", "model_repository", "system_shared_memory"}),
        ({"model_control": "explicit", "shared_memory": "off"}, {"logging", "model_repository"}),
        ({"model_control": "none", "shared_memory": "on"}, {"system_shared_memory"}),
        ({"model_control": "poll", "shared_memory": "off"}, set()),
    ],
    ids=["all", "control", "memory", "neither"],
)
async def test_extensions_are_those_that_work(settings: dict[str, Any], more: set[str], tmp_path: Path) -> None:
    """What is advertised is answered; of what is not advertised, something is UNIMPLEMENTED."""
    async with serving(tmp_path, **settings) as channel:
        answer = grpc_service_pb2.ServerMetadataResponse.FromString(
            await ask(channel, "ServerMetadata", grpc_service_pb2.ServerMetadataRequest())
        )
        assert (answer.name, answer.version) == ("headwaiter", version("headwaiter"))
        assert set(answer.extensions) == ALWAYS | more
        for extension, calls in what_each_needs().items():
            codes = [await code(channel, *call) for call in calls]
            assert (grpc.StatusCode.UNIMPLEMENTED in codes) is (extension not in answer.extensions), (extension, codes)
