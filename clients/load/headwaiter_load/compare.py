"""Two results against each other: what has changed, and what may be chance."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from headwaiter_load import confidence, figures, units
from headwaiter_load.confidence import Interval, Sample, Second
from headwaiter_load.figures import Cell, Figure, Section
from headwaiter_load.histograms import Histogram
from headwaiter_load.results import CapacityResult, Distribution, GenerationFigures, Result, RunResult, Settings
from headwaiter_load.server_side import Stretch, server_side

Verdict = Literal["better", "worse", "no difference shown", "cannot be told"]


class ComparisonError(ValueError):
    """Results that cannot be compared, or a gate that means nothing; the message says why."""


@dataclass(frozen=True, slots=True)
class Change:
    """One figure of two results.

    Attributes:
        name: Of the figure, as gates call it.
        write: How it is written.
        before: Of the first result.
        after: Of the second.
        change: The second by the first; of shares the second less the first.
        of_shares: Whether the change is a difference.
        more_is_better: What a larger figure means.
    """

    name: str
    write: Callable[[float | None], str]
    before: Interval
    after: Interval
    change: Interval
    of_shares: bool
    more_is_better: bool

    @property
    def verdict(self) -> Verdict:
        """What may be said of it: nothing, unless all that it may truly be lies on one side."""
        none = 0.0 if self.of_shares else 1.0
        if self.change.low > none:
            return "better" if self.more_is_better else "worse"
        if self.change.high < none:
            return "worse" if self.more_is_better else "better"
        unbounded = math.isinf(self.change.high) or (not self.of_shares and self.change.low <= 0)
        return "cannot be told" if unbounded else "no difference shown"


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two results.

    Attributes:
        changes: Of the figures that chance is known of.
        plain: Others, of which only the two values are known: name, and how they are written.
        remarks: What makes the comparison doubtful.
        certainty: With which all intervals hold together; None where they are no matter of chance.
    """

    changes: tuple[Change, ...]
    plain: tuple[tuple[str, Figure, Figure], ...]
    remarks: tuple[str, ...]
    certainty: float | None


def compare(before: Result, after: Result, certainty: float = 0.95) -> Comparison:
    """Two results of the same kind.

    Args:
        before: The first.
        after: The second.
        certainty: With which all intervals are to hold together.

    Raises:
        ComparisonError: They are of different kinds, or one holds no answered call.
    """
    if isinstance(before, RunResult) and isinstance(after, RunResult):
        return _runs(before, after, certainty)
    if isinstance(before, CapacityResult) and isinstance(after, CapacityResult):
        return _capacities(before, after)
    raise ComparisonError("one is a run, the other a search for capacity")


def _runs(before: RunResult, after: RunResult, certainty: float) -> Comparison:
    samples = _sample(before), _sample(after)
    seconds, rate, share = units.seconds, units.rate, units.share
    # Name, of shares, more is better, how it is written, how it is found.
    wanted: list[tuple[str, bool, bool, Callable[[float | None], str], Callable[[Sample, float], Interval]]] = [
        ("p50", False, False, seconds, lambda sample, sure: sample.quantile(0.5, sure)),
        ("p90", False, False, seconds, lambda sample, sure: sample.quantile(0.9, sure)),
        ("p99", False, False, seconds, lambda sample, sure: sample.quantile(0.99, sure)),
        ("p99.9", False, False, seconds, lambda sample, sure: sample.quantile(0.999, sure)),
        ("mean", False, False, seconds, Sample.mean),
        ("rate", False, True, rate, Sample.rate),
        ("failed", True, False, share, Sample.failed_share),
    ]
    # Each interval errs so seldom that one of all errs as seldom as was asked for (Bonferroni).
    each = 1 - (1 - certainty) / len(wanted)
    changes = []
    for name, of_shares, more_is_better, write, find in wanted:
        first, second = (find(sample, each) for sample in samples)
        change = (confidence.difference if of_shares else confidence.ratio)(second, first)
        changes.append(Change(name, write, first, second, change, of_shares, more_is_better))
    remarks = _differing(before.settings, after.settings)
    for which, sample in zip(("first", "second"), samples, strict=True):
        if not sample.blocks:
            remarks.append(f"The {which} run is so short that its calls were taken for independent of each other.")
    for which, result in (("first", before), ("second", after)):
        if result.tester.bottleneck:
            remarks.append(f"In the {which} run the tester itself did not keep up.")
    return Comparison(tuple(changes), tuple(_plain(before, after)), tuple(remarks), certainty)


def _sample(result: RunResult) -> Sample:
    if not result.latency.count:
        raise ComparisonError(f"of the run at {result.settings.target}, {result.started_at}, no call was answered")
    seconds = [
        Second(moment.length_seconds, moment.answered, moment.failed, _coarse(moment.histogram))
        for moment in result.timeline
    ]
    return Sample(_latencies(result.latency), result.failed, result.answered_per_second, seconds)


def _latencies(distribution: Distribution) -> list[tuple[float, int]]:
    return Histogram.decoded(distribution.histogram).buckets()


