"""The HTTP server of the metrics port: a table of routes, on a thread of its own with an event loop of its own.

It shares nothing with the loop that serves calls, and is bounded in all it does: one request for each connection, a
head of a few kilobytes, and a time after which the connection is cut, however slowly the other side reads or writes.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import unquote

from headwaiter_server.log import get_logger

_log = get_logger(__name__)

# Prometheus and browsers send about one kilobyte.
_MOST_HEAD_BYTES = 16 << 10
_HEAD_SECONDS = 5.0
_MOST_SECONDS = 30.0
# Beyond so many connections the oldest one gives way: who asks now is served, whoever else is slow.
_MOST_CONNECTIONS = 64
# Threads on which routes are answered: one that hangs must not keep the others from being answered.
_THREADS = 4
_METHODS = ("GET", "HEAD")
_REQUEST_LINE = re.compile(r"(?P<method>[A-Z]{1,16}) (?P<path>/[^\s?]*)(?:\?(?P<query>\S*))? HTTP/1\.[01]")
_TEXT = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Request:
    """A request without a body.

    Attributes:
        path: Decoded, without the query.
        headers: By their names in lower case.
        query: What stood after the question mark, as it was sent.
    """

    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    query: str = ""


@dataclass(frozen=True, slots=True)
class Response:
    """An answer.

    Attributes:
        body: Its bytes.
        content_type: What they are.
        status: How the request went.
        headers: Further ones.
    """

    body: bytes
    content_type: str = _TEXT
    status: HTTPStatus = HTTPStatus.OK
    headers: Mapping[str, str] = field(default_factory=dict)


Route = Callable[[Request], Response]


@dataclass(frozen=True)
class MetricsEndpoint:
    """A listening server.

    Attributes:
        port: Its port.
        close: Ends it; called on another thread than its own.
    """

    port: int
    close: Callable[[], None]


def serve(host: str, port: int, routes: Mapping[str, Route]) -> MetricsEndpoint:
    """Answer requests, from threads of its own.

    Args:
        host: Address to listen on.
        port: Port; 0 takes a free one.
        routes: What answers each path, to GET and HEAD; called on threads, several at a time.

    Raises:
        OSError: The port cannot be had.
    """
    listener = _listen(host, port)
    server = _Server(listener, routes)
    thread = threading.Thread(target=server.run, name="metrics", daemon=True)
    thread.start()

    def close() -> None:
        server.stop()
        thread.join()

    return MetricsEndpoint(listener.getsockname()[1], close)


class _RefusedError(Exception):
    """A request that no route is asked about."""

    def __init__(self, status: HTTPStatus, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status.phrase)
        self.response = Response(f"{status.phrase}\n".encode(), status=status, headers=headers or {})


class _Server:
    """What runs on the thread."""

    def __init__(self, listener: socket.socket, routes: Mapping[str, Route]) -> None:
        self._listener = listener
        self._routes = routes
        self._loop = asyncio.new_event_loop()
        self._stopped = asyncio.Event()
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="metrics-route")
        # In the order in which they came.
        self._connections: dict[asyncio.Task[None], None] = {}

    def run(self) -> None:
        """Serve until `stop`."""
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()
            self._pool.shutdown(wait=False, cancel_futures=True)

    def stop(self) -> None:
        """End; called on another thread."""
        self._loop.call_soon_threadsafe(self._stopped.set)

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._connected, sock=self._listener, limit=_MOST_HEAD_BYTES)
        await self._stopped.wait()
        server.close()
        connections = list(self._connections)
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - start_server makes one for each connection
        self._connections[task] = None
        if len(self._connections) > _MOST_CONNECTIONS:
            oldest = next(iter(self._connections))
            del self._connections[oldest]
            oldest.cancel()
        try:
            with contextlib.suppress(TimeoutError, OSError, asyncio.CancelledError):
                async with asyncio.timeout(_MOST_SECONDS):
                    await self._converse(reader, writer)
        finally:
            self._connections.pop(task, None)
            writer.transport.abort()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        method = ""
        try:
            async with asyncio.timeout(_HEAD_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
            method, request = _parse(head)
            response = await self._answer(method, request)
        except asyncio.IncompleteReadError:
            return
        except asyncio.LimitOverrunError:
            response = _RefusedError(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE).response
        except _RefusedError as refused:
            response = refused.response
        writer.write(_serialized(response, with_body=method != "HEAD"))
        writer.write_eof()
        # Until the other side has read it all and closes: closing before that may cut what is still on its way.
        while await reader.read(_MOST_HEAD_BYTES):
            pass

    async def _answer(self, method: str, request: Request) -> Response:
        route = self._routes.get(request.path)
        if route is None:
            raise _RefusedError(HTTPStatus.NOT_FOUND)
        if method not in _METHODS:
            raise _RefusedError(HTTPStatus.METHOD_NOT_ALLOWED, {"Allow": ", ".join(_METHODS)})
        try:
            return await self._loop.run_in_executor(self._pool, route, request)
        except Exception as error:
            _log.exception("metrics_route_failed", path=request.path)
            raise _RefusedError(HTTPStatus.INTERNAL_SERVER_ERROR) from error


def _listen(host: str, port: int) -> socket.socket:
    family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_MOST_CONNECTIONS)
    except OSError:
        listener.close()
        raise
    return listener


def _parse(head: bytes) -> tuple[str, Request]:
    """The method and the request.

    Raises:
        _RefusedError: This is no HTTP.
    """
    first, *lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    match = _REQUEST_LINE.fullmatch(first)
    if match is None:
        raise _RefusedError(HTTPStatus.BAD_REQUEST)
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon:
            raise _RefusedError(HTTPStatus.BAD_REQUEST)
        key, value = name.strip().lower(), value.strip()
        headers[key] = f"{headers[key]}, {value}" if key in headers else value
    return match["method"], Request(unquote(match["path"]), headers, match["query"] or "")


def _serialized(response: Response, *, with_body: bool) -> bytes:
    headers = {
        "Content-Type": response.content_type,
        "Content-Length": str(len(response.body)),
        "X-Content-Type-Options": "nosniff",
        "Connection": "close",
        **response.headers,
    }
    lines = [f"HTTP/1.1 {response.status.value} {response.status.phrase}", *(f"{k}: {v}" for k, v in headers.items())]
    head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
    return head + response.body if with_body else head
