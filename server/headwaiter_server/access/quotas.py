"""Quotas: so many a second, and so many at once. Pure: time is an argument."""

from __future__ import annotations

# What rounding may take from a level that should be just enough.
_ROUNDING = 1e-9


class Bucket:
    """A token bucket: it holds up to `burst`, is filled at `per_second`, and whoever comes takes out of it.

    What is more than the bucket holds is let through when that is full, and leaves a debt: a single call is slowed
    down, never impossible.

    Attributes:
        per_second: What is put in each second.
        burst: What it holds.
    """

    __slots__ = ("_level", "_updated", "burst", "per_second")

    def __init__(self, per_second: float, burst: float) -> None:
        """Begin full.

        Args:
            per_second: What is put in each second, more than 0.
            burst: What it holds, at least 1.
        """
        self.per_second = per_second
        self.burst = burst
        self._level = burst
        self._updated = 0.0

    def take(self, count: float, now: float) -> float:
        """Take out, if there is enough.

        Args:
            count: How many.
            now: Seconds on the scheduler's clock.

        Returns:
            0 if they were taken; else the seconds after which there will be enough, if nobody else takes any.
        """
        if now > self._updated:
            self._level = min(self.burst, self._level + (now - self._updated) * self.per_second)
            self._updated = now
        missing = min(count, self.burst) - self._level
        if missing > _ROUNDING:
            return missing / self.per_second
        self._level -= count
        return 0.0
