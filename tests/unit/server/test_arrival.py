"""Messages on their way in: few are always waited for, and of many the late ones go when they take too much memory."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
from headwaiter_server.errors import InvalidRequestError, QueueFullError
from headwaiter_server.rpc.arrival import ArrivalHandlers, Arrivals

MOST_BYTES = 1000
MESSAGE_BYTES = 250  # four of them are harmless


class Messages:
    """Messages that come; who waits for one may be left waiting, as by gRPC at its end."""

    def __init__(self) -> None:
        self._sent: list[Any] = []
        self._came = asyncio.get_running_loop().create_future()

    def put_nowait(self, message: Any) -> None:  # noqa: ANN401 - as gRPC has it
        self._sent.append(message)
        self._came.set_result(None)

    async def get(self) -> Any:  # noqa: ANN401 - likewise
        await self._came
        self._came = asyncio.get_running_loop().create_future()
        return self._sent.pop()


class Caller:
    """A call whose message comes when the test sends it; takes the place of gRPC's context."""

    def __init__(self) -> None:
        self.messages = Messages()
        self.status: grpc.StatusCode | None = None
        self.trailers: dict[str, Any] = {}

    async def read(self) -> Any:  # noqa: ANN401 - as gRPC has it
        return await self.messages.get()

    async def abort(self, code: grpc.StatusCode, message: str, trailers: tuple[tuple[str, Any], ...] = ()) -> None:
        self.status, self.trailers = code, dict(trailers)
        self.error = grpc.aio.AbortError(message)  # kept, as gRPC keeps it
        raise self.error


class Place:
    """Arrivals with a clock and a memory that stand where they are put."""

    def __init__(self) -> None:
        self.now, self.memory, self.room = 100.0, 10_000, 1_000_000
        self.arrivals = Arrivals(
            MOST_BYTES, MESSAGE_BYTES, lambda: self.now, lambda: self.memory, room=lambda: self.room
        )

    def handler(self, make: Callable[..., Any], behavior: Callable[..., Any]) -> Any:  # noqa: ANN401 - gRPC's own
        return self.arrivals.handler(make(behavior))

    async def begin(self, count: int) -> list[tuple[Caller, asyncio.Task[Any]]]:
        """Begin calls of a method that answers with its message."""
        handler = self.handler(grpc.unary_unary_rpc_method_handler, echo)
        calls = []
        for _ in range(count):
            caller = Caller()
            calls.append((caller, asyncio.create_task(handler.stream_unary(None, caller))))
        await asyncio.sleep(0)
        return calls

    async def look(self, late_seconds: float = 0.0) -> None:
        """What happens at each look, on a loop that is late by so much."""
        self.arrivals._due = self.now - late_seconds
        self.arrivals._look()
        for _ in range(3):
            await asyncio.sleep(0)


async def echo(message: bytes, context: object) -> bytes:
    return message


async def give_up(*calls: tuple[Caller, asyncio.Task[Any]]) -> None:
    """Cancel what is still waiting."""
    for _, call in calls:
        call.cancel()
    await asyncio.gather(*(call for _, call in calls), return_exceptions=True)


@pytest.fixture
def place() -> Place:
    return Place()


async def test_message_is_handed_on(place: Place) -> None:
    """A call is what it was without anything between."""
    ((caller, call),) = await place.begin(1)
    caller.messages.put_nowait(b"message")
    assert await call == b"message"
    assert caller.status is None


async def test_call_without_a_message_is_invalid(place: Place) -> None:
    """It is answered, and its method is never asked."""
    ((caller, call),) = await place.begin(1)
    caller.messages.put_nowait(grpc.aio.EOF)
    with pytest.raises(grpc.aio.AbortError, match="message: is missing"):
        await call
    assert caller.status is grpc.StatusCode.INVALID_ARGUMENT


