"""What a test of reliability gave, and how it is reported: a table for a person, a file for docs/reliability.md."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from headwaiter_server.cpu import available_cpus, describe_processor
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "build" / "reliability"
_VERSIONS = ("headwaiter", "onnxruntime", "grpcio")
_MARKS = {True: "yes", False: "**no**", None: ""}


@dataclass(frozen=True)
class Figure:
    """One thing that was counted or measured.

    Attributes:
        name: What it is.
        value: What it came to.
        unit: Of the value.
        aim: What it is held to, in words; empty if to nothing.
        reached: Whether it is; None if it is held to nothing.
    """

    name: str
    value: float | int | str
    unit: str = ""
    aim: str = ""
    reached: bool | None = None

    @property
    def shown(self) -> str:
        """The value with its unit."""
        value = self.value
        if isinstance(value, str):
            text = value
        elif isinstance(value, int) or abs(value) >= 1000:
            text = f"{value:,.0f}"
        else:
            text = f"{value:.3g}"
        return f"{text} {self.unit}".rstrip()


@dataclass(frozen=True)
class Report:
    """All that one line of docs/reliability.md gave in a run.

    Attributes:
        name: Of the line.
        conditions: What was run, in words.
        date: When, UTC.
        machine: Where.
        versions: With what.
        figures: What came of it.
    """

    name: str
    conditions: str
    date: str
    machine: str
    versions: str
    figures: list[Figure]

    @property
    def missed(self) -> list[Figure]:
        """What was held to an aim and did not reach it."""
        return [figure for figure in self.figures if figure.reached is False]

    def markdown(self) -> str:
        """The table of the page."""
        lines = [
            f"{self.conditions}. On {self.machine}, {self.versions}; {self.date}.",
            "",
            "| figure | value | aim | reached |",
            "| --- | ---: | --- | --- |",
        ]
        lines += [f"| {each.name} | {each.shown} | {each.aim} | {_MARKS[each.reached]} |" for each in self.figures]
        return "\n".join(lines)


def report(line: str, conditions: str, figures: Sequence[Figure]) -> int:
    """Print a table, and keep it for the page.

    Args:
        line: Name of the line, as of its markers in docs/reliability.md.
        conditions: What was run, in words, without a full stop.
        figures: What came of it.

    Returns:
        The exit code: 1 if an aim was missed.
    """
    versions = ", ".join(f"{name} {version(name)}" for name in _VERSIONS)
    kept = Report(
        name=line,
        conditions=conditions,
        date=datetime.now(UTC).date().isoformat(),
        machine=f"{available_cpus()} cores ({describe_processor()})",
        versions=f"CPython {platform.python_version()}, {versions}",
        figures=list(figures),
    )
    _print(kept)
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / f"{line}.json").write_text(json.dumps(asdict(kept), indent=2), encoding="utf-8")
    return int(bool(kept.missed))


def read_reports() -> list[Report]:
    """What the last run of each line has kept, by name."""
    reports = []
    for file in sorted(FOLDER.glob("*.json")):
        fields = json.loads(file.read_text(encoding="utf-8"))
        figures = [Figure(**figure) for figure in fields.pop("figures")]
        reports.append(Report(**fields, figures=figures))
    return reports


def _print(kept: Report) -> None:
    table = Table("figure", "value", "aim", "reached", title=f"{kept.name}: {kept.conditions}")
    table.columns[1].justify = "right"
    for each in kept.figures:
        style = "red" if each.reached is False else None
        table.add_row(each.name, each.shown, each.aim, _MARKS[each.reached].strip("*"), style=style)
    Console().print(table)
