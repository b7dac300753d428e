"""The plots of several results: two against each other, and runs at several rates."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from headwaiter_load.plots import Plot, Series, percentile_plot
from headwaiter_load.results import CapacityResult, Moment, RunResult


def comparison_plots(before: RunResult, after: RunResult, names: tuple[str, str]) -> list[Plot]:
    """Two runs in the same plots."""
    both = tuple(zip(names, (before, after), strict=True))
    curves = {name: result.latency for name, result in both if result.latency.count}
    starts = sorted({moment.start_seconds for result in (before, after) for moment in result.timeline})

    def at(moments: Sequence[Moment], start: float) -> Moment | None:
        # That of a longer run is longer, and holds several starts of a shorter one.
        number = bisect_right(moments, start, key=lambda moment: moment.start_seconds) - 1
        return moments[number] if number >= 0 and start < _end(moments[number]) else None

    def over_time(
        name: str, title: str, unit: Literal["seconds", "rate"], of: Callable[[Moment], float | None]
    ) -> Plot:
        series = [
            Series(
                label,
                color,
                [None if (moment := at(result.timeline, start)) is None else of(moment) for start in starts],
            )
            for color, (label, result) in enumerate(both, start=1)
        ]
        return Plot(name, title, "time, s", "time", starts, unit, series, y_log=unit == "seconds")

    plots = [percentile_plot(curves)] if curves else []
    if starts:
        plots += [
            over_time("p99-over-time", "p99 of the calls that were due then", "seconds", lambda each: each.p99_seconds),
            over_time("p50-over-time", "p50 of the calls that were due then", "seconds", lambda each: each.p50_seconds),
            over_time("answered-over-time", "Answers", "rate", lambda each: each.answered / each.length_seconds),
        ]
    return plots


def _end(moment: Moment) -> float:
    return moment.start_seconds + moment.length_seconds


def throughput_plots(runs: Mapping[str, RunResult]) -> list[Plot]:
    """Runs at several rates: latency by throughput, and all curves."""
    by_rate = sorted(runs.values(), key=throughput)
    shown = {"p50": "50", "p90": "90", "p99": "99"}
    series = [
        Series(name, color, [run.latency.percentiles[each] if run.latency.count else None for run in by_rate])
        for color, (name, each) in enumerate(shown.items(), start=1)
    ]
    plots = [
        Plot(
            name="latency-by-rate",
            title="Latency by throughput",
            x_label="calls a second",
            x_kind="rate",
            x=[throughput(run) for run in by_rate],
            y_unit="seconds",
            series=series,
            y_log=True,
            note="Calls offered a second; of closed loops, which offer what is answered, calls answered.",
        )
    ]
    curves = {name: run.latency for name, run in runs.items() if run.latency.count}
    return [*plots, percentile_plot(curves)] if curves else plots


def throughput(run: RunResult) -> float:
    """Calls a second that a run stands for: those offered; of a closed loop, which offers what is answered, those."""
    return run.answered_per_second if run.settings.load == "closed" else run.offered_per_second


def capacity_comparison_plots(before: CapacityResult, after: CapacityResult, names: tuple[str, str]) -> list[Plot]:
    """Two searches in the same plot."""
    tried = [{step.rate: step for step in result.steps} for result in (before, after)]
    rates = sorted({rate for steps in tried for rate in steps})
    series = [
        Series(f"p99, {name}", color, [steps[rate].p99_seconds if rate in steps else None for rate in rates])
        for color, (name, steps) in enumerate(zip(names, tried, strict=True), start=1)
    ]
    return [
        Plot("p99-by-rate", "p99 by throughput", "calls offered a second", "rate", rates, "seconds", series, y_log=True)
    ]