async def test_late_messages_that_take_too_much_are_refused_oldest_first(place: Place) -> None:
    """As overload is: with the time to come back. Those that have only just begun are waited for."""
    await place.look()
    old = await place.begin(4)
    await place.look()
    place.now += 1.0
    new = await place.begin(4)
    place.memory += MOST_BYTES + 1
    await place.look()
    refused = [caller.status for caller, _ in old]
    assert refused[0] is grpc.StatusCode.UNAVAILABLE
    assert old[0][0].trailers["grpc-retry-pushback-ms"] == "100"
    assert None in refused, "few at a time"
    place.memory += MOST_BYTES
    await place.look()
    assert all(caller.status is grpc.StatusCode.UNAVAILABLE for caller, _ in old)
    assert not any(caller.status for caller, _ in new)
    for caller, call in new:
        caller.messages.put_nowait(b"late, but there")
        assert await call
    await asyncio.gather(*(call for _, call in old), return_exceptions=True)


@pytest.mark.parametrize(("grown", "refused"), [(0.4, 0), (0.6, 1), (1.0, 2), (1.5, 4)])
async def test_the_more_memory_has_grown_the_more_are_refused(place: Place, grown: float, refused: int) -> None:
    """None up to half the bound; a tenth of those who are late for each tenth beyond it, in whole calls."""
    late = await place.begin(4)
    place.now += 1.0
    new = await place.begin(4)
    place.memory += int(grown * MOST_BYTES)
    await place.look()
    assert sum(caller.status is not None for caller, _ in late) == refused
    assert not any(caller.status for caller, _ in new)
    await give_up(*late, *new)


async def test_what_comes_before_the_first_look_counts(place: Place) -> None:
    """On a fast link that is all there is to come."""
    calls = await place.begin(20)
    place.now += 1.0
    place.memory += 2 * MOST_BYTES
    await place.look()
    assert all(caller.status is grpc.StatusCode.UNAVAILABLE for caller, _ in calls)
    await give_up(*calls)


async def test_as_many_as_could_take_too_much_are_looked_at_more_often(place: Place) -> None:
    """Within the usual time a fast link brings more than they may take."""
    few = await place.begin(4)
    await place.look()
    seldom = place.arrivals._due - place.now
    many = await place.begin(1)
    await place.look()
    assert place.arrivals._due - place.now < seldom / 2
    await give_up(*few, *many)


async def test_few_are_always_waited_for(place: Place) -> None:
    """So many as cannot be larger together: whatever takes the memory, it is not them."""
    calls = await place.begin(4)
    await place.look()
    place.now += 60.0
    place.memory += 100 * MOST_BYTES
    await place.look()
    assert not any(caller.status for caller, _ in calls)
    for caller, call in calls:
        caller.messages.put_nowait(b"")
        await call


async def test_a_loop_that_is_late_blames_no_caller(place: Place) -> None:
    """Their messages may be there, and nobody has had a turn to take them."""
    calls = await place.begin(20)
    await place.look()
    place.now += 1.0
    place.memory += 100 * MOST_BYTES
    await place.look(late_seconds=0.95)
    assert not any(caller.status for caller, _ in calls)
    await place.look()
    assert all(caller.status for caller, _ in calls)
    await asyncio.gather(*(call for _, call in calls), return_exceptions=True)


async def test_messages_of_refused_calls_are_let_go_at_once(place: Place) -> None:
    """Not when Python next looks for cycles: gRPC keeps the error, which comes from where the message was held."""

    class Large:
        """A message."""

    def look_at(message: Large) -> None:
        raise InvalidRequestError("texts", "are too many")

    async def refuse(message: Large, context: Caller) -> None:
        try:
            look_at(message)
        except InvalidRequestError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))

    async def listen(messages: AsyncIterator[Large], context: Caller) -> None:
        async for message in messages:
            await refuse(message, context)

    unary = place.handler(grpc.unary_unary_rpc_method_handler, refuse).stream_unary
    stream = place.handler(grpc.stream_stream_rpc_method_handler, listen).stream_stream
    gc.disable()
    try:
        for method in (unary, stream):
            caller, message = Caller(), Large()
            gone = weakref.ref(message)
            caller.messages.put_nowait(message)
            del message
            with pytest.raises(grpc.aio.AbortError):
                await method(None, caller)
            assert caller.status is grpc.StatusCode.INVALID_ARGUMENT
            await asyncio.sleep(0)  # what has read the stream is closed
            assert gone() is None, method
    finally:
        gc.enable()


