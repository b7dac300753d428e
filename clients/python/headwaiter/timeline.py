"""A few spans of time as lines of text: names, figures in one unit, bars that begin where the one before has ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

BAR: Final = "█"
ASCII_BAR: Final = "#"
_CELLS: Final = 40

# From how many seconds on: the unit, and how many of it a second has.
_UNITS: Final = ((10.0, "s", 1.0), (0.001, "ms", 1e3), (0.0, "µs", 1e6))


def timeline(stages: Sequence[tuple[str, float]], total: tuple[str, float], bar: str = BAR) -> list[str]:
    """A line for each stage, and one for all of them.

    Args:
        stages: Names, and seconds that follow one another.
        total: Name and seconds of the whole, which need not be the sum: medians do not add up.
        bar: What bars are made of.
    """
    unit, factor = _unit(total[1])
    rows = [*stages, total]
    names = max(len(name) for name, _ in rows)
    figures = [f"{seconds * factor:.2f}" for _, seconds in rows]
    widths = max(map(len, figures))
    sum_seconds = sum(seconds for _, seconds in stages)
    lines, before = [], 0.0
    for (name, seconds), figure in zip(stages, figures, strict=False):
        drawn = _bar(before, seconds, sum_seconds, bar)
        lines.append(f"{name.ljust(names)}  {figure.rjust(widths)} {unit}  {drawn}".rstrip())
        before += seconds
    lines.append(f"{total[0].ljust(names)}  {figures[-1].rjust(widths)} {unit}")
    return lines


def duration(seconds: float) -> str:
    """Seconds in the unit that suits them."""
    unit, factor = _unit(seconds)
    return f"{seconds * factor:.2f} {unit}"


def _unit(seconds: float) -> tuple[str, float]:
    return next((unit, factor) for least, unit, factor in _UNITS if seconds >= least)


def _bar(before: float, seconds: float, total: float, bar: str) -> str:
    if seconds <= 0 or total <= 0:
        return ""
    # What took any time is seen, however short it was.
    start = min(round(before / total * _CELLS), _CELLS - 1)
    cells = max(1, round((before + seconds) / total * _CELLS) - start)
    return " " * start + bar * cells
