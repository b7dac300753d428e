"""Finding the one bad text in a run that raises, so that its batch-mates are still answered."""

from __future__ import annotations

import time
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
    error: Exception | None = None
    try:
        run(start, stop)
    except Exception as raised:  # noqa: BLE001 - whatever the engine raises, batch-mates are answered
        error = raised
    tries.append(Try(start, stop, time.thread_time() - began))
    if error is None:
        return {}
    if stop - start == 1:
        failure = EngineError("the model failed on this input")
        failure.__cause__ = error
        return {start: failure}
    middle = (start + stop) // 2
    return run_isolating(run, start, middle, tries) | run_isolating(run, middle, stop, tries)