async def test_memory_that_was_taken_before_is_not_theirs(place: Place) -> None:
    """Growth counts from when many began to wait."""
    place.memory += 100 * MOST_BYTES
    calls = await place.begin(20)
    await place.look()
    place.now += 1.0
    await place.look()
    assert not any(caller.status for caller, _ in calls)
    for _, call in calls:
        call.cancel()


async def test_nothing_is_waited_for_for_ever(place: Place) -> None:
    """After two minutes a call without its message is over."""
    ((caller, call),) = await place.begin(1)
    place.now += 121.0
    await place.look()
    with pytest.raises(grpc.aio.AbortError):
        await call
    assert caller.status is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_callers_who_go_leave_nothing_behind(place: Place) -> None:
    """A call that is cancelled while it waits is cancelled, not refused."""
    calls = await place.begin(8)
    for _, call in calls:
        call.cancel()
    results = await asyncio.gather(*(call for _, call in calls), return_exceptions=True)
    assert all(isinstance(result, asyncio.CancelledError) for result in results)
    place.now += 1.0
    place.memory += 100 * MOST_BYTES
    await place.look()
    assert not any(caller.status for caller, _ in calls)


async def test_message_that_comes_as_its_call_is_cancelled_is_read_all_the_same(place: Place) -> None:
    """Else gRPC would keep it for good."""
    loop = asyncio.get_running_loop()
    for came_first in (True, False):
        came, freed = loop.create_future(), list[bytes]()

        class Core(Caller):
            """Frees a message when it is handed on, as gRPC does."""

            async def read(self, came: asyncio.Future[bytes] = came, freed: list[bytes] = freed) -> bytes:
                freed.append(await came)
                return freed[-1]

        call = asyncio.create_task(place.handler(grpc.unary_unary_rpc_method_handler, echo).stream_unary(None, Core()))
        await asyncio.sleep(0)
        if came_first:
            came.set_result(b"message")
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        assert call.cancelled()
        if not came_first:
            came.set_result(b"message")
        await asyncio.sleep(0)
        assert freed == [b"message"]


async def test_streams_that_wait_go_only_where_memory_runs_out(place: Place) -> None:
    """They may be silent for long with a good conscience, while a model is loaded; the latest go first."""
    ended: list[int] = []
    heard: list[bytes] = []

    def listener(number: int) -> Callable[..., Any]:
        async def listen(requests: AsyncIterator[bytes], context: object) -> None:
            try:
                async for request in requests:
                    heard.append(request)  # noqa: PERF401 - those before the error count
            except QueueFullError:
                ended.append(number)

        return listen

    streams = [Caller() for _ in range(8)]
    tasks = [
        asyncio.create_task(
            place.handler(grpc.stream_stream_rpc_method_handler, listener(number)).stream_stream(None, caller)
        )
        for number, caller in enumerate(streams)
    ]
    await asyncio.sleep(0)
    streams[0].messages.put_nowait(b"first")
    await place.look()
    place.now += 3600.0
    place.memory += 100 * MOST_BYTES
    (late, call), *_ = calls = await place.begin(4)
    place.now += 1.0
    await place.look()
    assert (heard, ended, late.status) == ([b"first"], [], None)
    place.room = MOST_BYTES
    await place.look()
    # The first has waited since its message, which makes it the latest.
    assert sorted(ended) == [0, 5, 6, 7]
    place.room = 1_000_000
    await place.look()
    assert len(ended) == 4
    for task in (*tasks, *(task for _, task in calls)):
        task.cancel()
    assert not call.done()


async def test_unknown_methods_stay_unknown() -> None:
    """What the services do not have is not made up."""

    class Details:
        method = "/x.Y/Nothing"
        invocation_metadata = ()

    known = grpc.method_handlers_generic_handler("x.Y", {"Echo": grpc.unary_unary_rpc_method_handler(echo)})
    handlers = ArrivalHandlers(Place().arrivals, known)
    details: Any = Details()
    assert handlers.service(details) is None
    details.method = "/x.Y/Echo"
    assert handlers.service(details) is handlers.service(details) is not None
