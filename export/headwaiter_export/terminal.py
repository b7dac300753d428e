"""Progress bars, drawn with rich."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn


class Bars:
    """One bar for each stage, on a terminal; a `headwaiter_export.progress.Progress`."""

    def __init__(self, console: Console) -> None:
        """Draw on `console` once entered."""
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        self._bars = Progress(*columns, TimeElapsedColumn(), console=console)
        self._current: TaskID | None = None
        self._finish: Callable[[], None] = _nothing

    def __enter__(self) -> Self:
        """Start drawing."""
        self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Stop drawing; a stage that failed is left unfinished."""
        if kind is None:
            self._finish()
        self._bars.stop()

    def stage(self, name: str, total: int | None = None) -> None:
        """End the stage before and begin this one."""
        self._finish()
        units = 1 if total is None else total
        task = self._bars.add_task(name, total=units)
        self._current = task

        def finish() -> None:
            self._bars.update(task, completed=units)

        self._finish = finish

    def advance(self, units: int = 1) -> None:
        """Move the bar."""
        if self._current is not None:
            self._bars.advance(self._current, units)

    def note(self, text: str) -> None:
        """Print a line above the bars."""
        self._bars.console.print(text, highlight=False, markup=False)


def _nothing() -> None:
    """Before the first stage there is none to finish."""
