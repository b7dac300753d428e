"""Threads on which models are built while others serve."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from headwaiter_server.pacing import giving_way

Result = TypeVar("Result")

_NAME = "load"


async def on_load_thread(work: Callable[[], Result], *, gives_way: bool = False) -> Result:
    """Do something long on a thread of its own.

    Whoever is cancelled while it waits leaves the thread to itself: a library cannot be interrupted. Nor is it waited
    for when the process ends; see `under_way`.

    Args:
        work: What is done.
        gives_way: Whether it leaves most of the processors to the threads that serve; see `pacing`.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Result] = loop.create_future()

    def settle(outcome: Future[Result]) -> None:
        if future.done():  # whoever waited was cancelled
            return
        error = outcome.exception()
        if error is None:
            future.set_result(outcome.result())
        else:
            future.set_exception(error)

    def run() -> None:
        outcome: Future[Result] = Future()
        try:
            with giving_way() if gives_way else contextlib.nullcontext():
                outcome.set_result(work())
        except Exception as error:  # noqa: BLE001 - it is raised where it is awaited
            # A future takes any but this one, and whoever awaits it would wait for ever.
            outcome.set_exception(RuntimeError(repr(error)) if isinstance(error, StopIteration) else error)
        except BaseException as error:  # noqa: BLE001 - what libraries in other languages panic with
            outcome.set_exception(RuntimeError(f"{type(error).__name__}: {error}"))
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(settle, outcome)

    threading.Thread(target=run, name=_NAME, daemon=True).start()
    return await future


def under_way() -> bool:
    """Whether such a thread is still at work: the interpreter cannot be ended in order around a library's threads."""
    return any(each.name == _NAME for each in threading.enumerate())
