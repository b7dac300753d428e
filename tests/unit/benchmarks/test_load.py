"""The encoder benchmark's load generator, against real servers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import grpc
import pytest

from benchmarks.encoders import load
from benchmarks.encoders.load import EMBED, closed_loop, open_loop
from benchmarks.encoders.outcomes import DEADLINE_EXCEEDED, OK, UNAVAILABLE

Handler = Callable[[bytes, grpc.aio.ServicerContext[bytes, bytes]], Awaitable[bytes]]

_PATIENT_SECONDS = 60.0


@asynccontextmanager
async def _server(handler: Handler) -> AsyncIterator[str]:
    server = grpc.aio.server()
    service, method = EMBED.strip("/").split("/")
    methods: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {method: grpc.unary_unary_rpc_method_handler(handler)}
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
