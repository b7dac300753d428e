"""How late an event loop is, what everything on it waits for before it is even looked at; and how many tasks it has."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

_INTERVAL_SECONDS = 1.0


class LoopLag:
    """Asks the running loop for a turn once a second, and notes how late it comes, and the tasks that there are.

    Attributes:
        tasks: Tasks that were not done at the last turn.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Set up, asking nothing yet.

        Args:
            clock: Seconds.
        """
        self.tasks = 0
        self._clock = clock
        self._due = float("inf")
        self._last_seconds = 0.0
        self._handle: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Ask for the first turn. Needs a running event loop."""
        self._due = self._clock() + _INTERVAL_SECONDS
        self._handle = asyncio.get_running_loop().call_later(_INTERVAL_SECONDS, self._turn)

    def stop(self) -> None:
        """Ask for no more."""
        if self._handle is not None:
            self._handle.cancel()
        self._due = float("inf")

    def seconds(self) -> float:
        """By how much the last turn was late or, if the next one is later than that already, by how much it is.

        May be called on any thread: that a loop stands still can be seen from others alone.
        """
        return max(self._last_seconds, self._clock() - self._due)

    def _turn(self) -> None:
        self._last_seconds = max(0.0, self._clock() - self._due)
        self.tasks = len(asyncio.all_tasks())
        self.start()
