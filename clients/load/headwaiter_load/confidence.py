"""How sure a figure of one run is: intervals for quantiles, means and rates.

Calls that follow each other are alike: a slow second makes all of its calls slow. Intervals that take each call for an
independent draw are far too narrow, and sell noise as a difference. So a run is cut into blocks of consecutive seconds,
and what differs from block to block says how much the whole may be off (the variance of a ratio estimator over
clusters). Intervals of latencies and failures are never narrower than independent calls would have them; those of rates
go by the seconds alone, as the calls of an open loop come when they are sent.

A quantile's interval is one of order statistics: the share of calls below the true quantile is known but for its
error, and the values at both ends of that range of ranks are the ends of the interval. No shape of distribution is
assumed. Ratios of two runs are bounded by the method of variance estimates recovery, on logarithms (Zou and Donner,
Statistics in Medicine 27, 2008).
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

# So many make the estimate of their variance steady enough, and are still long against what ties calls together.
_BLOCKS: Final = 10
# With fewer, their variance says nothing; calls are then taken for independent, and `Sample.blocks` says so.
_FEWEST_BLOCKS: Final = 5


Latencies = Sequence[tuple[float, int]]
"""Latencies, ascending, each with its number of calls."""


@dataclass(frozen=True, slots=True)
class Second:
    """One second of a run, or another short stretch of it.

    Attributes:
        seconds: Its length.
        answered: Calls that were answered in it.
        failed: Calls that ended in it otherwise.
        latencies: Of the calls that were due in it and answered.
    """

    seconds: float
    answered: int
    failed: int
    latencies: Latencies


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure and what it may truly be.

    Attributes:
        estimate: The figure as measured.
        low: Lower end.
        high: Upper end; infinite where too few calls were seen to bound it.
    """

    estimate: float
    low: float
    high: float


class _Calls:
    """Latencies to be counted up to a value."""

    def __init__(self, latencies: Iterable[tuple[float, int]]) -> None:
        merged: Counter[float] = Counter()
        for value, count in latencies:
            merged[value] += count
        self.values = sorted(merged)
        self.counts = [merged[value] for value in self.values]
        # Of calls before each value, and of all.
        self._before = [0, *itertools.accumulate(self.counts)]
        self.sum_seconds = sum(value * count for value, count in merged.items())

    def __len__(self) -> int:
        return self._before[-1]

    def up_to(self, value: float) -> int:
        return self._before[bisect.bisect_right(self.values, value)]

    def at_rank(self, rank: int) -> float:
        return self.values[bisect.bisect_left(self._before, rank) - 1]


