"""What a call costs, so that it can be told what was spent for nothing."""

from __future__ import annotations

from collections.abc import Callable


class Spending:
    """Processor time spent on one call: before it is over, and after, by runs that had begun.

    Used on the event loop only; whoever measures on another thread brings the figure here.
    """

    __slots__ = ("_later", "seconds")

    def __init__(self) -> None:
        self.seconds = 0.0
        self._later: Callable[[float], None] | None = None

    def add(self, seconds: float) -> None:
        """Count what has been spent."""
        if self._later is None:
            self.seconds += seconds
        else:
            self._later(seconds)

    def write_off(self, note: Callable[[float], None]) -> None:
        """Note what was spent so far and, as it becomes known, whatever follows: each second once.

        Args:
            note: Told of seconds.
        """
        spent, self.seconds = self.seconds, 0.0
        self._later = note
        if spent:
            note(spent)
