"""The metrics port with TLS and a token, over real sockets: who gets in, and that a bad handshake holds up nobody."""

from __future__ import annotations

import base64
import http.client
import socket
import ssl
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http import HTTPStatus
from http.client import HTTPResponse, HTTPSConnection
from pathlib import Path

import pytest
from authority import Authority, Pair
from headwaiter_server.certificates import read_pair
from headwaiter_server.errors import ConfigError
from headwaiter_server.metrics import MetricsEndpoint, endpoint
from headwaiter_server.metrics.gate import Gate
from headwaiter_server.metrics.messages import Request, Response
from unit.server.test_metrics_endpoint import PATIENCE_SECONDS, ask, read_all, serving

TOKEN = "kzX~4:open-sesame/+="  # noqa: S105 - of this test
LARGE = b"0123456789abcdef" * (1 << 16)  # many records


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def pair(authority: Authority) -> Pair:
    return authority.issue("metrics")


@pytest.fixture
def trusting(authority: Authority) -> ssl.SSLContext:
    """A client's side, which trusts the authority alone."""
    return ssl.create_default_context(cafile=authority.certificate)


@contextmanager
def serving_tls(*pairs: Pair) -> Iterator[MetricsEndpoint]:
    """A server with `/echo` and `/large` that shows these certificates in turn, the last one for good."""
    contexts = [read_pair(each.certificate, each.key, ("--c", "--k")).context for each in pairs]

    def echo(request: Request) -> Response:
        return Response(request.path.encode())

    server = endpoint.serve(
        "127.0.0.1",
        0,
        {"/echo": echo, "/large": lambda _request: Response(LARGE)},
        context=lambda: contexts.pop(0) if len(contexts) > 1 else contexts[0],
    )
    try:
        yield server
    finally:
        server.close()


def ask_tls(server: MetricsEndpoint, context: ssl.SSLContext, path: str) -> tuple[HTTPResponse, bytes]:
    with closing(HTTPSConnection("127.0.0.1", server.port, timeout=PATIENCE_SECONDS, context=context)) as connection:
        connection.request("GET", path)
        response = connection.getresponse()
        return response, response.read()


def connect(server: MetricsEndpoint) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_SECONDS)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_answers_of_any_size_come_whole(pair: Pair, trusting: ssl.SSLContext, version: ssl.TLSVersion) -> None:
    """The end is told by TLS itself, so that nobody can cut an answer without being noticed."""
    trusting.maximum_version = version
    with serving_tls(pair) as server:
        for path, body in (("/echo", b"/echo"), ("/large", LARGE)):
            assert ask_tls(server, trusting, path)[1] == body
        with (
            connect(server) as plain,
            trusting.wrap_socket(plain, server_hostname="localhost", suppress_ragged_eofs=False) as secure,
        ):
            assert secure.version() == version.name.replace("_", ".")
            secure.sendall(b"GET /large HTTP/1.0\r\n\r\n")
            assert read_all(secure).endswith(LARGE)


def test_each_connection_is_shown_the_certificate_of_its_time(
    authority: Authority, pair: Pair, trusting: ssl.SSLContext
) -> None:
    other = authority.issue("next")
    with serving_tls(pair, other) as server:
        shown = []
        for _ in range(3):
            with connect(server) as plain, trusting.wrap_socket(plain, server_hostname="localhost") as secure:
                shown.append(secure.getpeercert(binary_form=True))
    first, second = (ssl.PEM_cert_to_DER_cert(each.certificate.read_text()) for each in (pair, other))
    assert shown == [first, second, second]


