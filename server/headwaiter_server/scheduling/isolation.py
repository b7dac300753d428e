"""Finding the one bad text in a run that raises, so that its batch-mates are still answered."""

from __future__ import annotations

from collections.abc import Callable

from headwaiter_server.errors import EngineError


def run_isolating(run: Callable[[int, int], None], start: int, stop: int) -> dict[int, EngineError]:
    """Run rows `[start, stop)` together; if that raises, halve until only the guilty rows fail.

    Rows in a half that succeeds are done. Halving goes on to single rows even when both halves fail: two bad texts, one
    in each half, must not fail the others. An engine that fails for every row therefore costs 2n - 1 tries.

    Args:
        run: Runs a range of rows; it either does all of them or raises and has done none.
        start: First row.
        stop: One past the last row.

    Returns:
        The error of each row that fails even alone.
    """
    if start == stop:
        return {}
    try:
        run(start, stop)
    except Exception as error:  # noqa: BLE001 - whatever the engine raises, batch-mates are answered
        if stop - start == 1:
            failure = EngineError("the model failed on this input")
            failure.__cause__ = error
            return {start: failure}
        middle = (start + stop) // 2
        return run_isolating(run, start, middle) | run_isolating(run, middle, stop)
    return {}
