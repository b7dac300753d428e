"""Rounds of a benchmark, in which candidates take turns."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from rich.progress import Progress


class Turn(Protocol):
    """One round.

    Attributes:
        problems: What went wrong in it.
    """

    problems: list[str]

    def steps(self) -> Iterable[Callable[[], None]]:
        """What is measured in it, in order."""
        ...


def play(turns: Sequence[Turn], progress: Progress) -> list[str]:
    """Measure round after round.

    Returns:
        What went wrong in any of them: each such figure is missing, and no other.
    """
    steps = [(turn, step) for turn in turns for step in turn.steps()]
    for turn, step in progress.track(steps, description="rounds"):
        try:
            step()
        except subprocess.CalledProcessError as error:
            turn.problems.append(f"ended with {error.returncode}: {' '.join(error.cmd)}")
    return sorted({problem for each in turns for problem in each.problems})
