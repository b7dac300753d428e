"""Calls that are given up while they wait behind a long run: none of them may cost more than its tokens."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import grpc
from headwaiter_server.app import Server
from reliability.cancels_calls import embed
from reliability.cancels_watch import Watch, counted, wasted_seconds

_CALLS = 200
_DEADLINE_SECONDS = 0.5
_PATIENCE_SECONDS = 60.0
# Processor time of each run, so that none could go unnoticed: far more than all the calls' tokens take on any machine.
_RUN_SECONDS = 0.5


@dataclass
class Dead:
    """What came of them.

    Attributes:
        given_up: Calls that waited and were given up.
        run: Of their texts, those that were run.
        wasted_seconds: Processor time spent on them.
        run_seconds: What a run takes at the least.
    """

    given_up: int = 0
    run: int = 0
    wasted_seconds: float = 0.0
    run_seconds: float = _RUN_SECONDS


async def give_up_in_the_queue(server: Server, watch: Watch, texts: Sequence[str]) -> Dead:
    """Hold up the only worker, and have every other call that waits expire or cancelled; then let the worker go on.

    Args:
        server: With a single worker.
        watch: On it.
        texts: To ask for.
    """
    entered, opened = threading.Event(), threading.Event()

    def hold() -> None:
        entered.set()
        opened.wait(_PATIENCE_SECONDS)
        until = time.thread_time() + _RUN_SECONDS
        while time.thread_time() < until:
            pass

    watch.before_run, texts_before = hold, watch.texts
    async with grpc.aio.insecure_channel(server.grpc_addresses[0]) as channel:
        first = asyncio.create_task(embed(channel, [texts[0]], None))
        await asyncio.to_thread(entered.wait, _PATIENCE_SECONDS)
        wasted = _wasted(server)
        calls = [
            asyncio.create_task(embed(channel, [texts[number % len(texts)]], _DEADLINE_SECONDS if number % 2 else None))
            for number in range(_CALLS)
        ]
        async with asyncio.timeout(_PATIENCE_SECONDS):
            # Some may be refused: by the forecast they would be too late.
            await asyncio.wait([call for number, call in enumerate(calls) if number % 2])
            await _held(server, 1 + _CALLS // 2)
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
            await _held(server, 1)
            opened.set()
            await first
    return Dead(
        given_up=sum(map(_given_up, calls)),
        run=watch.texts - texts_before - 1,
        wasted_seconds=_wasted(server) - wasted,
    )


def _given_up(call: asyncio.Task[object]) -> bool:
    if call.cancelled():
        return True
    error = call.exception()
    return isinstance(error, grpc.aio.AioRpcError) and error.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def _wasted(server: Server) -> float:
    return wasted_seconds(server, "cancelled") + wasted_seconds(server, "expired")


async def _held(server: Server, calls: int) -> None:
    """Wait until the server holds as many calls."""
    while counted(server)["headwaiter_calls_held"] != calls:
        await asyncio.sleep(0.01)
