"""Rounds in which candidates take turns."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field

from rich.progress import Progress

from benchmarks.rounds import play


@dataclass
class Round:
    done: list[str]
    problems: list[str] = field(default_factory=list)

    def steps(self) -> list[Callable[[], None]]:
        def broken() -> None:
            raise subprocess.CalledProcessError(3, ["load", "closed"])

        return [lambda: self.done.append("first"), broken, lambda: self.done.append("last")]


def test_step_that_fails_costs_its_figure_alone() -> None:
    """All others are measured, and what went wrong is told once."""
    done: list[str] = []
    with Progress(disable=True) as progress:
        assert play([Round(done), Round(done)], progress) == ["ended with 3: load closed"]
    assert done == ["first", "last"] * 2
