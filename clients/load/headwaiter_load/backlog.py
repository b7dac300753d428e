"""Whether the queue grew while a load went on: latencies alone would pass a rate that is just too high."""

from __future__ import annotations

import math
from typing import Final

from headwaiter_load.results import RunResult

# The outstanding calls may grow by so many of the calls, or by as much as chance lets them.
_GROWTH_RATIO: Final = 0.02
_GROWTH_DEVIATIONS: Final = 3.0


def growth(result: RunResult) -> int:
    """How many more calls were outstanding at the end than at the beginning."""
    return result.outstanding_at_end - result.outstanding_at_begin


def grew(result: RunResult) -> bool:
    """Whether that is more than chance makes of a queue in balance; a closed loop has as many as it was told."""
    if result.settings.load == "closed":
        return False
    chance = _GROWTH_DEVIATIONS * math.sqrt(max(result.outstanding_at_begin, result.outstanding_at_end, 1))
    return growth(result) > max(_GROWTH_RATIO * result.scheduled, chance)