class Sample:
    """The calls of a run.

    Args:
        latencies: Of those that were answered, at least one.
        failed: How many were not.
        answered_per_second: Answers a second.
        seconds: The run's seconds, in their order.
    """

    def __init__(
        self, latencies: Latencies, failed: int, answered_per_second: float, seconds: Sequence[Second]
    ) -> None:
        self._all = _Calls(latencies)
        self._failed = failed
        self._answered_per_second = answered_per_second
        length = max(1, len(seconds) // _BLOCKS)
        # A last block that is shorter would count like a whole one: its seconds go to the one before.
        count = len(seconds) // length
        edges = [*range(0, count * length, length), len(seconds)]
        blocks = [seconds[begin:end] for begin, end in itertools.pairwise(edges)]
        self._blocks = blocks if len(blocks) >= _FEWEST_BLOCKS else []
        self._calls = [_Calls(latency for second in block for latency in second.latencies) for block in self._blocks]

    @property
    def calls(self) -> int:
        """Calls answered."""
        return len(self._all)

    @property
    def blocks(self) -> int:
        """Blocks that the intervals rest on; 0 if there are too few, and calls are taken for independent."""
        return len(self._blocks)

    def quantile(self, q: float, confidence: float) -> Interval:
        """The latency that a share `q` of the calls kept."""
        value = self._at(q)
        variance = max(
            q * (1 - q) / self.calls, self._variance([(each.up_to(value), len(each)) for each in self._calls])
        )
        # Half a rank more, as ranks are whole numbers.
        reach = self._score(confidence) * math.sqrt(variance) + 0.5 / self.calls
        low = self._at(q - reach) if q > reach else 0.0
        high = self._at(q + reach) if q + reach < 1 else math.inf
        return Interval(value, low, high)

    def mean(self, confidence: float) -> Interval:
        """The mean latency."""
        mean = self._all.sum_seconds / self.calls
        squares = sum(
            count * (value - mean) ** 2 for value, count in zip(self._all.values, self._all.counts, strict=True)
        )
        parts = [(each.sum_seconds, len(each)) for each in self._calls]
        return self._symmetric(mean, max(squares / self.calls**2, self._variance(parts)), confidence)

    def rate(self, confidence: float) -> Interval:
        """Answers a second."""
        parts = [
            (sum(second.answered for second in block), sum(second.seconds for second in block))
            for block in self._blocks
        ]
        # Without blocks: answers that come independently of each other.
        variance = self._variance(parts) if parts else self._answered_per_second**2 / self.calls
        return self._symmetric(self._answered_per_second, variance, confidence)

    def failed_share(self, confidence: float) -> Interval:
        """Calls that failed, by all (Wilson's interval, for as many independent calls as the blocks are worth)."""
        calls = self.calls + self._failed
        share = self._failed / calls
        parts = [
            (sum(second.failed for second in block), sum(second.failed + second.answered for second in block))
            for block in self._blocks
        ]
        alone = share * (1 - share) / calls
        # Failures of the time line alone, as of calls that were due before it, say nothing of how this share varies.
        worth = calls / max(1.0, self._variance(parts) / alone) if alone else calls
        score = self._score(confidence)
        middle = (share + score**2 / (2 * worth)) / (1 + score**2 / worth)
        reach = score / (1 + score**2 / worth) * math.sqrt(share * (1 - share) / worth + score**2 / (4 * worth**2))
        return Interval(share, max(0.0, middle - reach), min(1.0, middle + reach))

    def _symmetric(self, estimate: float, variance: float, confidence: float) -> Interval:
        reach = self._score(confidence) * math.sqrt(variance)
        return Interval(estimate, max(0.0, estimate - reach), estimate + reach)

    def _at(self, q: float) -> float:
        # The rank as HDR histograms have it, so that the estimate is the result's own percentile.
        return self._all.at_rank(max(1, math.floor(q * self.calls + 0.5)))

    def _score(self, confidence: float) -> float:
        return student_score(confidence, len(self._blocks) - 1 if self._blocks else math.inf)

    @staticmethod
    def _variance(parts: Sequence[tuple[float, float]]) -> float:
        """Of the sum of the first by the sum of the second, whose pairs are clusters; 0 without any."""
        total = sum(below for _, below in parts)
        if not total:
            return 0.0
        value = sum(above for above, _ in parts) / total
        squares = sum((above - value * below) ** 2 for above, below in parts)
        return len(parts) / (len(parts) - 1) * squares / total**2


def ratio(over: Interval, under: Interval) -> Interval:
    """The interval of one figure divided by another of an independent run, both at the same confidence."""
    if not (over.estimate > 0 and under.estimate > 0):
        return Interval(math.nan, 0.0, math.inf)
    difference = math.log(over.estimate / under.estimate)
    down = math.hypot(_log_reach(over.estimate, over.low), _log_reach(under.high, under.estimate))
    up = math.hypot(_log_reach(over.high, over.estimate), _log_reach(under.estimate, under.low))
    return Interval(math.exp(difference), math.exp(difference - down), math.exp(difference + up))


def difference(of: Interval, less: Interval) -> Interval:
    """The interval of one figure less another of an independent run, both at the same confidence."""
    estimate = of.estimate - less.estimate
    down = math.hypot(of.estimate - of.low, less.high - less.estimate)
    up = math.hypot(of.high - of.estimate, less.estimate - less.low)
    return Interval(estimate, estimate - down, estimate + up)


def student_score(confidence: float, freedom: float) -> float:
    """How many standard errors a two-sided interval reaches, by Student's distribution (Cornish-Fisher expansion).

    Args:
        confidence: Of the interval, such as 0.95.
        freedom: Degrees of freedom, at least 4; infinite for the normal distribution.
    """
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / freedom**power for power, term in enumerate(terms, start=1))


def _log_reach(high: float, low: float) -> float:
    return math.log(high / low) if low > 0 and math.isfinite(high) else math.inf
