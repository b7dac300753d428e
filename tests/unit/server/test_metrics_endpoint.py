"""The HTTP server of the metrics port, over real sockets: what it answers, and that nobody can hold it up."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http import HTTPStatus
from http.client import HTTPConnection, HTTPResponse

import pytest
from headwaiter_server.metrics import MetricsEndpoint, endpoint
from headwaiter_server.metrics.gate import Gate
from headwaiter_server.metrics.messages import Request, Response, Route

# Longer than anything here takes: only a test that fails waits for so long.
PATIENCE_SECONDS = 30


def echo(request: Request) -> Response:
    """Tells what was asked."""
    return Response(f"{request.path} {request.headers.get('accept', '')}".encode(), headers={"X-Route": "echo"})


def broken(request: Request) -> Response:
    raise RuntimeError("secret of the route")


@contextmanager
def serving(gate: Gate | None = None, **routes: Route) -> Iterator[MetricsEndpoint]:
    """A server with these routes, each by its name, and `/echo`, for those whom the gate lets in."""
    table = {"/": echo, "/echo": echo, "/a b": echo, **{f"/{name}": route for name, route in routes.items()}}
    server = endpoint.serve("127.0.0.1", 0, table, gate=gate)
    try:
        yield server
    finally:
        server.close()


def ask(server: MetricsEndpoint, path: str, method: str = "GET", **headers: str) -> tuple[HTTPResponse, bytes]:
    """The answer to one request, by the standard library's client."""
    with closing(HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE_SECONDS)) as connection:
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        return response, response.read()


def exchange(server: MetricsEndpoint, sent: bytes) -> bytes:
    """What comes back for these bytes until the connection is closed."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_SECONDS) as connection:
        connection.sendall(sent)
        return read_all(connection)


def read_all(connection: socket.socket) -> bytes:
    received = b""
    while data := connection.recv(1 << 16):
        received += data
    return received


def push_on(connection: socket.socket) -> None:
    """Send for as long as the other side keeps the connection, or patience lasts."""
    for _ in range(100 * PATIENCE_SECONDS):
        connection.sendall(b"x")
        time.sleep(0.01)


def test_routes_answer_by_their_path() -> None:
    """The path decides, decoded and without the query; the route's own headers are sent."""
    with serving() as server:
        for path, told in (("/echo", "/echo"), ("/echo?x=1&y", "/echo"), ("/a%20b", "/a b"), ("/", "/")):
            response, body = ask(server, path, Accept="text/x")
            assert (response.status, body.decode()) == (HTTPStatus.OK, f"{told} text/x")
            assert response.headers["X-Route"] == "echo"
            assert response.headers["Content-Length"] == str(len(body))
            assert response.headers["Connection"] == "close"


def test_headers_given_twice_count_together() -> None:
    """A header that comes in two lines means the same as both in one."""
    with serving() as server:
        answer = exchange(server, b"GET /echo HTTP/1.1\r\nAccept: text/x\r\naccept:text/y\r\n\r\n")
    assert answer.endswith(b"\r\n\r\n/echo text/x, text/y")


def test_head_tells_the_length_and_sends_no_body() -> None:
    """HEAD is GET without the body."""
    with serving() as server:
        answer = exchange(server, b"HEAD /echo HTTP/1.1\r\n\r\n")
    assert b"Content-Length: 6\r\n" in answer
    assert answer.endswith(b"\r\n\r\n")


def test_paths_and_methods_without_a_route_are_refused() -> None:
    """404 for a path nobody knows, 405 and what would do for another method."""
    with serving() as server:
        assert ask(server, "/echo/x")[0].status == HTTPStatus.NOT_FOUND
        assert ask(server, "/nowhere", "POST")[0].status == HTTPStatus.NOT_FOUND
        response, _ = ask(server, "/echo", "POST")
        assert response.status == HTTPStatus.METHOD_NOT_ALLOWED
        assert response.headers["Allow"] == "GET, HEAD"


@pytest.mark.parametrize(
    "head",
    [
        b"\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET echo HTTP/1.1\r\n\r\n",
        b"GET /echo HTTP/2.0\r\n\r\n",
        b"get /echo HTTP/1.1\r\n\r\n",
        b"GET /echo  HTTP/1.1\r\n\r\n",
        b"GET /echo HTTP/1.1\r\nno colon\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\xfc\x03\x03\r\n\r\n",
    ],
)
def test_what_is_no_http_is_refused(head: bytes) -> None:
    """Bytes that are no request are answered with 400, and the server goes on."""
    with serving() as server:
        assert exchange(server, head).startswith(b"HTTP/1.1 400 ")
        assert ask(server, "/echo")[0].status == HTTPStatus.OK


def test_a_route_that_fails_says_nothing_of_why() -> None:
    """500 without the error's words, and the server goes on."""
    with serving(broken=broken) as server:
        response, body = ask(server, "/broken")
        assert response.status == HTTPStatus.INTERNAL_SERVER_ERROR
        assert b"secret" not in body
        assert ask(server, "/echo")[0].status == HTTPStatus.OK