def test_bad_handshakes_end_and_hold_up_nobody(pair: Pair, trusting: ssl.SSLContext, tmp_path: Path) -> None:
    """Clear text, noise, half a handshake, silence and a client that does not trust; others are served beside them."""
    with serving_tls(pair) as server:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        with pytest.raises(ssl.SSLWantReadError):
            trusting.wrap_bio(incoming, outgoing, server_hostname="localhost").do_handshake()
        hello = outgoing.read()
        with connect(server), connect(server) as half, connect(server) as byte:
            half.sendall(hello[: len(hello) // 2])
            byte.sendall(hello[:1])
            for sent in (b"GET /echo HTTP/1.1\r\n\r\n", b"\0" * 4096):
                with connect(server) as noise:
                    noise.sendall(sent)
                    answer = read_all(noise)
                    assert b"HTTP/1.1" not in answer
            with pytest.raises(ssl.SSLCertVerificationError):
                ask_tls(server, ssl.create_default_context(cafile=Authority(tmp_path / "other").certificate), "/echo")
            assert ask_tls(server, trusting, "/echo")[1] == b"/echo"


def test_connections_in_their_handshake_are_bounded_too(
    pair: Pair, trusting: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest of too many gives way, however far it has come."""
    monkeypatch.setattr(endpoint, "_MOST_CONNECTIONS", 3)
    with serving_tls(pair) as server:
        silent = [connect(server) for _ in range(5)]
        assert ask_tls(server, trusting, "/echo")[1] == b"/echo"
        # Those that the server has let go of are at their end; of the others, one would wait in vain.
        assert [each.recv(1) for each in silent[:3]] == [b""] * 3
        for each in silent:
            each.close()


def test_a_handshake_has_only_so_much_time(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "_HEAD_SECONDS", 0.1)
    with serving_tls(pair) as server, connect(server) as silent:
        assert silent.recv(1) == b""


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    return path


def basic(text: str) -> str:
    return f"Basic {base64.b64encode(text.encode()).decode()}"


@pytest.mark.parametrize(
    "shown", [f"Bearer {TOKEN}", f"bearer   {TOKEN} ", basic(f":{TOKEN}"), basic(f"anybody:{TOKEN}")]
)
def test_the_token_opens_everything(token_file: Path, shown: str) -> None:
    """As a bearer token, or as the password of any user, which is how browsers send it."""
    with serving(gate=Gate(token_file)) as server:
        for path, status in (("/echo", HTTPStatus.OK), ("/nowhere", HTTPStatus.NOT_FOUND)):
            assert ask(server, path, Authorization=shown)[0].status == status


@pytest.mark.parametrize(
    "shown",
    [
        "",
        TOKEN,
        "Bearer",
        "Bearer ",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
        f"Bearer {TOKEN} {TOKEN}",
        f"Digest {TOKEN}",
        "Bearer \xfc",
        f"Basic {TOKEN}",
        "Basic ====",
        "Basic \xfc",
        basic(TOKEN),
        basic(f"{TOKEN}:"),
        basic(f"a:b:{TOKEN}"),
    ],
)
def test_anything_else_opens_nothing(token_file: Path, shown: str) -> None:
    """The answer is the same for every path, asks browsers for a password, and repeats nothing."""
    with serving(gate=Gate(token_file)) as server:
        for path in ("/echo", "/", "/nowhere"):
            for method in ("GET", "HEAD", "POST"):
                response, body = ask(server, path, method, **({"Authorization": shown} if shown else {}))
                assert response.status == HTTPStatus.UNAUTHORIZED
                assert response.headers["WWW-Authenticate"] == 'Basic realm="Headwaiter"'
                assert body == (b"" if method == "HEAD" else b"Unauthorized\n")


def test_two_headers_are_none(token_file: Path) -> None:
    with serving(gate=Gate(token_file)) as server, closing(connect(server)) as connection:
        line = f"Authorization: Bearer {TOKEN}\r\n"
        connection.sendall(f"GET /echo HTTP/1.1\r\n{line}{line}\r\n".encode())
        assert read_all(connection).startswith(b"HTTP/1.1 401 ")


def test_a_changed_token_takes_the_place_of_the_old_one(token_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(token_file)
    assert gate.admits(f"Bearer {TOKEN}")
    token_file.write_text(TOKEN[::-1])
    monkeypatch.setattr(gate._digest, "_due", 0.0)
    assert gate.admits(f"Bearer {TOKEN[::-1]}")
    assert not gate.admits(f"Bearer {TOKEN}")


def test_a_token_that_becomes_too_short_does_not_take_the_old_ones_place(
    token_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(token_file)
    token_file.write_text("short")
    monkeypatch.setattr(gate._digest, "_due", 0.0)
    assert not gate.admits("Bearer short")
    assert gate.admits(f"Bearer {TOKEN}")


@pytest.mark.parametrize("content", ["", " \n", "two words", "two\nlines", "s\xfcsse", "tab\tbed"])
def test_a_file_without_a_token_is_refused(tmp_path: Path, content: str) -> None:
    """In words that do not repeat it."""
    path = tmp_path / "token"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"--metrics-token-file: .*: a token is one word of printable") as caught:
        Gate(path)
    assert not content.strip() or content.strip() not in str(caught.value)


def test_a_token_that_can_be_guessed_is_refused(tmp_path: Path) -> None:
    """Where fewer than sixteen characters stand, in words that do not repeat them; sixteen will do."""
    path = tmp_path / "token"
    path.write_text("abcdefghijklmno\n")
    with pytest.raises(ConfigError, match=r"--metrics-token-file: .*: the token has 15 characters") as caught:
        Gate(path)
    assert "abc" not in str(caught.value)
    path.write_text("abcdefghijklmnop\n")
    assert Gate(path).admits("Bearer abcdefghijklmnop")


def test_half_an_answer_is_no_http(pair: Pair) -> None:
    """Who speaks clear text to a port with TLS is told so by his library, at once."""
    with serving_tls(pair) as server, pytest.raises((http.client.HTTPException, ConnectionError)):
        ask(server, "/echo")
