"""What a dashboard says, apart from how Grafana writes it down."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    """How a panel is drawn."""

    LINES = "lines"
    STACK = "stack"
    HEATMAP = "heatmap"
    STAT = "stat"


@dataclass(frozen=True)
class Query:
    """One PromQL query.

    Attributes:
        expr: The query, with Grafana's variables.
        legend: Name of each series, with its labels in double braces.
        is_bound: Drawn as a dashed red line: what the others should stay below.
    """

    expr: str
    legend: str
    is_bound: bool = False


@dataclass(frozen=True)
class Panel:
    """One panel.

    Attributes:
        title: What it shows.
        unit: Grafana's name of the unit; `suffix: words` is one of our own.
        meaning: What the figures are.
        remedy: What to do when they are bad.
        queries: What is drawn.
        kind: How it is drawn.
        bound: Where the figures become bad; drawn as a red area. None where that is not a fixed number.
        top: The largest value there can be, for shares of a whole.
        when_empty: What to do when there is nothing to draw.
    """

    title: str
    unit: str
    meaning: str
    remedy: str
    queries: tuple[Query, ...]
    kind: Kind = Kind.LINES
    bound: float | None = None
    top: float | None = None
    when_empty: str = "No data. Is the server scraped (Status > Targets in Prometheus), and was it called?"

    @property
    def description(self) -> str:
        """What the panel's information sign tells."""
        return f"{self.meaning}\n\n**When it is bad:** {self.remedy}"


@dataclass(frozen=True)
class Row:
    """Panels that belong together.

    Attributes:
        title: What they have in common.
        panels: From left to right, line by line.
    """

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Dashboard:
    """One dashboard.

    Attributes:
        name: Of its file.
        title: What Grafana lists it as.
        purpose: Which question it answers.
        rows: From top to bottom.
    """

    name: str
    title: str
    purpose: str
    rows: tuple[Row, ...]
