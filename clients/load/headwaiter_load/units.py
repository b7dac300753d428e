"""Figures in words: three significant digits and a unit."""

from __future__ import annotations

import math
from typing import Final

NOTHING: Final = "-"
_DIGITS: Final = 3


def seconds(value: float | None) -> str:
    """A time: `850 µs`, `12.3 ms`, `1.82 s`."""
    if value is None:
        return NOTHING
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if abs(value) >= size * (1 - 0.5 * 10**-_DIGITS):
            return f"{_short(value / size)} {unit}"
    return f"{_short(value / 1e-6)} µs" if value else "0 s"


def rate(value: float | None) -> str:
    """A number a second: `1,230/s`."""
    return NOTHING if value is None else f"{_short(value)}/s"


def count(value: float | None) -> str:
    """A whole number: `12,345`."""
    return NOTHING if value is None else f"{round(value):,}"


def number(value: float | None) -> str:
    """A number without a unit of its own: `17.3`."""
    return NOTHING if value is None else _short(value)


def share(value: float | None) -> str:
    """A ratio, of 1: `98.3 %`."""
    return NOTHING if value is None else f"{_short(value * 100)} %"


def ratio(value: float) -> str:
    """One figure by another: `1.07x`."""
    return f"{_short(value)}x" if math.isfinite(value) else "?"


def byte_count(value: float | None) -> str:
    """An amount of data: `1.2 MB`."""
    if value is None:
        return NOTHING
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= size:
            return f"{_short(value / size)} {unit}"
    return f"{round(value)} B"


def _short(value: float) -> str:
    if not value:
        return "0"
    # Rounded first, for 9.996 has one digit more before the point than it seems.
    rounded = float(f"{value:.{_DIGITS - 1}e}")
    decimals = max(0, _DIGITS - 1 - math.floor(math.log10(abs(rounded))))
    return f"{value:,.{decimals}f}"
