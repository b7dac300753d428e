"""The edge every call crosses: clock, deadline, admission before parsing, errors to statuses, recording."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, Awaitable, Callable
from typing import TypeVar

import grpc

from headwaiter_server.access.gate import Gate
from headwaiter_server.errors import DeadlineUnreachableError, DrainingError, InvalidRequestError
from headwaiter_server.metrics import Metrics
from headwaiter_server.rpc.crossing import (
    CACHE_HITS_KEY,
    Context,
    Crossing,
    cancelled_code,
    known_times,
    terms_of,
)
from headwaiter_server.rpc.status import status_of
from headwaiter_server.rpc.stream import BeginSpan, MessageStream, StreamMethod, Write
from headwaiter_server.scheduling.admission import RETRY_SECONDS, Admission, Permit
from headwaiter_server.scheduling.calls import Terms
from headwaiter_server.tracing import Tracing

# Of a call that is answered also when the server is full: parsing it must cost next to nothing, whatever is in it.
_LONGEST_QUESTION_BYTES = 1 << 16

UnaryHandler = Callable[[bytes, Context], Awaitable[bytes]]
TellingHandler = Callable[[bytes, Context], Awaitable[None]]
StreamHandler = Callable[[AsyncIterable[bytes], Context], Awaitable[None]]
Method = Callable[[bytes, Permit, Crossing], Awaitable[bytes]]
TellingMethod = Callable[[bytes, Permit, Crossing, Write], Awaitable[None]]

# What a handler returns to gRPC: the message of a unary call, nothing where messages are written.
Answer = TypeVar("Answer", bound=bytes | None)


class Edge:
    """Wraps methods into handlers."""

    def __init__(
        self,
        admission: Admission,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
        tracing: Tracing | None = None,
        gate: Gate | None = None,
    ) -> None:
        """Set up.

        Args:
            admission: Gives permits.
            metrics: Where calls are recorded.
            clock: The scheduler's clock.
            tracing: Told of calls that are traced; None if none is.
            gate: Who may call what; None lets everybody call everything.
        """
        self._admission = admission
        self._metrics = metrics
        self._tracing = tracing
        self._gate = gate
        self._streams: set[MessageStream] = set()
        self._leaving: DrainingError | None = None
        self.clock = clock

    def unary(self, name: str, method: Method, *, always: bool = False) -> UnaryHandler:
        """A gRPC handler for a method on raw bytes.

        Args:
            name: `package.Service/Method`, for metrics.
            method: Parses, computes, serializes; what it raises becomes a status.
            always: Whether it is answered also when the server is full or ends, as it asks about just that; if its
                message is short.
        """
        return self._handler(
            name,
            lambda request, permit, crossing, _context: method(request, permit, crossing),
            self._let_in if always else self._admission.admit,
        )

    def telling(self, name: str, method: TellingMethod) -> TellingHandler:
        """A gRPC handler for a method that answers one message with many; all in all one call, as a unary one is.

        Its permit is held until the last message is written. `write` returns when there is room for another message:
        a caller that reads slowly holds up its own call only.

        Args:
            name: `package.Service/Method`, for metrics.
            method: Parses, computes, serializes and writes; what it raises becomes the status, after all that is
                written.
        """

        async def tell(request: bytes, permit: Permit, crossing: Crossing, context: Context) -> None:
            try:
                await method(request, permit, crossing, context.write)
            except grpc.aio.InternalError:
                # What becomes of a write whose caller has gone in this moment; gRPC is about to cancel the call.
                raise asyncio.CancelledError from None

        return self._handler(name, tell, self._admission.admit)

    def _handler(
        self,
        name: str,
        method: Callable[[bytes, Permit, Crossing, Context], Awaitable[Answer]],
        admit: Callable[[int, str, float], Permit],
    ) -> Callable[[bytes, Context], Awaitable[Answer]]:
        """What calls of one message cross, whatever they are answered with."""
        self._metrics.method_offered(name)
        door = None if self._gate is None else self._gate.door(name)

        async def handle(request: bytes, context: Context) -> Answer:
            started = self.clock()
            crossing = Crossing(Terms(started))
            if self._tracing is not None:
                crossing.span = self._tracing.begin(name, started, context.invocation_metadata() or ())
            code = grpc.StatusCode.OK
            self._metrics.call_started(name)
            try:
                if door is not None:
                    # Known first: also what is refused is counted under its client.
                    crossing.client = door.recognize(context.invocation_metadata())
                    door.admit(crossing.client)
                crossing.terms = terms = terms_of(started, context, crossing.client)
                terms.trail.span = crossing.span
                with admit(len(request), terms.fairness_key, terms.weight) as permit:
                    if crossing.client is not None:
                        permit.quota = crossing.client.text_quota(self.clock)
                    answer = await method(request, permit, crossing, context)
            except asyncio.CancelledError:
                code = cancelled_code(crossing, self.clock())
                raise
            except Exception as error:
                status = status_of(error)
                code = status.code
                crossing.unreachable = isinstance(error, DeadlineUnreachableError)
                await context.abort(code, status.message, (*status.trailers, *known_times(crossing, self.clock())))
                raise  # abort never returns
            else:
                if hits := crossing.terms.trail.cache_hits:
                    crossing.trailers += ((CACHE_HITS_KEY, str(hits)),)
                if crossing.trailers:
                    context.set_trailing_metadata(crossing.trailers)
                return answer
            finally:
                crossing.finish(name, code, self.clock(), self._metrics)

        return handle

    def stream(self, method: StreamMethod) -> StreamHandler:
        """A gRPC handler for a stream of messages, each of which is admitted, answered and recorded like a call.

        Args:
            method: Whose messages they are.
        """
        name = method.name
        self._metrics.method_offered(name)
        door = None if self._gate is None else self._gate.door(name)

        async def handle(requests: AsyncIterable[bytes], context: Context) -> None:
            started = self.clock()
            stream: MessageStream | None = None
            crossing = Crossing(Terms(started))
            try:
                visitor = None
                if door is not None:
                    crossing.client = door.recognize(context.invocation_metadata())
                    visitor = door.open(context.invocation_metadata())
                terms = terms_of(started, context, None if visitor is None else visitor.client())
                stream = MessageStream(
                    method,
                    requests,
                    context.write,
                    terms,
                    admission=self._admission,
                    metrics=self._metrics,
                    clock=self.clock,
                    begin_span=self._begin_span(name, context),
                    visitor=visitor,
                )
                await self._serve(stream)
            except Exception as error:
                status = status_of(error)
                if stream is None:
                    # No message was read that would be recorded in its place.
                    self._metrics.call_started(name)
                    if (begin_span := self._begin_span(name, context)) is not None:
                        crossing.span = begin_span(started)
                    crossing.finish(name, status.code, self.clock(), self._metrics)
                await context.abort(status.code, status.message, status.trailers)
                raise  # abort never returns

        return handle

    def leave(self) -> None:
        """Have every stream answer the messages it holds, and end; calls are turned away by admission."""
        self._leaving = DrainingError("the server is shutting down", RETRY_SECONDS)
        for stream in self._streams:
            stream.end(self._leaving)

    def _let_in(self, size_bytes: int, _key: str, _weight: float) -> Permit:
        if size_bytes > _LONGEST_QUESTION_BYTES:
            raise InvalidRequestError(
                "message", f"has {size_bytes} bytes, the limit is {_LONGEST_QUESTION_BYTES} for this method"
            )
        # Counted to nobody: who asks so without a token may call itself by any client's name.
        return self._admission.let_in(size_bytes)

    def _begin_span(self, name: str, context: Context) -> BeginSpan | None:
        """What begins the spans of a stream's messages, which all have the stream's metadata."""
        if (tracing := self._tracing) is None:
            return None
        metadata = tuple(context.invocation_metadata() or ())
        return lambda arrived: tracing.begin(name, arrived, metadata)

    async def _serve(self, stream: MessageStream) -> None:
        if self._leaving is not None:
            raise self._leaving
        self._streams.add(stream)
        try:
            await stream.serve()
        finally:
            self._streams.discard(stream)
