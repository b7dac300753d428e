"""The HTTP server of the metrics port: a table of routes, on a thread of its own with an event loop of its own.

It shares nothing with the loop that serves calls, and is bounded in all it does: one request for each connection, a
head of a few kilobytes, and a time after which the connection is cut, however slowly the other side reads or writes, or
makes a handshake.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http import HTTPStatus

from headwaiter_server.log import get_logger
from headwaiter_server.metrics.connections import Connection, PlainConnection, TlsConnection
from headwaiter_server.metrics.gate import Gate
from headwaiter_server.metrics.messages import RefusedError, Request, Response, Route, parse, read_head, serialized

_log = get_logger(__name__)

# Of a request's head, with the handshake before it.
_HEAD_SECONDS = 5.0
_MOST_SECONDS = 30.0
# Beyond so many connections the oldest one gives way: who asks now is served, whoever else is slow.
_MOST_CONNECTIONS = 64
# Threads on which routes are answered: one that hangs must not keep the others from being answered.
_THREADS = 4
_METHODS = ("GET", "HEAD")


@dataclass(frozen=True)
class MetricsEndpoint:
    """A listening server.

    Attributes:
        port: Its port.
        close: Ends it; called on another thread than its own.
    """

    port: int
    close: Callable[[], None]


def serve(
    host: str,
    port: int,
    routes: Mapping[str, Route],
    *,
    context: Callable[[], ssl.SSLContext] | None = None,
    gate: Gate | None = None,
) -> MetricsEndpoint:
    """Answer requests, from threads of its own.

    Args:
        host: Address to listen on.
        port: Port; 0 takes a free one.
        routes: What answers each path, to GET and HEAD; called on threads, several at a time.
        context: Gives each connection its TLS; None speaks clear text.
        gate: Says who may ask; None lets in everybody.

    Raises:
        OSError: The port cannot be had.
    """
    listener = _listen(host, port)
    server = _Server(listener, routes, context, gate)
    thread = threading.Thread(target=server.run, name="metrics", daemon=True)
    thread.start()

    def close() -> None:
        server.stop()
        thread.join()

    return MetricsEndpoint(listener.getsockname()[1], close)


class _Server:
    """What runs on the thread."""

    def __init__(
        self,
        listener: socket.socket,
        routes: Mapping[str, Route],
        context: Callable[[], ssl.SSLContext] | None,
        gate: Gate | None,
    ) -> None:
        self._listener = listener
        self._routes = routes
        self._context = context
        self._gate = gate
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
        server = await asyncio.start_server(self._connected, sock=self._listener)
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
                    await self._converse(self._secured(reader, writer))
        finally:
            self._connections.pop(task, None)
            writer.transport.abort()

    def _secured(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Connection:
        if self._context is None:
            return PlainConnection(reader, writer)
        return TlsConnection(reader, writer, self._context())

    async def _converse(self, connection: Connection) -> None:
        method = ""
        try:
            async with asyncio.timeout(_HEAD_SECONDS):
                head = await read_head(connection)
            method, request = parse(head)
            response = await self._answer(method, request)
        except EOFError:
            return
        except RefusedError as refused:
            response = refused.response
        await connection.end_with(serialized(response, with_body=method != "HEAD"))

    async def _answer(self, method: str, request: Request) -> Response:
        if self._gate is not None and not self._gate.admits(request.headers.get("authorization", "")):
            # Browsers ask for a password then; programs know what to send.
            raise RefusedError(HTTPStatus.UNAUTHORIZED, {"WWW-Authenticate": 'Basic realm="Headwaiter"'})
        route = self._routes.get(request.path)
        if route is None:
            raise RefusedError(HTTPStatus.NOT_FOUND)
        if method not in _METHODS:
            raise RefusedError(HTTPStatus.METHOD_NOT_ALLOWED, {"Allow": ", ".join(_METHODS)})
        try:
            return await self._loop.run_in_executor(self._pool, route, request)
        except Exception as error:
            _log.exception("metrics_route_failed", path=request.path)
            raise RefusedError(HTTPStatus.INTERNAL_SERVER_ERROR) from error


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
