"""Writes what the last run of each line gave into docs/reliability.md: `python tests/reliability/page.py`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]  # run as a file, from anywhere

from reliability.figures import Report, read_reports  # noqa: E402 - after the path is set

from benchmarks.page import write_section  # noqa: E402

PAGE = ROOT / "docs" / "reliability.md"


@dataclass(frozen=True)
class Summary:
    """A row for each line that has been run."""

    reports: list[Report]
    name: str = "summary"

    def markdown(self) -> str:
        """The table."""
        lines = ["| line | aims | reached | run on |", "| --- | ---: | ---: | --- |"]
        for each in self.reports:
            aims = sum(figure.reached is not None for figure in each.figures)
            lines.append(f"| [{each.name}](#{each.name}) | {aims} | {aims - len(each.missed)} | {each.date} |")
        return "\n".join(lines)


def write(page: Path) -> None:
    """Write every table.

    Raises:
        ValueError: The page has no place for one.
    """
    reports = read_reports()
    write_section(page, Summary(reports))
    for each in reports:
        write_section(page, each)


if __name__ == "__main__":
    write(PAGE)
