from __future__ import annotations

import io
import os
import sys
from typing import TYPE_CHECKING

import pytest
from headwaiter import cli
from unit.client.scripted_server import SERVING, ScriptedServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import grpc
    from unit.client.scripted_server import AnswerStreamScript, Script, StreamScript


@pytest.fixture
def serve() -> Iterator[Callable[..., ScriptedServer]]:
    """Starts scripted servers, and stops them after the test."""
    servers: list[ScriptedServer] = []

    def start(
        scripts: dict[str, Script] | None = None,
        *,
        streams: dict[str, StreamScript] | None = None,
        answer_streams: dict[str, AnswerStreamScript] | None = None,
        watch: bytes | None = SERVING,
        credentials: grpc.ServerCredentials | None = None,
    ) -> ScriptedServer:
        servers.append(
            ScriptedServer(
                scripts, streams=streams, answer_streams=answer_streams, watch=watch, credentials=credentials
            )
        )
        return servers[-1].start()

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def server(serve: Callable[..., ScriptedServer]) -> ScriptedServer:
    """A server that generates upper case."""
    return serve()


@pytest.fixture
def headwaiter(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str, str]]:
    """Runs the command in this process: its exit code, what it printed, what it complained about."""
    for name in [name for name in os.environ if name.startswith("HEADWAITER_CLIENT_")]:
        monkeypatch.delenv(name)

    def run(*arguments: str, stdin: bytes = b"") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        with pytest.raises(SystemExit) as ended:
            cli.main(arguments)
        assert isinstance(ended.value.code, int)
        return ended.value.code, *capsys.readouterr()

    return run
