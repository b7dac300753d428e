"""Models are built on a thread of their own, which leaves the processors to others in between."""

from __future__ import annotations

import asyncio
import contextlib
import threading

import pytest
from headwaiter_server import pacing
from headwaiter_server.lifecycle.load_thread import on_load_thread, under_way


async def test_work_beside_others_takes_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes a processor for long is followed by a pause of twice that, also where it fails; otherwise by none."""
    now, pauses = [0.0], list[float]()
    monkeypatch.setattr("headwaiter_server.pacing.time.perf_counter", lambda: now[0])
    monkeypatch.setattr("headwaiter_server.pacing.time.sleep", pauses.append)

    def run(seconds: float) -> float:
        now[0] += seconds
        if seconds > 1:
            raise ValueError("too long")
        return seconds

    def work() -> list[float]:
        with contextlib.suppress(ValueError):
            pacing.paced(lambda: run(3.0))
        return [pacing.paced(lambda: run(0.25))]

    assert await on_load_thread(work, gives_way=True) == [0.25]
    assert pauses == [6.0, 0.5]
    assert await on_load_thread(work) == [0.25]
    assert pauses == [6.0, 0.5]


async def test_results_and_errors_are_those_of_the_work() -> None:
    """On a thread of its own each time."""
    here = threading.get_ident()
    assert await on_load_thread(threading.get_ident) != here

    def fail() -> None:
        raise ValueError("no")

    for gives_way in (False, True):
        with pytest.raises(ValueError, match="no"):
            await on_load_thread(fail, gives_way=gives_way)


async def test_every_error_ends_the_wait() -> None:
    """Also the one that no future takes."""

    def exhausted() -> None:
        raise StopIteration

    with pytest.raises(RuntimeError, match="StopIteration"):
        async with asyncio.timeout(10):
            await on_load_thread(exhausted)


class PanicError(BaseException):
    """What a library in another language ends a thread with."""


async def test_panic_is_an_error_like_others() -> None:
    """It ends the load, and nothing beside it."""

    def panic() -> None:
        raise PanicError("index out of bounds")

    with pytest.raises(RuntimeError, match="PanicError: index out of bounds"):
        await on_load_thread(panic)


async def test_abandoned_work_goes_on_alone() -> None:
    """Nobody waits for it, and it can be seen until it is over."""
    begun, over = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        assert over.wait(10)

    task = asyncio.create_task(on_load_thread(work))
    await asyncio.to_thread(begun.wait, 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert under_way()
    over.set()
    async with asyncio.timeout(10):
        while under_way():
            await asyncio.sleep(0)
