"""The gRPC server: options, listeners, standard health and reflection."""

from __future__ import annotations

import asyncio
import logging
import resource
from collections.abc import Sequence
from functools import partial
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from headwaiter_server.access.gate import Gate
from headwaiter_server.certificates import Identity
from headwaiter_server.config import split_address
from headwaiter_server.errors import ConfigError
from headwaiter_server.lifecycle.memory import room_bytes
from headwaiter_server.rereading import Reread
from headwaiter_server.rpc.arrival import ArrivalHandlers, Arrivals
from headwaiter_server.rpc.standard import StandardServices
from headwaiter_server.rpc.tls import credentials
from headwaiter_server.rpc.unix_socket import check_unix_socket

WHOLE_SERVER = ""

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING

# Longer than any drain: what ends the calls that are left is `stop`, not this.
_NO_HURRY_SECONDS = 24 * 3600.0

_MOST_METADATA_BYTES = 16 << 10
_MOST_CONNECTIONS = 8192
# Calls that gRPC has and the event loop has not seen; bounded by what connections and their streams may have anyway.
_MOST_PENDING = 100_000


def _most_connections(listeners: int) -> int:
    """Connections that may be open on each listener: a quarter of the descriptors is left for all else."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = min(_MOST_CONNECTIONS, descriptors * 3 // 4) if descriptors > 0 else _MOST_CONNECTIONS
    return max(1, most // listeners)


def _is_worth_logging(record: logging.LogRecord) -> bool:
    """Whether what gRPC's core says is an error, and may be said.

    Cancelled are calls whose callers go, and the health watches when the server ends. And an internal error of gRPC's
    is what becomes of an answer whose caller has gone in the same moment: under overload, of many that are too late.
    Both are counted in the metrics. Of metadata that is no text gRPC would log each value whole, whenever it is looked
    at: a token among them, and as many lines as any stranger likes.
    """
    callers_own = (asyncio.CancelledError, grpc.aio.InternalError, UnicodeDecodeError)
    return record.exc_info is None or not isinstance(record.exc_info[1], callers_own)


class GrpcServer:
    """Listens and answers; knows the health of the server and of each model."""

    def __init__(
        self,
        handlers: Sequence[grpc.GenericRpcHandler],
        service_names: Sequence[str],
        *,
        max_message_bytes: int,
        max_streams: int,
        max_arriving_bytes: int = 64 << 20,
        memory_limit_bytes: int | None = None,
        listeners: int = 1,
        identity: Reread[Identity] | None = None,
        gate: Gate | None = None,
    ) -> None:
        """Set up a server that does not listen yet. Needs a running event loop.

        Args:
            handlers: The services.
            service_names: Their full names, for reflection.
            max_message_bytes: Largest message taken in.
            max_streams: Most calls at one time on one connection.
            max_arriving_bytes: Memory that messages on their way in may take.
            memory_limit_bytes: Memory that the process may take; None for no limit but the machine's.
            listeners: How many there will be: they share the connections, which gRPC counts for each by itself.
            identity: Certificates for TLS at HOST:PORT; None speaks clear text.
            gate: Who may ask for health and reflection; None lets in everybody.
        """
        logging.getLogger("grpc._cython.cygrpc").addFilter(_is_worth_logging)
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", max_message_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.max_concurrent_streams", max_streams),
                # Calls that are taken back at once (rapid reset): each counts among the streams until its sender has
                # answered a ping, so that these are a bound. And gRPC does not cancel some of all calls beside them.
                ("grpc.http2.ping_on_rst_stream_percent", 100),
                # On a fast link gRPC would else let every stream send megabytes ahead, whether or not anybody asks for
                # them. What is asked for is let through whole: a message of more than 64 KiB takes one round trip more.
                ("grpc.http2.bdp_probe", 0),
                ("grpc.server.max_pending_requests", _MOST_PENDING),
                ("grpc.server.max_pending_requests_hard_limit", _MOST_PENDING),
                # Each connection takes some 20 KB, and a descriptor. Those that have not spoken HTTP/2 by then, or have
                # no calls for so long, are closed; clients connect again by themselves.
                ("grpc.max_allowed_incoming_connections", _most_connections(listeners)),
                ("grpc.server_handshake_timeout_ms", 20_000),
                ("grpc.max_connection_idle_ms", 30 * 60_000),
                # By default, some calls with more than half of this are refused, by chance.
                ("grpc.max_metadata_size", _MOST_METADATA_BYTES),
                ("grpc.absolute_max_metadata_size", _MOST_METADATA_BYTES),
                # Two servers on one port would each get some of the calls, silently.
                ("grpc.so_reuseport", 0),
                # Keep-alive pings down to one in ten seconds are a client's good right, with or without calls.
                ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
                ("grpc.keepalive_permit_without_calls", 1),
                # A peer that is gone without a word is noticed, and its calls are cancelled.
                ("grpc.keepalive_time_ms", 60_000),
                ("grpc.keepalive_timeout_ms", 20_000),
            ]
        )
        self._arrivals = Arrivals(max_arriving_bytes, max_message_bytes, room=partial(room_bytes, memory_limit_bytes))
        self._gate = gate
        self._health = health.aio.HealthServicer()
        # As little of a server as the generated code asks for, which says that it wants a whole one.
        standard: Any = StandardServices(self, gate)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, standard)
        names = (*service_names, health.SERVICE_NAME, reflection.SERVICE_NAME)
        add_reflection: Any = reflection_pb2_grpc.add_ServerReflectionServicer_to_server
        add_reflection(reflection.aio.ReflectionServicer(names), standard)
        self.add_generic_rpc_handlers(handlers)
        self._identity = identity
        self._going: asyncio.Task[None] | None = None

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Add services, as to a server of gRPC's own; before it listens."""
        self._server.add_generic_rpc_handlers(
            tuple(ArrivalHandlers(self._arrivals, each, self._gate) for each in handlers)
        )

    def listen(self, address: str) -> str:
        """Add a listener.

        Args:
            address: HOST:PORT, with TLS where there are certificates, or unix:PATH; port 0 takes a free one.

        Returns:
            The address with the port that was taken.

        Raises:
            ConfigError: The address cannot be had.
        """
        check_unix_socket(address)
        try:
            if self._identity is None or address.startswith("unix:"):
                port = self._server.add_insecure_port(address)
            else:
                port = self._server.add_secure_port(address, credentials(self._identity))
        except RuntimeError as error:
            raise ConfigError(f"cannot listen on {address}: is it taken? --listen chooses another") from error
        if address.startswith("unix:"):
            return address
        host, _ = split_address(address)
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    async def start(self) -> None:
        """Take calls."""
        await self._server.start()

    async def set_serving(self, name: str, *, serving: bool) -> None:
        """Set the health of a model, or of the whole server by `WHOLE_SERVER`."""
        await self._health.set(name, _SERVING if serving else _NOT_SERVING)

    async def leave(self) -> None:
        """Say NOT_SERVING for everything, for good; calls are still taken."""
        await self._health.enter_graceful_shutdown()

    async def go_away(self) -> None:
        """Send every client elsewhere: the listeners close, and no connection takes another call (HTTP/2's GOAWAY).

        Calls that were taken go on. A client with other addresses makes its next call there; told by a status instead,
        it would try again on this very connection.
        """
        self._going = asyncio.create_task(self._server.stop(_NO_HURRY_SECONDS))
        # Its first turn is all that it takes to tell the clients; then it waits for the calls.
        await asyncio.sleep(0)

    async def stop(self, grace_seconds: float) -> None:
        """Close the listeners, if they are not yet; calls that are not over after the grace time are cancelled."""
        await self._server.stop(grace_seconds)
        if self._going is not None:
            await self._going
