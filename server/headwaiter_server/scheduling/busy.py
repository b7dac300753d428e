"""How long workers were busy, exactly, at any moment and for any thread that asks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class BusyTime:
    """The integral of the number of busy workers over time."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """Begin with idle workers.

        Args:
            clock: Seconds; must not go back.
        """
        self._clock = clock
        # Changed by every worker. The clock is read under it, too: moments are then in the order of the changes, and
        # what is told never shrinks.
        self._lock = threading.Lock()
        self._workers = 0
        self._since = 0.0
        self._seconds = 0.0

    @contextmanager
    def worker(self) -> Iterator[None]:
        """One more worker is busy while this is open."""
        self._change(1)
        try:
            yield
        finally:
            self._change(-1)

    def seconds(self) -> float:
        """Busy time of all workers up to now, what is under way included."""
        return self._change(0)

    def _change(self, workers: int) -> float:
        with self._lock:
            now = self._clock()
            self._seconds += (now - self._since) * self._workers
            self._since = now
            self._workers += workers
            return self._seconds
