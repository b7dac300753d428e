from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from unit.client.scripted_server import SERVING, ScriptedServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import grpc
    from unit.client.scripted_server import Script


@pytest.fixture
def serve() -> Iterator[Callable[..., ScriptedServer]]:
    """Starts scripted servers, and stops them after the test."""
    servers: list[ScriptedServer] = []

    def start(
        scripts: dict[str, Script] | None = None,
        *,
        watch: bytes | None = SERVING,
        credentials: grpc.ServerCredentials | None = None,
    ) -> ScriptedServer:
        servers.append(ScriptedServer(scripts, watch=watch, credentials=credentials))
        return servers[-1].start()

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def server(serve: Callable[..., ScriptedServer]) -> ScriptedServer:
    """A server that generates upper case."""
    return serve()
