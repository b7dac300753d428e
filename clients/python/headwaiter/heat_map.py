"""A table of shares for the terminal: shades for the whole of it, words for the largest share of each row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from headwaiter.columns import aligned, cells, padded, shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SHADES: Final = " ░▒▓█"
ASCII_SHADES: Final = " .:*#"

_CELL: Final = 2
# Of a name, how much is shown at a row, and above a column.
_ROW_NAME: Final = 16
_COLUMN_NAME: Final = 12


@dataclass(frozen=True, slots=True)
class HeatMap:
    """Shares of columns in rows.

    Attributes:
        rows: Their names.
        columns: Their names.
        shares: A list for each row, a share of 1 for each column.
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    shares: list[list[float]]

    @property
    def largest(self) -> float:
        """The largest share of all; 0 if there is none."""
        return max((share for row in self.shares for share in row), default=0.0)


def heat_map_lines(it: HeatMap, *, width: int, shades: str) -> Iterator[str]:
    """Lines of no more than a width, unless that is too little for a single column.

    Args:
        it: What to show; columns that do not fit stand in a table of their own below.
        width: Of the terminal.
        shades: Characters for five equal parts of what there is between nothing and the largest share.
    """
    names = aligned(_short(name, _ROW_NAME) for name in it.rows)
    strongest = aligned(_strongest(row, it.columns) for row in it.shares)
    heads = [f"{name}  {most}  " for name, most in zip(names, strongest, strict=True)]
    margin = cells(heads[0]) if heads else 0
    fitting = max(1, (width - margin) // _CELL)
    for start in range(0, len(it.columns), fitting):
        end = start + fitting
        above = [_short(name, _COLUMN_NAME) for name in it.columns[start:end]]
        for level in range(-max(map(len, above)), 0):
            letters = (padded(name[level] if len(name) >= -level else "", _CELL) for name in above)
            yield (" " * margin + "".join(letters)).rstrip()
        for head, row in zip(heads, it.shares, strict=True):
            yield (padded(head, margin) + "".join(_shade(share, it, shades) for share in row[start:end])).rstrip()
        yield ""
    steps = [f"{shades[part]} from {_percent(it.largest * part / len(shades))}" for part in range(1, len(shades))]
    yield f"{', '.join(steps)} to {_percent(it.largest)}"


def _strongest(row: Sequence[float], columns: Sequence[str]) -> str:
    share, name = max(zip(row, columns, strict=True), key=lambda each: each[0])
    return f"{_percent(share).rjust(5)} {_short(name, _ROW_NAME)}"


def _percent(share: float) -> str:
    return f"{share * 100:.0f} %"


def _shade(share: float, it: HeatMap, shades: str) -> str:
    part = int(share / it.largest * len(shades)) if it.largest else 0
    return shades[min(part, len(shades) - 1)] * _CELL


def _short(name: str, most: int) -> str:
    clean = shown(name)
    return clean if len(clean) <= most else clean[: most - 2] + ".."
