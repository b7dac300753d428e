"""HDR histograms of times; the only file that imports hdrh."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence
from typing import Final

from hdrh.histogram import HdrHistogram

from headwaiter_load.results import PERCENTILES, Distribution

_MICROSECONDS: Final = 1_000_000
# An hour: what takes longer counts as an hour.
_LONGEST_MICROSECONDS: Final = 3_600 * _MICROSECONDS
_DIGITS: Final = 3
# For each stretch of a time line, of which there are many, and which nobody reads to a thousandth.
_COARSE_DIGITS: Final = 2


class Histogram:
    """Times, counted in buckets that are a thousandth of the time wide (a hundredth if coarse).

    Args:
        coarse: Whether a hundredth will do: a tenth of the memory.
    """

    def __init__(self, *, coarse: bool = False) -> None:
        self._coarse = coarse
        self._hdr = HdrHistogram(1, _LONGEST_MICROSECONDS, _COARSE_DIGITS if coarse else _DIGITS)

    @classmethod
    def decoded(cls, text: str, *, coarse: bool = False) -> Histogram:
        """What `encoded` gave."""
        histogram = cls(coarse=coarse)
        histogram.add_encoded(text)
        return histogram

    def record(self, seconds: float) -> None:
        """Counts one time in; a negative one as 0."""
        microseconds = round(seconds * _MICROSECONDS)
        self._hdr.record_value(min(max(microseconds, 0), _LONGEST_MICROSECONDS))

    def add_encoded(self, text: str) -> None:
        """Counts in all of another one."""
        self._hdr.decode_and_add(text)

    def encoded(self) -> str:
        """All of it, compressed, as text."""
        return str(self._hdr.encode().decode())

    @property
    def count(self) -> int:
        """How many times were counted in."""
        return int(self._hdr.get_total_count())

    def percentile(self, percentile: float) -> float:
        """What `percentile` of 100 times do not exceed, in seconds; 0 when there are none."""
        return self._percentiles((percentile,))[0]

    def buckets(self) -> list[tuple[float, int]]:
        """Every bucket that holds something: its upper end in seconds, and how many times it holds."""
        return [(self._ends(index)[1] / _MICROSECONDS, count) for index, count in self._filled()]

    def distribution(self) -> Distribution:
        """The figures of a result."""
        none = not self.count
        percentiles = zip(PERCENTILES, self._percentiles(PERCENTILES), strict=True)
        return Distribution(
            count=self.count,
            min_seconds=0.0 if none else self._ends(self._filled()[0][0])[0] / _MICROSECONDS,
            mean_seconds=0.0 if none else self._mean_seconds(),
            max_seconds=0.0 if none else self._hdr.get_max_value() / _MICROSECONDS,
            percentiles={format(percentile, "g"): seconds for percentile, seconds in percentiles},
            histogram=self.encoded(),
        )

    # The library's own passes over the buckets take fifty times as long, and its least value is 0 once an empty
    # histogram was counted in.

    def _filled(self) -> list[tuple[int, int]]:
        """Index and count of every bucket that holds something, ascending."""
        return [(index, count) for index, count in enumerate(self._hdr.counts) if count]

    def _ends(self, index: int) -> tuple[int, int]:
        """The least and the largest microseconds of a bucket."""
        least = self._hdr.get_value_from_index(index)
        return least, self._hdr.get_highest_equivalent_value(least)

    def _percentiles(self, percentiles: Sequence[float]) -> list[float]:
        filled, longest = self._filled(), self._hdr.get_max_value()
        if not filled:
            return [0.0] * len(percentiles)
        totals = list(itertools.accumulate(count for _, count in filled))
        seconds = []
        for percentile in percentiles:
            wanted = max(1, int(percentile * self.count / 100 + 0.5))
            index = filled[bisect.bisect_left(totals, wanted)][0]
            # The bucket's upper end may lie beyond the longest time.
            seconds.append(min(self._ends(index)[1], longest) / _MICROSECONDS)
        return seconds

    def _mean_seconds(self) -> float:
        total = sum(count * sum(self._ends(index)) / 2 for index, count in self._filled())
        return float(total) / self.count / _MICROSECONDS
