"""What is counted, as plain numbers: cheap to add to, and turned into samples only when somebody asks.

Numbers are added to on the event loop alone, so that no lock is needed; other threads read them.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import TypeVar

from prometheus_client.core import Exemplar, Metric
from prometheus_client.utils import floatToGoString

from headwaiter_server.metrics.definitions import Definition

LabelValues = tuple[str, ...]
Value = TypeVar("Value")


class Family(dict[LabelValues, Value]):
    """The series of one metric, by the values of its labels, in their order."""

    def __init__(self, definition: Definition) -> None:
        super().__init__()
        self.definition = definition

    def _named(self, values: LabelValues) -> dict[str, str]:
        return dict(zip(self.definition.labels, values, strict=True))


class Numbers(Family[float]):
    """Counters or gauges: `numbers[labels] += 1`, from 0."""

    def __missing__(self, key: LabelValues) -> float:
        return 0.0

    def metric(self) -> Metric:
        """What a scrape shows of it."""
        return metric_of(self.definition, self.copy())


class Histogram:
    """Observations of one series.

    Attributes:
        counts: Of each bucket, not of those below it; the last one has no bound.
        total: Sum of all observations.
        exemplars: By bucket, the trace that was seen there last, its value, and when, in Unix time.
    """

    __slots__ = ("_bounds", "counts", "exemplars", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0
        self.exemplars: dict[int, tuple[str, float, float]] = {}

    def observe(self, value: float, trace_id: str | None = None, times: int = 1) -> None:
        """Count an observation, or several alike, and remember its trace if it has one."""
        bucket = bisect_left(self._bounds, value)
        self.counts[bucket] += times
        self.total += value * times
        if trace_id is not None:
            self.exemplars[bucket] = (trace_id, value, time.time())


class Histograms(Family[Histogram]):
    """Histograms: `histograms[labels].observe(seconds)`."""

    def __init__(self, definition: Definition, bounds: Sequence[float]) -> None:
        super().__init__(definition)
        self.bounds = tuple(sorted(bounds))

    def __missing__(self, key: LabelValues) -> Histogram:
        histogram = self[key] = Histogram(self.bounds)
        return histogram

    def metric(self) -> Metric:
        """What a scrape shows of it."""
        definition = self.definition
        metric = Metric(definition.name, definition.text, definition.kind, _unit(definition))
        bounds = [*map(floatToGoString, self.bounds), "+Inf"]
        for values, histogram in self.copy().items():
            labels = self._named(values)
            counts = list(histogram.counts)
            exemplars = histogram.exemplars.copy()
            for bucket, count in enumerate(accumulate(counts)):
                exemplar = None
                if (seen := exemplars.get(bucket)) is not None:
                    trace_id, value, when = seen
                    exemplar = Exemplar({"trace_id": trace_id}, value, when)
                metric.add_sample(
                    f"{definition.name}_bucket", {**labels, "le": bounds[bucket]}, count, exemplar=exemplar
                )
            metric.add_sample(f"{definition.name}_count", labels, sum(counts))
            metric.add_sample(f"{definition.name}_sum", labels, histogram.total)
        return metric


def metric_of(definition: Definition, numbers: Mapping[LabelValues, float]) -> Metric:
    """What a scrape shows of a counter or gauge with these series."""
    # Of a counter the library's name has no _total, its samples' have.
    name = definition.name.removesuffix("_total") if definition.kind == "counter" else definition.name
    metric = Metric(name, definition.text, definition.kind, _unit(definition))
    for values, number in numbers.items():
        metric.add_sample(definition.name, dict(zip(definition.labels, values, strict=True)), number)
    return metric


def _unit(definition: Definition) -> str:
    """The unit as OpenMetrics has it, which takes it only where the name says it, too."""
    named = definition.name.removesuffix("_total").endswith(f"_{definition.unit}")
    return definition.unit if definition.unit and named else ""