def _coarse(histogram: str) -> list[tuple[float, int]]:
    return Histogram.decoded(histogram, coarse=True).buckets() if histogram else []


def _plain(before: RunResult, after: RunResult) -> Iterable[tuple[str, Figure, Figure]]:
    yield "max", figures.seconds(before.latency.max_seconds), figures.seconds(after.latency.max_seconds)
    yield "texts", figures.rate(before.texts_per_second), figures.rate(after.texts_per_second)
    yield from _tokens(before.generation, after.generation)
    used = [figures.seconds(figures.tester_cpu_seconds(result)) for result in (before, after)]
    yield "tester's CPU for 1000 calls", used[0], used[1]
    first, second = _stretch(before), _stretch(after)
    if first is None or second is None:
        return
    yield "server's latency, mean", figures.seconds(first.mean_seconds), figures.seconds(second.mean_seconds)
    yield "saturation of the workers", figures.share(first.saturation), figures.share(second.saturation)
    yield "processors used by the server", figures.number(first.cores), figures.number(second.cores)
    yield "tokens in a run, mean", figures.number(first.tokens_per_run), figures.number(second.tokens_per_run)
    yield "padding, of computed tokens", figures.share(first.padding_ratio), figures.share(second.padding_ratio)


def _tokens(before: GenerationFigures | None, after: GenerationFigures | None) -> Iterable[tuple[str, Figure, Figure]]:
    if before is None or after is None:
        return
    yield "tokens", figures.rate(before.tokens_per_second), figures.rate(after.tokens_per_second)
    pairs = {
        "first token": (before.first_token, after.first_token),
        "between tokens": (before.between_tokens, after.between_tokens),
    }
    for name, (first, second) in pairs.items():
        if first is not None and second is not None:
            yield f"{name}, p50", figures.seconds(first.p50_seconds), figures.seconds(second.p50_seconds)
            yield f"{name}, p99", figures.seconds(first.p99_seconds), figures.seconds(second.p99_seconds)


def _stretch(result: RunResult) -> Stretch | None:
    totals = None if result.server is None else server_side(result.server).totals
    return None if totals is None else totals.stretch


def _capacities(before: CapacityResult, after: CapacityResult) -> Comparison:
    remarks = _differing(before.settings, after.settings)
    if before.goal != after.goal:
        remarks.append("The goals differ, so that the capacities are of different things.")
    intervals = []
    for result in (before, after):
        if result.capacity_per_second is None:
            raise ComparisonError(f"the search at {result.settings.target}, {result.started_at}, found no capacity")
        missed = math.inf if result.missed_per_second is None else result.missed_per_second
        intervals.append(Interval(result.capacity_per_second, result.capacity_per_second, missed))
    first, second = intervals
    # Ends of searches, no errors of chance: both may be at their worst together.
    change = Interval(second.estimate / first.estimate, second.low / first.high, second.high / first.low)
    capacity = Change("capacity", units.rate, first, second, change, of_shares=False, more_is_better=True)
    return Comparison((capacity,), (), tuple(remarks), None)


def _differing(before: Settings, after: Settings) -> list[str]:
    first, second = (figures.settings_section(settings).rows for settings in (before, after))
    unlike = [
        f"{name} ({one} against {other})"
        for (name, one), (_, other) in zip(first, second, strict=True)
        # Where the server is and how the tester sent is no part of the load.
        if one != other and name not in {"Server", "Sent by", "Seed"}
    ]
    return [f"The loads differ: {', '.join(unlike)}."] if unlike else []


def changes_section(comparison: Comparison, names: tuple[str, str]) -> Section:
    """The changes, for people."""
    rows: list[tuple[Cell, ...]] = []
    for change in comparison.changes:
        before, after = (Figure(each.estimate, change.write(each.estimate)) for each in (change.before, change.after))
        estimate = Figure(change.change.estimate, _written(change, change.change.estimate))
        rows.append((change.name, before, after, estimate, _between(change), change.verdict))
    rows += [(name, before, after, "", "", "") for name, before, after in comparison.plain]
    if comparison.certainty is None:
        note = "the true capacity of each lies between the highest rate that met the goal and the lowest that missed it"
    else:
        certainty = units.share(comparison.certainty)
        note = f"all intervals hold together with {certainty} certainty, as far as one run of each can tell"
    return Section("Changes", ("", *names, "change", "may truly be", ""), tuple(rows), note, wide=True)


def _between(change: Change) -> str:
    low, high = change.change.low, change.change.high
    unknown = (low <= 0 and not change.of_shares, math.isinf(high))
    if any(unknown):
        known = f"{_written(change, high)} or less" if unknown[0] else f"{_written(change, low)} or more"
        return "anything" if all(unknown) else known
    return f"{_written(change, low)} to {_written(change, high)}"


def _written(change: Change, value: float) -> str:
    if not change.of_shares:
        return units.ratio(value)
    return f"{'+' if value > 0 else ''}{units.number(value * 100)} points"
