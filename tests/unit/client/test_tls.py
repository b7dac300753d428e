from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
import pytest
from authority import Authority
from headwaiter import TLS, AsyncClient, Client, ServerUnreachableError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from unit.client.scripted_server import ScriptedServer

BEARER = "s3cret"


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an authority, and what it signed for a server named `headwaiter.test` and for a client."""
    folder = tmp_path_factory.mktemp("certificates")
    authority = Authority(folder)
    for name in ("server", "client"):
        authority.issue(name, hosts="DNS:headwaiter.test")
    return folder


@pytest.fixture
def secure_server(serve: Callable[..., ScriptedServer], certificates: Path) -> ScriptedServer:
    """A server that speaks TLS and asks for a client's certificate."""
    pair = ((certificates / "server.key").read_bytes(), (certificates / "server.pem").read_bytes())
    authority = (certificates / "authority.pem").read_bytes()
    return serve(credentials=grpc.ssl_server_credentials([pair], authority, require_client_auth=True))


async def test_both_sides_prove_who_they_are(secure_server: ScriptedServer, certificates: Path) -> None:
    """With an authority, an own certificate and the server's name both clients are served; a token rides along."""
    tls = TLS(
        ca_file=certificates / "authority.pem",
        cert_file=certificates / "client.pem",
        key_file=certificates / "client.key",
        server_name="headwaiter.test",
    )
    with Client(secure_server.target, tls=tls, token=BEARER) as client:
        client.generate("a")
        client.health()
    async with AsyncClient(secure_server.target, tls=tls, token=BEARER) as async_client:
        await async_client.generate("a")
    assert [call.metadata["authorization"] for call in secure_server.calls] == [f"Bearer {BEARER}"] * 3


@pytest.mark.parametrize("wrong", ["name", "authority", "no certificate", "clear text"])
def test_anything_less_is_refused(secure_server: ScriptedServer, certificates: Path, wrong: str) -> None:
    """A wrong name, an untrusted authority, a missing certificate and clear text all end before any call."""
    name = None if wrong == "name" else "headwaiter.test"
    authority = certificates / ("client.pem" if wrong == "authority" else "authority.pem")
    own = [None, None] if wrong == "no certificate" else [certificates / f"client.{kind}" for kind in ("pem", "key")]
    tls = None if wrong == "clear text" else TLS(authority, own[0], own[1], name)
    with Client(secure_server.target, tls=tls, retries=False) as client, pytest.raises(ServerUnreachableError):
        client.generate("a")
    assert secure_server.calls == []


def test_a_key_needs_its_certificate(certificates: Path) -> None:
    """Half a key pair is refused at once, and so is a file that is not there."""
    with pytest.raises(ValueError, match="belong together"):
        TLS(key_file=certificates / "client.key")
    with pytest.raises(FileNotFoundError):
        Client(tls=TLS(ca_file=certificates / "nowhere.pem"))


def test_tokens_go_nowhere_in_clear_text() -> None:
    """Without TLS a token is for this machine only, unless the caller insists."""
    with pytest.raises(ValueError, match="clear text"):
        Client("example.org:8001", token=BEARER)
    Client("example.org:8001", token=BEARER, allow_plaintext_token=True).close()
    Client("example.org:8001", token=BEARER, tls=TLS()).close()


async def test_tokens_reach_this_machine(server: ScriptedServer) -> None:
    """On loopback the token rides in every call's metadata, from both clients."""
    with Client(server.target, token=BEARER) as client:
        client.generate("a")
    async with AsyncClient(server.target, token=BEARER) as async_client:
        await async_client.health()
    assert [call.metadata["authorization"] for call in server.calls] == [f"Bearer {BEARER}"] * 2


@pytest.mark.parametrize("token", ["", "two words", "line\nbreak", "pässword"])
def test_tokens_that_cannot_travel_are_refused(token: str) -> None:
    """A token that no header can hold is refused without being repeated."""
    with pytest.raises(ValueError, match="token") as caught:
        Client(token=token)
    assert not token or token not in str(caught.value)
    assert "strip()" in str(caught.value)  # a file's last line ends, and that is what is mostly wrong


def test_tokens_are_not_shown() -> None:
    """Neither the client nor what it prepared prints its token."""
    client = Client("localhost:1", token=BEARER)
    assert BEARER not in repr(client) + repr(client._connection)
    client.close()
