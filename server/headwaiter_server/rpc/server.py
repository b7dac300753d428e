"""The gRPC server: options, listeners, standard health and reflection."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from headwaiter_server.config import split_address
from headwaiter_server.errors import ConfigError

WHOLE_SERVER = ""

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def _is_worth_logging(record: logging.LogRecord) -> bool:
    """Whether what gRPC's core says is an error.

    Cancelled are calls whose callers go, and the health watches when the server ends. And an internal error of gRPC's
    is what becomes of an answer whose caller has gone in the same moment: under overload, of many that are too late.
    Both are counted in the metrics.
    """
    gone = (asyncio.CancelledError, grpc.aio.InternalError)
    return record.exc_info is None or not isinstance(record.exc_info[1], gone)


class GrpcServer:
    """Listens and answers; knows the health of the server and of each model."""

    def __init__(
        self,
        handlers: Sequence[grpc.GenericRpcHandler],
        service_names: Sequence[str],
        *,
        max_message_bytes: int,
        max_streams: int,
    ) -> None:
        """Set up a server that does not listen yet. Needs a running event loop.

        Args:
            handlers: The services.
            service_names: Their full names, for reflection.
            max_message_bytes: Largest message taken in.
            max_streams: Most calls at one time on one connection.
        """
        logging.getLogger("grpc._cython.cygrpc").addFilter(_is_worth_logging)
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", max_message_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.max_concurrent_streams", max_streams),
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
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (*service_names, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)
        self._server.add_generic_rpc_handlers(tuple(handlers))

    def listen(self, address: str) -> str:
        """Add a listener.

        Args:
            address: HOST:PORT or unix:PATH; port 0 takes a free one.

        Returns:
            The address with the port that was taken.

        Raises:
            ConfigError: The address cannot be had.
        """
        try:
            port = self._server.add_insecure_port(address)
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

    async def stop(self, grace_seconds: float) -> None:
        """Close the listeners; calls that are not over after the grace time are cancelled."""
        await self._server.stop(grace_seconds)
