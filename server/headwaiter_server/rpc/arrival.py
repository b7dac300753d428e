"""Messages on their way in: what has been sent of a message takes memory before there is a call that could be refused.

gRPC takes in a message of any size that is allowed as soon as it is asked for one, for as long as the sender likes, and
tells nobody how much of it is there. What can be seen is that a message is late, and that the process grows.
"""

from __future__ import annotations

import asyncio
import inspect
import math
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine
from typing import Any, Self

import grpc

from headwaiter_server.access.gate import Door, Gate
from headwaiter_server.allocator import give_freed_memory_back
from headwaiter_server.errors import DeadlineExceededError, InvalidRequestError, QueueFullError, RequestError
from headwaiter_server.lifecycle.memory import resident_bytes
from headwaiter_server.log import get_logger
from headwaiter_server.rpc.reading import Context, let_go, read_message
from headwaiter_server.rpc.status import status_of
from headwaiter_server.scheduling.admission import RETRY_SECONDS

_log = get_logger(__name__)

_LOOK_SECONDS = 0.025
# While more calls wait than can be harmless: within 25 ms a fast link brings more than all of them may take.
_WATCH_SECONDS = 0.005
# Small messages come with the headers of their call; one that is later than this is large, or sent slowly.
_LATE_SECONDS = 0.05
# Longer than any link that is of use takes for the largest message.
_MOST_SECONDS = 120.0
# Of growth, as a part of the bound: beyond it some are refused, beyond it and the bound once more all are. The process
# goes on growing until those who are refused have let go.
_TOO_MUCH = 0.5
_TOLD_SECONDS = 10.0

# As gRPC has it: of bytes or messages, a coroutine or an asynchronous generator.
Handler = Any
_Waiting = dict[asyncio.Task[Any], float]


