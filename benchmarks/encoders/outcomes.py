"""When calls are sent, and what came of them; pure, so that it can be tested."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

OK, DEADLINE_EXCEEDED, UNAVAILABLE = 0, 4, 14


@dataclass(frozen=True)
class Outcome:
    """One call.

    Attributes:
        seconds: From its scheduled time, which may be before it was sent, to its end.
        code: gRPC status code.
        lag_seconds: From its scheduled time to the moment it was really sent.
    """

    seconds: float
    code: int
    lag_seconds: float = 0.0


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of the values does not exceed; NaN of none."""
    if not values:
        return math.nan
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def poisson_schedule(rate_per_second: float, seconds: float, seed: int) -> list[float]:
    """Times at which independent callers would call, ascending, from 0 on.

    Their number is exact: given how many there are, the times of a Poisson process are spread evenly at random. Short
    runs would otherwise offer a few per cent more or less than they should.

    Args:
        rate_per_second: How many.
        seconds: When it ends.
        seed: Another seed, other times.
    """
    generator = random.Random(seed)
    return sorted(generator.uniform(0, seconds) for _ in range(round(rate_per_second * seconds)))


def summarize_open(outcomes: Sequence[Outcome], seconds: float, deadline_seconds: float) -> dict[str, float]:
    """Figures of an open-loop run.

    A call that the server took and did not answer in time counts among the admitted ones, with the time that its caller
    waited.

    Args:
        outcomes: Every call of the schedule, answered or not.
        seconds: Length of the schedule.
        deadline_seconds: After this an answer is worth nothing, counted from the scheduled time.
    """
    codes = Counter(each.code for each in outcomes)
    admitted = [each.seconds for each in outcomes if each.code in {OK, DEADLINE_EXCEEDED}]
    good = sum(each.code == OK and each.seconds <= deadline_seconds for each in outcomes)
    return {
        "offered_per_second": len(outcomes) / seconds,
        "goodput_per_second": good / seconds,
        "refused_share": codes[UNAVAILABLE] / max(1, len(outcomes)),
        "late_share": (len(admitted) - good) / max(1, len(outcomes)),
        "failed_calls": len(outcomes) - codes[OK] - codes[DEADLINE_EXCEEDED] - codes[UNAVAILABLE],
        "p50_seconds": percentile(admitted, 0.50),
        "p99_seconds": percentile(admitted, 0.99),
        "lag_p99_seconds": percentile([each.lag_seconds for each in outcomes], 0.99),
    }
