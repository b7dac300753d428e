"""What the tests of this folder have run and seen, and the tables of docs/compatibility.md that are made of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.page import write_section

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Seen:
    """One thing that was run.

    Attributes:
        shows: RPCs and extensions that it shows to work.
        tool: Who called, with its version.
        ran: The command, or the name of the check.
        what: What it is about, in a sentence.
        said: What came of it; empty where that stands in a table of its own.
    """

    shows: tuple[str, ...]
    tool: str
    ran: str
    what: str
    said: str


@dataclass(frozen=True)
class Measured:
    """One line of perf_analyzer's table.

    Attributes:
        ran: Its options.
        load: The concurrency, or the requests a second, that it kept.
        figures: What it printed, by the names of `COLUMNS`.
    """

    ran: str
    load: str
    figures: dict[str, str]


# As perf_analyzer names them, and as the page does. Of so few requests it does not know how many there are a second.
COLUMNS = {
    "p50 latency": "p50 us",
    "p99 latency": "p99 us",
    "Server Queue": "queue us",
    "Server Compute Input": "input us",
    "Server Compute Infer": "infer us",
    "Server Compute Output": "output us",
}


@dataclass
class Record:
    """All that was seen in a session."""

    seen: list[Seen] = field(default_factory=list)
    measured: list[Measured] = field(default_factory=list)

    def write(self, page: Path) -> None:
        """Write the tables into a page."""
        write_section(page, Summary("summary", self.seen))
        write_section(page, Table("calls", _merged([each for each in self.seen if each.said])))
        write_section(page, Figures("perf-analyzer", self.measured))


@dataclass(frozen=True)
class Summary:
    """RPCs and extensions, and by whom each was shown to work."""

    name: str
    seen: list[Seen]

    def markdown(self) -> str:
        """The table."""
        lines = ["| RPC or extension | used by | checks |", "| --- | --- | ---: |"]
        for name in sorted({name for each in self.seen for name in each.shows}, key=_rpcs_first):
            of_it = [each for each in self.seen if name in each.shows]
            tools = ", ".join(sorted({each.tool for each in of_it}))
            lines.append(f"| {_code(name)} | {tools} | {len({(each.tool, each.ran) for each in of_it})} |")
        return "\n".join(lines)


@dataclass(frozen=True)
class Table:
    """Everything that was called: a line for each check."""

    name: str
    seen: list[Seen]

    def markdown(self) -> str:
        """The table."""
        lines = ["| what | by | run | what it is about | what it said |", "| --- | --- | --- | --- | --- |"]
        for each in self.seen:
            shows = ", ".join(_code(name) for name in each.shows)
            lines.append(f"| {shows} | {each.tool} | `{each.ran}` | {each.what} | {_cell(each.said)} |")
        return "\n".join(lines)


@dataclass(frozen=True)
class Figures:
    """What perf_analyzer measured: a line for each load."""

    name: str
    measured: list[Measured]

    def markdown(self) -> str:
        """The table."""
        lines = [
            f"| options | load | {' | '.join(COLUMNS.values())} |",
            f"| --- | ---: |{' ---: |' * len(COLUMNS)}",
        ]
        lines += [
            f"| `{each.ran}` | {each.load} | {' | '.join(each.figures[name] for name in COLUMNS)} |"
            for each in sorted(self.measured, key=lambda one: (one.ran, float(one.load)))
        ]
        return "\n".join(lines)


def _merged(seen: list[Seen]) -> list[Seen]:
    """One line for what several versions of a tool have run alike, in the order of the RPCs' names."""
    found: dict[tuple[tuple[str, ...], str, str], Seen] = {}
    for each in sorted(seen, key=lambda one: (one.shows, one.ran, one.tool)):
        name, _, version = each.tool.rpartition(" ")
        key = (each.shows, name, each.ran)
        found[key] = replace(found[key], tool=f"{found[key].tool}, {version}") if key in found else each
    return list(found.values())


def _rpcs_first(name: str) -> tuple[bool, str]:
    return (not name[0].isupper(), name)


def _code(name: str) -> str:
    """RPCs are code, extensions are words."""
    return f"`{name}`" if name[0].isupper() else name


def _cell(said: str) -> str:
    return said.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")