@pytest.mark.parametrize("line", [b"GET /%b HTTP/1.1\r\n", b"GET /echo HTTP/1.1\r\nX: %b\r\n"])
def test_a_head_without_end_is_refused(line: bytes) -> None:
    """A request line or headers beyond 16 KiB are not kept: 431, and the connection ends."""
    with serving() as server:
        assert exchange(server, line % (b"x" * 20_000)).startswith(b"HTTP/1.1 431 ")


def test_a_large_answer_arrives_whole() -> None:
    """An answer far larger than any buffer is there to its last byte, also for who reads late."""
    body = bytes(range(256)) * (40_000)
    with serving(large=lambda _: Response(body)) as server:
        assert exchange(server, b"GET /large HTTP/1.1\r\n\r\n").partition(b"\r\n\r\n")[2] == body


def test_who_never_asks_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that sends no whole request is ended by the server itself."""
    # What is sent must be there by then: after the end it would be answered with a reset.
    monkeypatch.setattr(endpoint, "_HEAD_SECONDS", 0.5)
    monkeypatch.setattr(endpoint, "_MOST_SECONDS", 100 * PATIENCE_SECONDS)
    with serving() as server:
        for sent in (b"", b"GET /echo HTTP/1.1\r\n"):
            assert exchange(server, sent) == b""


def test_who_does_not_read_the_answer_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that is not taken is given up."""
    monkeypatch.setattr(endpoint, "_MOST_SECONDS", 0.2)
    with (
        serving(large=lambda _: Response(bytes(64 << 20))) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_SECONDS) as connection,
    ):
        connection.sendall(b"GET /large HTTP/1.1\r\n\r\n")
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            push_on(connection)


def test_slow_connections_do_not_keep_others_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """With more connections than are allowed, all of them silent, who asks is still answered; the oldest gives way."""
    monkeypatch.setattr(endpoint, "_MOST_CONNECTIONS", 4)
    for seconds in ("_HEAD_SECONDS", "_MOST_SECONDS"):
        monkeypatch.setattr(endpoint, seconds, 100 * PATIENCE_SECONDS)
    with serving() as server:
        silent = [socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_SECONDS) for _ in range(12)]
        try:
            assert ask(server, "/echo")[1] == b"/echo "
            assert [read_all(connection) for connection in silent[:8]] == [b""] * 8
        finally:
            for connection in silent:
                connection.close()


def test_a_hanging_route_does_not_keep_others_from_being_answered() -> None:
    """While one page is still being made, others are served."""
    hanging, proceed = threading.Event(), threading.Event()

    def slow(request: Request) -> Response:
        hanging.set()
        assert proceed.wait(PATIENCE_SECONDS)
        return Response(b"at last")

    with serving(slow=slow) as server, closing(HTTPConnection("127.0.0.1", server.port)) as connection:
        connection.request("GET", "/slow")
        assert hanging.wait(PATIENCE_SECONDS)
        assert ask(server, "/echo")[1] == b"/echo "
        proceed.set()
        assert connection.getresponse().read() == b"at last"


async def test_nothing_of_it_runs_on_the_callers_event_loop() -> None:
    """While a scrape is held, the loop of the thread that started the server turns on, and has no part in it."""
    hanging, proceed = threading.Event(), threading.Event()
    threads = []

    def held(request: Request) -> Response:
        threads.append(threading.current_thread())
        hanging.set()
        assert proceed.wait(PATIENCE_SECONDS)
        return Response(b"done")

    with serving(held=held) as server:
        scrape = asyncio.create_task(asyncio.to_thread(ask, server, "/held"))
        while not hanging.is_set():
            await asyncio.sleep(0)
        for _ in range(100):  # a loop that was blocked would get to none of these
            await asyncio.sleep(0)
        assert not scrape.done()
        proceed.set()
        assert (await scrape)[1] == b"done"
    assert threading.current_thread() not in threads


def test_port_is_given_back_and_held_connections_end() -> None:
    """After `close` nobody is answered, nobody hangs, and the port can be had again."""
    with serving() as server:
        silent = socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_SECONDS)
        ask(server, "/echo")
    with closing(silent):
        assert read_all(silent) == b""
    with pytest.raises(ConnectionRefusedError):
        ask(server, "/echo")
    again = endpoint.serve("127.0.0.1", server.port, {"/echo": echo})
    try:
        assert ask(again, "/echo")[1] == b"/echo "
    finally:
        again.close()


def test_a_port_that_is_taken_is_refused_at_once() -> None:
    """The error comes to who asked for the port, in the system's own words."""
    with serving() as server, pytest.raises(OSError, match="already in use") as caught:
        endpoint.serve("127.0.0.1", server.port, {})
    assert caught.value.strerror == "Address already in use"


def test_ipv6_addresses_are_served() -> None:
    """A host may be an IPv6 address."""
    try:
        server = endpoint.serve("::1", 0, {"/echo": echo})
    except OSError as error:
        pytest.skip(f"this machine has no IPv6: {error}")
    try:
        with closing(HTTPConnection("::1", server.port, timeout=PATIENCE_SECONDS)) as connection:
            connection.request("GET", "/echo")
            assert connection.getresponse().read() == b"/echo "
    finally:
        server.close()
