"""Finding the one bad text in a run that raises, so that its batch-mates are still answered."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from typing import NamedTuple

from headwaiter_server.errors import EngineError


class Try(NamedTuple):
    """One try to run rows together.

    Attributes:
        start: First row.
        stop: One past the last row.
        cpu_seconds: Processor time of the thread that ran it, whatever came of it.
    """

    start: int
    stop: int
    cpu_seconds: float


def run_isolating(run: Callable[[int, int], None], start: int, stop: int, tries: list[Try]) -> dict[int, EngineError]:
    """Run rows `[start, stop)` together; if that raises, halve until only the guilty rows fail.

    Rows in a half that succeeds are done. Halving goes on to single rows even when both halves fail: two bad texts, one
    in each half, must not fail the others. An engine that fails for every row therefore costs 2n - 1 tries.

    Args:
        run: Runs a range of rows; it either does all of them or raises and has done none.
        start: First row.
        stop: One past the last row.
        tries: Gets one more for each time that `run` was called.

    Returns:
        The error of each row that fails even alone.
    """
    if start == stop:
        return {}
    began = time.thread_time()
    error = _tried(run, start, stop)
    tries.append(Try(start, stop, time.thread_time() - began))
    if error is None:
        return {}
    if stop - start == 1:
        return {start: failed(error)}
    _forget_frames(error)
    middle = (start + stop) // 2
    return run_isolating(run, start, middle, tries) | run_isolating(run, middle, stop, tries)


def failed(error: Exception) -> EngineError:
    """What a text is answered that has raised something; the log is told what, and where."""
    failure = EngineError("the model failed on this input")
    failure.add_note("".join(traceback.format_exception(error)))
    _forget_frames(error)
    failure.__cause__ = error
    return failure


def _tried(run: Callable[[int, int], None], start: int, stop: int) -> Exception | None:
    try:
        run(start, stop)
    except Exception as raised:  # noqa: BLE001 - whatever the engine raises, batch-mates are answered
        return raised
    return None


def _forget_frames(error: BaseException | None) -> None:
    """Let go of the frames that an error has passed through, and of the arrays in their variables.

    They refer to their callers, down to those that hold the error: only the garbage collector would find them.
    """
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__