class Arrivals:
    """Takes the message of each call in, and refuses calls whose messages are late where they take too much memory.

    A call that is refused so has not begun: it may be tried again. Of calls with one message the oldest go first. Those
    of streams wait for long without anything being sent, while the process grows for other reasons: they go, the latest
    first, only where memory is about to run out.
    """

    def __init__(
        self,
        max_bytes: int,
        max_message_bytes: int,
        clock: Callable[[], float] = time.monotonic,
        memory: Callable[[], int] = resident_bytes,
        *,
        room: Callable[[], int],
    ) -> None:
        """Set up.

        Args:
            max_bytes: By how much the process may grow while messages are late.
            max_message_bytes: The largest message: fewer late ones than make up `max_bytes` are never refused.
            clock: Seconds.
            memory: What the process takes, in bytes.
            room: What it may take beyond that, in bytes.
        """
        self._max_bytes = max_bytes
        self._harmless = max_bytes // max_message_bytes
        self._clock = clock
        self._memory = memory
        self._room = room
        # Who waits for a message, and since when, in this order.
        self._calls: _Waiting = {}
        self._streams: _Waiting = {}
        self._errors: dict[asyncio.Task[Any], RequestError] = {}
        self._level = 0
        self._due = 0.0
        self._looking = False
        self._trimming: asyncio.Task[Any] | None = None
        self._refused = 0
        self._told = -math.inf

    def handler(
        self, handler: grpc.RpcMethodHandler[Any, Any], door: Door | None = None
    ) -> grpc.RpcMethodHandler[Any, Any]:
        """A handler that does the same as another, but takes its messages in here.

        Args:
            handler: The other one; it refuses whoever does not come through the door.
            door: What its callers come through. Messages of those whom it does not know are not waited for.
        """
        inner: Any = handler
        read, write = inner.request_deserializer, inner.response_serializer
        if inner.request_streaming:
            return grpc.stream_stream_rpc_method_handler(self._conversing(inner.stream_stream), read, write)
        if inner.response_streaming:
            return grpc.stream_stream_rpc_method_handler(self._single(inner.unary_stream, door), read, write)
        return grpc.stream_unary_rpc_method_handler(self._single(inner.unary_unary, door), read, write)

    def _single(
        self, handler: Handler, door: Door | None
    ) -> Callable[[AsyncIterable[Any], Context], Coroutine[Any, Any, Any]]:
        async def handle(_requests: AsyncIterable[Any], context: Context) -> object:
            if door is not None and not door.knows(context.invocation_metadata()):
                # Refused there, in the same turn, and recorded: nobody without a token has the server hold a message.
                return await handler(b"", context)
            try:
                # In a list, so that nobody here holds what the handler has let go.
                held = [await self.take(context, streamed=False)]
                if held[0] is grpc.aio.EOF:
                    raise InvalidRequestError("message", "is missing")
            except RequestError as error:
                status = status_of(error)
                await context.abort(status.code, status.message, status.trailers)
            try:
                return await handler(held.pop(), context)
            except grpc.aio.AbortError as error:
                let_go(error)
                raise

        return handle

    def _conversing(self, handler: Handler) -> Handler:
        async def generate(_requests: AsyncIterable[Any], context: Context) -> AsyncIterator[Any]:
            try:
                async for answer in handler(_Messages(self, context), context):
                    yield answer
            except grpc.aio.AbortError as error:
                let_go(error)
                raise

        async def converse(_requests: AsyncIterable[Any], context: Context) -> None:
            try:
                await handler(_Messages(self, context), context)
            except grpc.aio.AbortError as error:
                let_go(error)
                raise

        return generate if inspect.isasyncgenfunction(handler) else converse

    async def take(self, context: Context, *, streamed: bool) -> Any:  # noqa: ANN401 - whatever is read
        """The next message of a call, or `grpc.aio.EOF`.

        Args:
            context: The call.
            streamed: Whether it may have several.

        Raises:
            RequestError: It came too late.
        """
        waiting = self._streams if streamed else self._calls
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - calls are tasks
        waiting[task] = self._clock()
        if not self._looking:
            # What has come by the first look is growth, too.
            self._level = self._memory()
            self._look_later()
        try:
            return await read_message(context)
        except asyncio.CancelledError:
            error = self._errors.pop(task, None)
            if error is None or task.uncancel():  # the caller has gone
                raise
            raise error from None
        finally:
            waiting.pop(task, None)

    def _look_later(self) -> None:
        seconds = _WATCH_SECONDS if len(self._calls) > self._harmless else _LOOK_SECONDS
        self._looking, self._due = True, self._clock() + seconds
        asyncio.get_running_loop().call_later(seconds, self._look)

    def _look(self) -> None:
        """Refuse what is too late, or too much."""
        self._looking = False
        now = self._clock()
        # Where the loop itself was late, messages may be there that nobody has had a turn to take.
        late_seconds = _LATE_SECONDS + 2 * max(0.0, now - self._due)
        if not self._calls and not self._streams:
            self._level = 0
            return
        self._look_later()
        for task in _since(self._calls, now - _MOST_SECONDS):
            self._refuse(task, DeadlineExceededError(f"the message did not come within {_MOST_SECONDS:g} s"))
        chosen = self._too_many_calls(now - late_seconds) or self._too_many_streams(now - late_seconds)
        if not chosen:
            return
        self._tell(len(chosen), now)
        for task in chosen:
            self._refuse(task, QueueFullError("too many messages are on their way in", RETRY_SECONDS))
        if self._trimming is None or self._trimming.done():
            self._trimming = asyncio.get_running_loop().create_task(asyncio.to_thread(give_freed_memory_back))

    def _too_many_calls(self, latest: float) -> list[asyncio.Task[Any]]:
        """Of the calls that have waited since then, those that go, because the process has grown beside them."""
        memory = self._memory()
        if len(self._calls) <= self._harmless:
            self._level = memory
            return []
        self._level = min(self._level or memory, memory)
        too_much = (memory - self._level) / self._max_bytes - _TOO_MUCH
        late = _since(self._calls, latest)
        # Few at a time: their memory is free a moment later only. But all, where it is far too much.
        return late[: math.ceil(len(late) * min(1.0, too_much))] if too_much > 0 else []

    def _too_many_streams(self, latest: float) -> list[asyncio.Task[Any]]:
        """Of the streams that have waited since then, those that go, as there is no room for what they may send."""
        if len(self._streams) <= self._harmless or self._room() > self._max_bytes:
            return []
        late = _since(self._streams, latest)[::-1]
        return late[: max(1, len(late) // 2)]

    def _tell(self, refused: int, now: float) -> None:
        self._refused += refused
        if now - self._told >= _TOLD_SECONDS:
            _log.warning("late_messages_refused", calls=self._refused, process_bytes=self._memory())
            self._told, self._refused = now, 0

    def _refuse(self, task: asyncio.Task[Any], error: RequestError) -> None:
        # It does not wait any more, even if it takes a moment until it knows.
        self._calls.pop(task, None)
        self._streams.pop(task, None)
        self._errors[task] = error
        task.cancel()


class _Messages:
    """The messages of a stream; holds none that it has handed out."""

    def __init__(self, arrivals: Arrivals, context: Context) -> None:
        self._arrivals = arrivals
        self._context = context

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:  # noqa: ANN401 - whatever is read
        message = await self._arrivals.take(self._context, streamed=True)
        if message is grpc.aio.EOF:
            raise StopAsyncIteration
        return message


class ArrivalHandlers(grpc.GenericRpcHandler):
    """Methods whose messages are taken in by `Arrivals`."""

    def __init__(self, arrivals: Arrivals, inner: grpc.GenericRpcHandler, gate: Gate | None = None) -> None:
        """Set up.

        Args:
            arrivals: Takes their messages in.
            inner: The methods.
            gate: Who may call them; None lets in everybody.
        """
        self._arrivals = arrivals
        self._inner = inner
        self._gate = gate
        self._made: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        """See `grpc.GenericRpcHandler`."""
        made = self._made.get(details.method)
        if made is None and (inner := self._inner.service(details)) is not None:
            door = None if self._gate is None else self._gate.door(details.method.removeprefix("/"))
            made = self._made[details.method] = self._arrivals.handler(inner, door)
        return made


def _since(waiting: _Waiting, latest: float) -> list[asyncio.Task[Any]]:
    """Those who have waited since then, or longer."""
    found = []
    for task, began in waiting.items():
        if began > latest:
            break
        found.append(task)
    return found
