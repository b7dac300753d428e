"""gRPC's own services, health and reflection, with errors as all others have them.

gRPC answers whatever a handler raises, or its bytes that cannot be read, with UNKNOWN and the text of the exception.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol

import grpc
from google.protobuf.message import DecodeError

from headwaiter_server.access.gate import Door, Gate, Visitor
from headwaiter_server.errors import InvalidRequestError
from headwaiter_server.rpc.status import status_of

Handlers = Mapping[str, Any]
# Names of services and symbols; parsing far more would hold up all other calls.
_LONGEST_REQUEST_BYTES = 4096
_Context = grpc.aio.ServicerContext[Any, Any]


class Services(Protocol):
    """What services are added to."""

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Add services."""
        ...


class StandardServices:
    """What a service of gRPC's own is added to, in the server's place."""

    def __init__(self, server: Services, gate: Gate | None = None) -> None:
        """Set up.

        Args:
            server: Where the services go in the end.
            gate: Who may call what; None lets everybody call everything.
        """
        self._server = server
        self._gate = gate

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """Take nothing: what is added so is added by name, too."""

    def add_registered_method_handlers(self, service: str, handlers: Handlers) -> None:
        """Add a service.

        Args:
            service: Its full name.
            handlers: Its methods, by name.
        """
        gate = self._gate
        guarded = {
            name: _guarded(handler, None if gate is None else gate.door(f"{service}/{name}"))
            for name, handler in handlers.items()
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, guarded),))


class _Watching:
    """The context of a call that is told of what changes; its caller is held to what it may, each time it is told."""

    def __init__(self, context: _Context, visitor: Visitor) -> None:
        self._context = context
        self._visitor = visitor

    async def write(self, message: object) -> None:
        """Send a message."""
        self._visitor.client()
        await self._context.write(message)


def _guarded(
    handler: Any,  # noqa: ANN401 - gRPC's types leave out what it holds
    door: Door | None,
) -> grpc.RpcMethodHandler[Any, Any]:
    """A handler that is given bytes, and whose errors are told as ours are.

    Args:
        handler: The handler.
        door: What its callers come through; None if it is open to everybody.
    """
    read, write = handler.request_deserializer, handler.response_serializer

    async def unary(data: bytes, context: _Context) -> object:
        async with _told(context):
            if door is not None:
                door.enter(context.invocation_metadata())
            return await handler.unary_unary(_read(read, data), context)

    async def telling(data: bytes, context: _Context) -> None:
        async with _told(context):
            watching = context if door is None else _Watching(context, door.open(context.invocation_metadata()))
            await handler.unary_stream(_read(read, data), watching)

    async def conversing(requests: AsyncIterable[bytes], context: _Context) -> AsyncIterator[object]:
        async with _told(context):
            visitor = None if door is None else door.open(context.invocation_metadata())
            async for answer in handler.stream_stream(_each(read, requests, visitor), context):
                yield answer

    if handler.request_streaming:
        return grpc.stream_stream_rpc_method_handler(conversing, response_serializer=write)
    if handler.response_streaming:
        return grpc.unary_stream_rpc_method_handler(telling, response_serializer=write)
    return grpc.unary_unary_rpc_method_handler(unary, response_serializer=write)


@asynccontextmanager
async def _told(context: _Context) -> AsyncIterator[None]:
    try:
        yield
    except grpc.aio.AbortError:  # the service has said itself how the call ends
        raise
    except grpc.aio.InternalError:
        # What becomes of a write whose caller has gone in this moment; gRPC is about to cancel the call.
        raise asyncio.CancelledError from None
    except NotImplementedError:  # of a method that the service's file has, and its servicer has not
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "the server does not do that")
    except Exception as error:  # noqa: BLE001 - whatever it is, it is told as a status
        status = status_of(error)
        await context.abort(status.code, status.message, status.trailers)


async def _each(
    read: Any,  # noqa: ANN401 - as above
    requests: AsyncIterable[bytes],
    visitor: Visitor | None,
) -> AsyncIterator[object]:
    async for data in requests:
        if visitor is not None:
            visitor.pay()
        yield _read(read, data)


def _read(read: Any, data: bytes) -> object:  # noqa: ANN401 - as above
    """A request.

    Raises:
        InvalidRequestError: The bytes are none, or more than such a request ever has.
    """
    if len(data) > _LONGEST_REQUEST_BYTES:
        raise InvalidRequestError(
            "message", f"has {len(data)} bytes, the limit is {_LONGEST_REQUEST_BYTES} for this method"
        )
    try:
        return read(data)
    except DecodeError as error:
        raise InvalidRequestError("message", "is no request of this method") from error
