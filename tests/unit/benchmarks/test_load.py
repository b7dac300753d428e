"""The encoder benchmark's load generator, against real servers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import grpc
import pytest
from headwaiter_proto.v1 import inference_pb2

from benchmarks.encoders import load
from benchmarks.encoders.load import EMBED, EMBED_STREAM, closed_loop, open_loop, stream_loop
from benchmarks.encoders.outcomes import DEADLINE_EXCEEDED, OK, UNAVAILABLE

Handler = Callable[[bytes, grpc.aio.ServicerContext[bytes, bytes]], Awaitable[bytes]]
StreamHandler = Callable[[AsyncIterable[bytes], grpc.aio.ServicerContext[bytes, bytes]], AsyncIterator[bytes]]

_PATIENT_SECONDS = 60.0


@asynccontextmanager
async def _server(handler: Handler) -> AsyncIterator[str]:
    async with _serving(EMBED, grpc.unary_unary_rpc_method_handler(handler)) as target:
        yield target


@asynccontextmanager
async def _stream_server(handler: StreamHandler) -> AsyncIterator[str]:
    async with _serving(EMBED_STREAM, grpc.stream_stream_rpc_method_handler(handler)) as target:
        yield target


@asynccontextmanager
async def _serving(path: str, handler: grpc.RpcMethodHandler[bytes, bytes]) -> AsyncIterator[str]:
    server = grpc.aio.server()
    service, method = path.strip("/").split("/")
    methods = {method: handler}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, methods)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


async def _echo(request: bytes, _context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
    return request


async def test_a_closed_loop_keeps_its_number_of_calls_outstanding() -> None:
    held, most, full = 0, 0, asyncio.Event()

    async def hold(request: bytes, _context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        nonlocal held, most
        held += 1
        most = max(most, held)
        if held == 5:
            full.set()
        await full.wait()
        held -= 1
        return request

    async with _server(hold) as target:
        figures = await closed_loop(target, [b"x"] * 20, outstanding=5, limit_seconds=_PATIENT_SECONDS)
    assert figures["calls"] == 20
    assert most == 5


async def test_a_closed_loop_tries_again_what_was_refused_and_says_how_often() -> None:
    seen: set[bytes] = set()

    async def refuse_once(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        if request not in seen:
            seen.add(request)
            context.set_trailing_metadata((("grpc-retry-pushback-ms", "1"),))
            await context.abort(grpc.StatusCode.UNAVAILABLE, "full")
        return request

    async with _server(refuse_once) as target:
        figures = await closed_loop(target, [b"a", b"b", b"c"], outstanding=1, limit_seconds=_PATIENT_SECONDS)
    assert figures["calls"] == 3
    assert figures["refused_calls"] == 3


async def test_a_closed_loop_does_not_hide_failures() -> None:
    async def fail(_request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        await context.abort(grpc.StatusCode.INTERNAL, "broken")

    async with _server(fail) as target:
        with pytest.raises(grpc.aio.AioRpcError):
            await closed_loop(target, [b"x"], outstanding=1, limit_seconds=_PATIENT_SECONDS)


async def test_after_its_limit_a_closed_loop_sends_nothing_more() -> None:
    async with _server(_echo) as target:
        figures = await closed_loop(target, [b"x"] * 10, outstanding=2, limit_seconds=0.0)
    assert figures["calls"] == 0


def _message(number: int) -> bytes:
    return inference_pb2.EmbedStreamRequest(id=number).SerializeToString()


def _answer(message: bytes) -> bytes:
    number = inference_pb2.EmbedStreamRequest.FromString(message).id
    return inference_pb2.EmbedStreamResponse(id=number, response=inference_pb2.EmbedResponse()).SerializeToString()


async def test_each_stream_keeps_one_message_unanswered() -> None:
    streams, held, most, full = 0, 0, 0, asyncio.Event()

    async def hold(
        messages: AsyncIterable[bytes], _context: grpc.aio.ServicerContext[bytes, bytes]
    ) -> AsyncIterator[bytes]:
        nonlocal streams, held, most
        streams += 1
        waiting: asyncio.Queue[bytes | None] = asyncio.Queue()

        async def read() -> None:
            nonlocal held, most
            async for message in messages:
                held += 1
                most = max(most, held)
                if held == 5:
                    full.set()
                waiting.put_nowait(message)
            waiting.put_nowait(None)

        reading = asyncio.create_task(read())
        while (message := await waiting.get()) is not None:
            await full.wait()
            held -= 1
            yield _answer(message)
        await reading

    async with _stream_server(hold) as target:
        figures = await stream_loop(target, map(_message, range(20)), streams=5, limit_seconds=_PATIENT_SECONDS)
    assert (figures["calls"], figures["refused_calls"]) == (20, 0)
    assert (streams, most) == (5, 5)


@pytest.mark.parametrize("fault", ["refused", "ended", "failed"])
async def test_streams_do_not_hide_failures(fault: str) -> None:
    async def fail(
        messages: AsyncIterable[bytes], context: grpc.aio.ServicerContext[bytes, bytes]
    ) -> AsyncIterator[bytes]:
        answered = False
        async for message in messages:
            if not answered:
                answered = True
                yield _answer(message)
            elif fault == "refused":
                error = inference_pb2.StreamError(code=UNAVAILABLE, message="full")
                yield inference_pb2.EmbedStreamResponse(error=error).SerializeToString()
            elif fault == "failed":
                await context.abort(grpc.StatusCode.INTERNAL, "broken")
            else:
                return

    words = {"refused": "a message was refused: full", "ended": "the stream ended before", "failed": "broken"}
    async with _stream_server(fail) as target:
        with pytest.raises((RuntimeError, grpc.aio.AioRpcError), match=words[fault]):
            await stream_loop(target, map(_message, range(3)), streams=1, limit_seconds=_PATIENT_SECONDS)


async def test_a_stream_that_fails_in_the_end_is_not_hidden_either() -> None:
    async def fail(
        messages: AsyncIterable[bytes], context: grpc.aio.ServicerContext[bytes, bytes]
    ) -> AsyncIterator[bytes]:
        async for message in messages:
            yield _answer(message)
        await context.abort(grpc.StatusCode.INTERNAL, "broken")

    async with _stream_server(fail) as target:
        with pytest.raises(RuntimeError, match="INTERNAL"):
            await stream_loop(target, map(_message, range(3)), streams=1, limit_seconds=_PATIENT_SECONDS)


async def test_after_their_limit_streams_send_nothing_more() -> None:
    async def answer(
        messages: AsyncIterable[bytes], _context: grpc.aio.ServicerContext[bytes, bytes]
    ) -> AsyncIterator[bytes]:
        async for message in messages:
            yield _answer(message)

    async with _stream_server(answer) as target:
        figures = await stream_loop(target, map(_message, range(10)), streams=2, limit_seconds=0.0)
    assert figures["calls"] == 0


async def test_an_open_loop_does_not_wait_for_answers() -> None:
    arrived, everybody = 0, asyncio.Event()

    async def wait_for_everybody(request: bytes, _context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        nonlocal arrived
        arrived += 1
        if arrived == 10:
            everybody.set()
        await everybody.wait()
        return request

    async with _server(wait_for_everybody) as target:
        outcomes = await open_loop(target, [b"x", b"y"], [i / 1000 for i in range(10)], _PATIENT_SECONDS)
    assert [each.code for each in outcomes] == [OK] * 10


async def test_an_open_loop_counts_from_the_time_a_call_was_due(monkeypatch: pytest.MonkeyPatch) -> None:
    # A generator that is itself three seconds late.
    monkeypatch.setattr(load, "_LEAD_SECONDS", -3.0)
    async with _server(_echo) as target:
        outcomes = await open_loop(target, [b"x"], [0.0, 0.1], _PATIENT_SECONDS)
    assert [each.code for each in outcomes] == [OK, OK]
    assert all(each.seconds >= each.lag_seconds >= 2.8 for each in outcomes)


async def test_deadlines_count_from_the_time_a_call_was_due_too(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(_request: bytes, _context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        await asyncio.Event().wait()
        return b""

    # The deadline of 20 seconds has passed for ten when the calls are sent; from then on it would end them after 50.
    monkeypatch.setattr(load, "_LEAD_SECONDS", -30.0)
    async with _server(never) as target:
        outcomes = await open_loop(target, [b"x"], [0.0, 0.1], 20.0)
    assert [each.code for each in outcomes] == [DEADLINE_EXCEEDED] * 2
    assert all(each.seconds < 45 for each in outcomes)


async def test_an_open_loop_tries_nothing_again() -> None:
    async def refuse(_request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        await context.abort(grpc.StatusCode.UNAVAILABLE, "full")

    async with _server(refuse) as target:
        outcomes = await open_loop(target, [b"x"], [0.0, 0.001], _PATIENT_SECONDS)
    assert [each.code for each in outcomes] == [UNAVAILABLE] * 2
