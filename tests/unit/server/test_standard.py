"""Health and reflection, as every service: bytes that are none are refused in our words, and what breaks is masked."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
import pytest
from grpc_health.v1 import health, health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2
from headwaiter_server.rpc.server import GrpcServer

Code = grpc.StatusCode
CHECK, WATCH, LIST = (f"/grpc.health.v1.Health/{name}" for name in ("Check", "Watch", "List"))
REFLECT = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
QUESTION = health_pb2.HealthCheckRequest().SerializeToString()
SERVICES = reflection_pb2.ServerReflectionRequest(list_services="").SerializeToString()


@pytest.fixture
async def target() -> AsyncIterator[str]:
    server = GrpcServer([], ["a.Service"], max_message_bytes=1 << 20, max_streams=10)
    address = server.listen("127.0.0.1:0")
    await server.start()
    yield address
    await server.stop(0)


async def ended(target: str, path: str, data: bytes) -> tuple[Code, str]:
    """How a call of one message ends."""
    async with grpc.aio.insecure_channel(target) as channel:
        method: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(path)
        call = method(iter([data]), timeout=10)
        try:
            async for _ in call:
                if path == WATCH:
                    break
        except grpc.aio.AioRpcError as error:
            return error.code(), error.details() or ""
        call.cancel()
        return Code.OK, ""


async def test_they_answer(target: str) -> None:
    for path, data in ((CHECK, QUESTION), (WATCH, QUESTION), (REFLECT, SERVICES)):
        assert await ended(target, path, data) == (Code.OK, "")
    unknown = health_pb2.HealthCheckRequest(service="nobody").SerializeToString()
    assert (await ended(target, CHECK, unknown))[0] is Code.NOT_FOUND


@pytest.mark.parametrize("path", [CHECK, WATCH, REFLECT])
async def test_bytes_that_are_no_request(target: str, path: str) -> None:
    """Of gRPC itself they get UNKNOWN, and the text of an exception."""
    assert await ended(target, path, b"\xff" * 9) == (Code.INVALID_ARGUMENT, "message: is no request of this method")


@pytest.mark.parametrize("path", [CHECK, WATCH, REFLECT])
async def test_long_requests_are_not_parsed(target: str, path: str) -> None:
    """What they ask for has names; more would hold up the calls of others."""
    code, words = await ended(target, path, b"\xff" * 5000)
    assert (code, words) == (Code.INVALID_ARGUMENT, "message: has 5000 bytes, the limit is 4096 for this method")


async def test_method_that_nobody_has_written(target: str) -> None:
    """It is in the service's file, and says so."""
    assert (await ended(target, LIST, b""))[0] is Code.UNIMPLEMENTED


@pytest.mark.parametrize("path", [CHECK, WATCH, REFLECT])
async def test_what_breaks_is_masked(path: str, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its text goes to the log, under a number that the caller is given."""

    class Secret:
        def __getattr__(self, name: str) -> None:
            raise RuntimeError("secret")

    for kind in (health.aio.HealthServicer, reflection.aio.ReflectionServicer):
        for name in ("_server_status", "_server_watchers", "_service_names"):
            monkeypatch.setattr(kind, name, property(lambda _: Secret().anything, lambda *_: None), raising=False)
    code, words = await ended(target, path, SERVICES if path == REFLECT else QUESTION)
    assert code is Code.INTERNAL
    assert words.startswith("internal error ")
    assert "secret" not in words
