"""What the page draws: the plots of a result as plain data, which the page's script hands to uPlot."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final, Literal

from headwaiter_load.histograms import Histogram
from headwaiter_load.results import CapacityResult, Distribution, GenerationFigures, Moment, RunResult

# Points of a curve of percentiles for each factor of ten that calls get rarer.
_POINTS_PER_DECADE: Final = 40
# How many there are in the page's style.
_COLORS: Final = 6

Values = Sequence[float | None]


@dataclass(frozen=True, slots=True)
class Series:
    """One line, or one row of points or bars.

    Attributes:
        name: For the legend.
        color: Number of its colour, from 1; equal things have equal colours in all plots.
        values: One for each x; None leaves a gap.
        style: How it is drawn; areas are stacked onto those before them.
    """

    name: str
    color: int
    values: Values
    style: Literal["line", "dashed", "points", "bars", "area"] = "line"


@dataclass(frozen=True, slots=True)
class Mark:
    """A straight line through a plot.

    Attributes:
        axis: The axis that it crosses.
        value: Where.
        label: What it stands for.
    """

    axis: Literal["x", "y"]
    value: float
    label: str


@dataclass(frozen=True, slots=True)
class Plot:
    """One plot.

    Attributes:
        name: Unique on the page.
        title: What it shows.
        x_label: What x is, with its unit.
        x_kind: "percentile" is how rare a call is, 1/(1 - p), on a logarithmic scale; "bucket" the number of a bucket.
        x: Ascending.
        y_unit: How values are written.
        series: What is drawn.
        y_log: Whether the scale of y is logarithmic; readers may switch.
        marks: Lines across.
        buckets: What to write below each bucket.
        note: What must be known to read it.
    """

    name: str
    title: str
    x_label: str
    x_kind: Literal["percentile", "time", "rate", "bucket"]
    x: Sequence[float]
    y_unit: Literal["seconds", "rate", "share", "count", "number"]
    series: Sequence[Series]
    y_log: bool = False
    marks: Sequence[Mark] = ()
    buckets: Sequence[str] = ()
    note: str = ""


def run_plots(result: RunResult) -> list[Plot]:
    """A run as the callers saw it."""
    plots = []
    if result.latency.count:
        curves = {"from when it was due": result.latency}
        if result.settings.load != "closed":
            curves["from when it was sent"] = result.service_time
        plots.append(percentile_plot(curves))
    if result.generation is not None:
        plots += _token_plots(result.generation)
    if result.timeline:
        plots += _over_time(result.timeline)
    return plots


def _token_plots(generation: GenerationFigures) -> list[Plot]:
    times = {"to the first token": generation.first_token, "between tokens": generation.between_tokens}
    curves = {name: distribution for name, distribution in times.items() if distribution is not None}
    return [percentile_plot(curves, "token-percentiles", "Times of tokens by percentile")] if curves else []


def percentile_plot(
    curves: Mapping[str, Distribution], name: str = "percentiles", title: str = "Latency by percentile"
) -> Plot:
    """Times by percentile, each tenth as rare as the one before as far away: what HDR plots are."""
    most = max(distribution.count for distribution in curves.values())
    steps = math.floor(math.log10(most) * _POINTS_PER_DECADE) + 1
    rarities = [10 ** (step / _POINTS_PER_DECADE) for step in range(steps)]
    series = [
        Series(curve, 1 + number % _COLORS, _curve(distribution, rarities))
        for number, (curve, distribution) in enumerate(curves.items())
    ]
    return Plot(
        name=name,
        title=title,
        x_label="percentile",
        x_kind="percentile",
        x=rarities,
        y_unit="seconds",
        series=series,
    )


def _curve(distribution: Distribution, rarities: Sequence[float]) -> Values:
    buckets = Histogram.decoded(distribution.histogram).buckets()
    below = list(accumulate(count for _, count in buckets))
    values: list[float | None] = []
    at = 0
    for rarity in rarities:
        # Beyond as rare as one call of all there is nothing to say.
        if rarity > distribution.count:
            values.append(None)
            continue
        # The rank as HDR histograms have it, so that the curve goes through the result's own percentiles.
        while below[at] < math.floor(distribution.count * (1 - 1 / rarity) + 0.5):
            at += 1
        values.append(min(buckets[at][0], distribution.max_seconds))
    return values


def _over_time(moments: Sequence[Moment]) -> list[Plot]:
    middle = [moment.start_seconds + moment.length_seconds / 2 for moment in moments]

    def plot(name: str, title: str, unit: Literal["seconds", "rate", "count"], *series: Series, log: bool) -> Plot:
        return Plot(name, title, "time, s", "time", middle, unit, series, y_log=log)

    def a_second(counts: Sequence[int]) -> Values:
        return [count / moment.length_seconds for count, moment in zip(counts, moments, strict=True)]

    plots = [
        plot(
            "latency-over-time",
            "Latency of the calls that were due then",
            "seconds",
            Series("p50", 1, [moment.p50_seconds for moment in moments]),
            Series("p90", 2, [moment.p90_seconds for moment in moments]),
            Series("p99", 3, [moment.p99_seconds for moment in moments]),
            Series("max", 4, [moment.max_seconds for moment in moments], "points"),
            log=True,
        ),
        plot(
            "calls-over-time",
            "Calls",
            "rate",
            Series("due", 5, a_second([moment.scheduled for moment in moments]), "dashed"),
            Series("answered", 1, a_second([moment.answered for moment in moments])),
            Series("failed", 3, a_second([moment.failed for moment in moments])),
            log=False,
        ),
        plot(
            "outstanding-over-time",
            "Calls outstanding",
            "count",
            Series("outstanding", 1, [moment.outstanding for moment in moments]),
            log=False,
        ),
    ]
    if any(moment.texts != moment.answered for moment in moments):
        texts = Series("texts", 1, a_second([moment.texts for moment in moments]))
        plots.append(plot("texts-over-time", "Texts answered", "rate", texts, log=False))
    return plots


def capacity_plots(result: CapacityResult) -> list[Plot]:
    """A search for capacity: latency and answers by the rate that was offered."""
    # Of two tries at the same rate the second counts.
    steps = [step for _, step in sorted({step.rate: step for step in result.steps}.items())]
    rates = [step.rate for step in steps]
    capacity = result.capacity_per_second
    found = [] if capacity is None else [Mark("x", capacity, "capacity")]
    return [
        Plot(
            name="latency-by-rate",
            title="Latency by throughput",
            x_label="calls offered a second",
            x_kind="rate",
            x=rates,
            y_unit="seconds",
            series=[
                Series("p50", 1, [step.p50_seconds for step in steps]),
                Series("p99", 2, [step.p99_seconds for step in steps]),
                Series("p99, goal missed", 3, [None if step.met else step.p99_seconds for step in steps], "points"),
            ],
            y_log=True,
            marks=[Mark("y", result.goal.p99_seconds, "goal"), *found],
        ),
        Plot(
            name="answered-by-rate",
            title="Answers by throughput",
            x_label="calls offered a second",
            x_kind="rate",
            x=rates,
            y_unit="rate",
            series=[
                Series("all answered", 5, rates, "dashed"),
                Series("answered", 1, [step.answered_per_second for step in steps]),
            ],
            marks=found,
        ),
    ]
