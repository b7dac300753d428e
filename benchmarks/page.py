"""Writes measured tables between markers of docs/benchmarks.md; the words around them are written by hand."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


class Written(Protocol):
    """What stands between a pair of markers, `<!-- NAME:begin -->` and `<!-- NAME:end -->`."""

    @property
    def name(self) -> str:
        """Of the markers."""
        ...

    def markdown(self) -> str:
        """What is written."""
        ...


@dataclass(frozen=True)
class Section:
    """One measured table.

    Attributes:
        name: Of its markers, `<!-- NAME:begin -->` and `<!-- NAME:end -->`.
        conditions: Machine, versions, rounds.
        rows: Name, median, smallest and largest of each figure.
    """

    name: str
    conditions: str
    rows: list[tuple[str, float, float, float]]

    def markdown(self) -> str:
        """The table."""
        lines = [f"Measured on: {self.conditions}.", "", "| figure | median | min | max |", "|---|---:|---:|---:|"]
        lines += [f"| {name} | {median:.3g} | {low:.3g} | {high:.3g} |" for name, median, low, high in self.rows]
        return "\n".join(lines)


def write_section(page: Path, section: Written) -> None:
    """Replace what stands between a section's markers.

    Raises:
        ValueError: The page has no such markers.
    """
    begin, end = f"<!-- {section.name}:begin -->", f"<!-- {section.name}:end -->"
    before, found, rest = page.read_text(encoding="utf-8").partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"{page} has no {begin} ... {end}")
    page.write_text(f"{before}{begin}\n{section.markdown()}\n{end}{after}", encoding="utf-8")
