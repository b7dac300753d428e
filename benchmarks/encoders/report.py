"""Medians of rounds as tables: on the terminal, and between the markers of docs/benchmarks.md."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.encoders.aims import Aim
from benchmarks.encoders.figures import ANY, WORKLOADS, Candidate, Load, Quantity, Round, figure
from benchmarks.encoders.workloads import Text

_CLOSED_COLUMNS = (Quantity.THROUGHPUT, Quantity.CPU, Quantity.P50, Quantity.P99)
_OPEN_COLUMNS = (
    Quantity.OFFERED,
    Quantity.GOODPUT,
    Quantity.REFUSED,
    Quantity.LATE,
    Quantity.P50,
    Quantity.P99,
    Quantity.LAG,
)
_OWN_COLUMNS = (Quantity.CALLS, Quantity.THROUGHPUT, Quantity.CPU)
_OWN_COST = (Candidate.NULL, Candidate.ECHO)
# Upper ends of the histogram's bars, in tokens.
_BARS = (8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
_BAR_CHARACTERS = 40


@dataclass(frozen=True)
class Page:
    """One piece of the page; see `benchmarks.page.Written`."""

    name: str
    text: str

    def markdown(self) -> str:
        """What is written."""
        return self.text


@dataclass(frozen=True)
class Spread:
    """A figure over the rounds."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        if self.low == self.high:
            return _shown(self.median)
        return f"{_shown(self.median)} ({_shown(self.low)} to {_shown(self.high)})"


def _shown(value: float) -> str:
    """Three digits, or all that stand before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def spread(values: Sequence[float]) -> Spread:
    """Median, smallest and largest."""
    return Spread(statistics.median(values), min(values), max(values))


def spreads(rounds: Iterable[Round]) -> dict[str, Spread]:
    """Every figure, in the order in which it was first measured."""
    columns: dict[str, list[float]] = defaultdict(list)
    for figures in rounds:
        for name, value in figures.items():
            columns[name].append(value)
    return {name: spread(values) for name, values in columns.items()}


def aims_table(aims: Sequence[Aim], rounds: Sequence[Round]) -> str:
    """Each aim with what was measured; ratios are taken round by round."""
    lines = ["| figure | aim | measured | |", "|---|---|---:|---|"]
    for aim in aims:
        values = [value for figures in rounds if (value := aim.value(figures)) is not None]
        measured = spread(values) if values else None
        verdict = (
            "not measured" if measured is None else "reached" if aim.bound.holds(measured.median) else "not reached"
        )
        bound = f"{aim.bound.comparison} {aim.bound.number:,g}"
        lines.append(f"| {aim.name} | {bound} | {measured or ''} | {verdict} |")
    return "\n".join(lines)


def figures_tables(figures: dict[str, Spread]) -> str:
    """All figures: for each workload the loads that wait for answers and those that do not, then what is left."""
    own = {name: each for name, each in figures.items() if name.startswith(_OWN_COST)}
    rest = {name: each for name, each in figures.items() if name not in own}
    parts = []
    for workload in WORKLOADS:
        if table := candidates_table(rest, workload, _CLOSED_COLUMNS, without=Quantity.OFFERED):
            parts += [f"**{workload}**", table]
        if table := candidates_table(rest, workload, _OPEN_COLUMNS, only=Quantity.OFFERED):
            parts += [f"**{workload}**, calls at random times", table]
    parts += ["**the server's own cost**", candidates_table(own, "short", _OWN_COLUMNS)]
    parts += ["**memory after a round**", candidates_table(figures, ANY, (Quantity.RESIDENT,))]
    return "\n\n".join(parts)


def offline_table(figures: dict[str, Spread]) -> str:
    """Texts a second without a server, for each way of batching and workload."""
    lines = [f"| texts/s | {' | '.join(WORKLOADS)} |", f"|---|{'---:|' * len(WORKLOADS)}"]
    for candidate in (
        Candidate.BATCHES_OF_32,
        Candidate.UNBATCHED,
        Candidate.SORTED_PADDED,
        Candidate.SORTED_PACKED,
        Candidate.IDEAL_INT8,
    ):
        names = [figure(candidate, workload, Load.OFFLINE, Quantity.THROUGHPUT) for workload in WORKLOADS]
        if any(name in figures for name in names):
            lines.append(f"| {candidate} | {' | '.join(str(figures.get(name, '')) for name in names)} |")
    return "\n".join(lines)


def candidates_table(
    figures: dict[str, Spread], workload: str, columns: Sequence[str], only: str = "", without: str = ""
) -> str:
    """Rows of candidate and load; `only` or `without` those that have a certain column. Empty if there are none."""
    rows: dict[tuple[str, str], dict[str, Spread]] = defaultdict(dict)
    for name, each in figures.items():
        candidate, its_workload, load, quantity = name.split(" | ")
        if its_workload == workload:
            rows[candidate, load][quantity] = each
    kept = {
        row: cells
        for row, cells in rows.items()
        if (not only or only in cells)
        and (not without or without not in cells)
        and any(each in cells for each in columns)
    }
    if not kept:
        return ""
    lines = [f"| candidate | load | {' | '.join(columns)} |", f"|---|---|{'---:|' * len(columns)}"]
    for (candidate, load), cells in kept.items():
        shown = (str(cells.get(column, "")) for column in columns)
        lines.append(f"| {candidate} | {load if load != ANY else ''} | {' | '.join(shown)} |")
    return "\n".join(lines)


def histograms(workloads: dict[str, list[Text]]) -> str:
    """The lengths of each workload, as text."""
    parts = []
    for name, texts in workloads.items():
        lengths = sorted(each.tokens for each in texts)
        counts = Counter(next(bar for bar in _BARS if length <= bar) for length in lengths)
        at = {share: lengths[min(len(lengths) - 1, int(share * len(lengths)))] for share in (0.5, 0.9, 0.99)}
        parts.append(
            f"{name}: {len(lengths)} texts, mean {statistics.mean(lengths):.1f} tokens, median {at[0.5]}, "
            f"p90 {at[0.9]}, p99 {at[0.99]}"
        )
        for low, bar in zip((0, *_BARS), _BARS, strict=False):
            share = counts[bar] / len(lengths)
            parts.append(
                f"  {low + 1:3} to {bar:3}  {100 * share:5.1f} %  {'#' * round(_BAR_CHARACTERS * share)}".rstrip()
            )
        parts.append("")
    return "```text\n" + "\n".join(parts).rstrip() + "\n```"
