"""The edge every call crosses: clock, deadline, admission before parsing, errors to statuses, recording."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, Awaitable, Callable

import grpc

from headwaiter_server.errors import DrainingError
from headwaiter_server.metrics import Metrics
from headwaiter_server.rpc.crossing import Context, Crossing, cancelled_code, facts_of, terms_of
from headwaiter_server.rpc.status import status_of
from headwaiter_server.rpc.stream import MessageStream, OpenMessage
from headwaiter_server.scheduling.admission import RETRY_SECONDS, Admission, Permit
from headwaiter_server.scheduling.calls import Terms

UnaryHandler = Callable[[bytes, Context], Awaitable[bytes]]
StreamHandler = Callable[[AsyncIterable[bytes], Context], Awaitable[None]]
Method = Callable[[bytes, Permit, Crossing], Awaitable[bytes]]


class Edge:
    """Wraps methods into handlers."""

    def __init__(self, admission: Admission, metrics: Metrics, clock: Callable[[], float] = time.monotonic) -> None:
        """Set up.

        Args:
            admission: Gives permits.
            metrics: Where calls are recorded.
            clock: The scheduler's clock.
        """
        self._admission = admission
        self._metrics = metrics
        self._streams: set[MessageStream] = set()
        self._leaving: DrainingError | None = None
        self.clock = clock

    def unary(self, name: str, method: Method) -> UnaryHandler:
        """A gRPC handler for a method on raw bytes.

        Args:
            name: `package.Service/Method`, for metrics.
            method: Parses, computes, serializes; what it raises becomes a status.
        """

        async def handle(request: bytes, context: Context) -> bytes:
            started = self.clock()
            crossing = Crossing(Terms(started))
            code = grpc.StatusCode.OK
            self._metrics.call_started(name)
            try:
                with self._admission.admit(len(request)) as permit:
                    crossing.terms = terms_of(started, context)
                    return await method(request, permit, crossing)
            except asyncio.CancelledError:
                code = cancelled_code(crossing, self.clock())
                raise
            except Exception as error:
                status = status_of(error)
                code = status.code
                await context.abort(code, status.message, status.trailers)
                raise  # abort never returns
            finally:
                self._metrics.call_finished(facts_of(name, crossing, code, self.clock() - started))

        return handle

    def stream(self, name: str, open_message: OpenMessage, most_texts: int) -> StreamHandler:
        """A gRPC handler for a stream of messages, each of which is admitted, answered and recorded like a call.

        Args:
            name: `package.Service/Method`, for metrics.
            open_message: Parses a message; what it raises ends the stream, as nobody could be told.
            most_texts: Texts of one stream's unanswered messages from which on no further message is read.
        """

        async def handle(requests: AsyncIterable[bytes], context: Context) -> None:
            started = self.clock()
            stream: MessageStream | None = None
            try:
                terms = terms_of(started, context)
                stream = MessageStream(
                    name,
                    open_message,
                    requests,
                    context.write,
                    terms,
                    admission=self._admission,
                    metrics=self._metrics,
                    clock=self.clock,
                    most_texts=most_texts,
                )
                await self._serve(stream)
            except Exception as error:
                status = status_of(error)
                if stream is None:
                    # No message was read that would be recorded in its place.
                    self._metrics.call_started(name)
                    crossing = Crossing(Terms(started))
                    self._metrics.call_finished(facts_of(name, crossing, status.code, self.clock() - started))
                await context.abort(status.code, status.message, status.trailers)
                raise  # abort never returns

        return handle

    def leave(self) -> None:
        """Have every stream answer the messages it holds, and end; calls are turned away by admission."""
        self._leaving = DrainingError("the server is shutting down", RETRY_SECONDS)
        for stream in self._streams:
            stream.end(self._leaving)

    async def _serve(self, stream: MessageStream) -> None:
        if self._leaving is not None:
            raise self._leaving
        self._streams.add(stream)
        try:
            await stream.serve()
        finally:
            self._streams.discard(stream)
