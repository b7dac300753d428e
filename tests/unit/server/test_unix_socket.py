"""Unix sockets: a dead server's is taken over, a living one's never."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2
from headwaiter_server.errors import ConfigError
from headwaiter_server.rpc.server import WHOLE_SERVER, GrpcServer
from headwaiter_server.rpc.unix_socket import check_unix_socket


@pytest.fixture
async def server() -> AsyncIterator[GrpcServer]:
    """A server without services of its own."""
    made = GrpcServer([], [], max_message_bytes=1 << 20, max_streams=10)
    yield made
    await made.stop(0)


async def healthy(address: str) -> bool:
    async with grpc.aio.insecure_channel(address) as channel:
        check: grpc.aio.UnaryUnaryMultiCallable[health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse]
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            health_pb2.HealthCheckRequest.SerializeToString,
            health_pb2.HealthCheckResponse.FromString,
        )
        answer = await check(health_pb2.HealthCheckRequest(service=WHOLE_SERVER), timeout=10)
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


async def test_socket_of_a_living_server_is_refused(server: GrpcServer, tmp_path: Path) -> None:
    """Another one cannot have it, and it goes on answering there."""
    address = f"unix:{tmp_path}/it.sock"
    assert server.listen(address) == address
    await server.start()
    await server.set_serving(WHOLE_SERVER, serving=True)
    other = GrpcServer([], [], max_message_bytes=1 << 20, max_streams=10)
    with pytest.raises(ConfigError, match="a server answers there"):
        other.listen(address)
    await other.stop(0)
    assert await healthy(address)


async def test_socket_of_a_dead_server_is_taken_over(server: GrpcServer, tmp_path: Path) -> None:
    """What a server that was killed has left is no hindrance."""
    path = tmp_path / "it.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()
    assert path.exists()
    server.listen(f"unix:{path}")
    await server.start()
    await server.set_serving(WHOLE_SERVER, serving=True)
    assert await healthy(f"unix:{path}")


def test_path_that_is_too_long(tmp_path: Path) -> None:
    """A path that no socket can have is refused in words."""
    with pytest.raises(ConfigError, match="AF_UNIX path too long"):
        check_unix_socket(f"unix:{tmp_path}/{'x' * 200}")


async def test_file_in_its_place_stays(server: GrpcServer, tmp_path: Path) -> None:
    """A file that is no socket is not removed, and refused."""
    path = tmp_path / "it.sock"
    path.write_text("mine")
    with pytest.raises(ConfigError, match="is it taken"):
        server.listen(f"unix:{path}")
    assert path.read_text() == "mine"
