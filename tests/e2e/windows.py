"""What Prometheus and the callers saw between two scrapes."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

from .callers import Call
from .prometheus import INTERVAL_SECONDS, Labels, Prometheus


@dataclass(frozen=True)
class Between:
    """A value that depends on the machine, within bounds."""

    least: float
    most: float


@dataclass(frozen=True)
class Window:
    """A time between two scrapes, at both of which nothing was going on.

    Attributes:
        prometheus: What watched.
        start: Unix time of the first scrape.
        end: Unix time of the last one.
        calls: What the callers saw in it.
        cpu_seconds: Processor time of the server's process, by the operating system.
        before: Every series at the start.
        after: Every series at the end.
    """

    prometheus: Prometheus
    start: float
    end: float
    calls: tuple[Call, ...]
    cpu_seconds: float
    before: dict[Labels, float]
    after: dict[Labels, float]

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.end - self.start

    @property
    def edge_share(self) -> float:
        """How far a rate may be off: by what a scrape more or less at the window's edge would count."""
        return INTERVAL_SECONDS / self.seconds

    def codes(self) -> Counter[str]:
        """How the calls ended, by their callers."""
        return Counter(call.code for call in self.calls)

    def slow(self, bound_seconds: float) -> tuple[int, int]:
        """How many calls were slow, at least and at most: a caller also sees the way to the server and back."""
        surely = sum(call.seconds > 2 * bound_seconds for call in self.calls)
        return surely, sum(call.seconds > bound_seconds for call in self.calls)

    def rises(self, name: str, label: str, **wanted: str) -> dict[str, float]:
        """By how much the series of a metric have risen, added up by a label."""
        risen: dict[str, float] = {}
        for labels, value in self.after.items():
            told = dict(labels)
            if told.get("__name__") == name and wanted.items() <= told.items():
                key = told.get(label, "")
                # A series that was not there yet could not be seen rising; the warm-up has called everything once.
                risen[key] = risen.get(key, 0.0) + value - self.before[labels]
        return risen

    def gauges(self, name: str, label: str) -> dict[str, float]:
        """The values of a gauge at the end, by a label."""
        series = ((dict(labels), value) for labels, value in self.after.items())
        return {told[label]: value for told, value in series if told.get("__name__") == name}

    def quantile(self, share: float, name: str, **wanted: str) -> Between:
        """A quantile of what a histogram has observed, as Prometheus reckons it: linear within a bucket.

        Prometheus reckons what each bucket did at the window's edges by itself, so that a quantile which lies where one
        bucket ends may be told to lie in the next.
        """
        buckets = sorted((float(bound), n) for bound, n in self.rises(f"{name}_bucket", "le", **wanted).items())
        # No further than half the way to the largest of all: that would be another quantile.
        ranks = (1 - self.edge_share) * share, min((1 + self.edge_share) * share, (1 + share) / 2)
        least, most = (_at(rank * buckets[-1][1], buckets) for rank in ranks)
        return Between((1 - self.edge_share) * least, (1 + self.edge_share) * most)

    def rise(self, name: str, **wanted: str) -> float:
        """By how much the series of a metric have risen, added up."""
        return sum(self.rises(name, "", **wanted).values())


def _at(rank: float, buckets: list[tuple[float, float]]) -> float:
    """What an observation is that has so many before it; of the last one, if there are fewer."""
    rank = min(rank, buckets[-1][1])
    low, below = 0.0, 0.0
    for bound, n in buckets:
        if n >= rank:
            return low if bound == math.inf else low + (bound - low) * (rank - below) / (n - below)
        low, below = bound, n
    raise AssertionError("the last bucket holds everything")
