"""Reading one message of a call, and letting go of what an error holds of it: gRPC frees neither by itself."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Generator
from functools import partial
from typing import Any

import grpc

Context = grpc.aio.ServicerContext[Any, Any]


@types.coroutine
def read_message(context: Context) -> Generator[Any, Any, Any]:
    """Read a message, to its end also when nobody waits for it any more.

    gRPC frees a message only where its reading goes on. One that has come in the moment in which the call is cancelled,
    by us or by a caller who sends and resets, would take its memory for good. A task for each read would do, too, for
    more time.
    """
    # As gRPC has it: a coroutine, which waits for futures of this loop alone.
    reading: Any = context.read()
    while True:
        try:
            future = reading.send(None)
        except StopIteration as end:
            return end.value
        future._asyncio_future_blocking = False  # noqa: SLF001 - as a task does with what it is to wait for
        # What is cancelled in the future's place; as `asyncio.shield`, in less time.
        turn = future.get_loop().create_future()
        future.add_done_callback(partial(_give, turn))
        try:
            yield from turn.__await__()
        except asyncio.CancelledError:
            future.add_done_callback(partial(_finish, reading))
            raise


def _give(turn: asyncio.Future[None], _future: object) -> None:
    if not turn.done():
        turn.set_result(None)


def _finish(reading: Any, _future: object) -> None:  # noqa: ANN401 - a coroutine
    """Go on with a reading that nobody waits for."""
    try:
        future = reading.send(None)
    except (StopIteration, asyncio.CancelledError, Exception):  # noqa: BLE001 - nobody is to be told
        return
    future._asyncio_future_blocking = False  # noqa: SLF001 - likewise
    future.add_done_callback(partial(_finish, reading))


def let_go(error: BaseException | None) -> None:
    """Take the frames away from an error and from those behind it.

    gRPC keeps the error by which a call ends, and so in a cycle: the messages that these frames hold, which may be all
    that is large about refused calls, would be there until Python looks for cycles, which is not by their size.
    """
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__
