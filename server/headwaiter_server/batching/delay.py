"""Texts that wait for mates although a worker is idle: for how long, and what ends it. Pure: time is an argument."""

from __future__ import annotations

import math

from headwaiter_server.batching.task import CloseReason
from headwaiter_server.scheduling.policy import Backlog, Budget

# By so much a run begins early for a deadline's sake: timers tick in milliseconds, and the answer has yet to be sent.
_MARGIN_SECONDS = 0.005


class Delay:
    """Keeps one model's texts waiting until they fill a run, or one of them must wait no longer.

    What wakes those who wait with it: the others that are there at that moment go too, as far as workers are idle or
    become so, and wait no longer. After a full run, what is left over waits on.

    Attributes:
        until: When to look again, by the last look; infinite when nothing is kept waiting.
    """

    def __init__(self, backlog: Backlog, seconds: float) -> None:
        """Set up.

        Args:
            backlog: The texts.
            seconds: Longest wait, from the arrival of a text's call.
        """
        self._backlog = backlog
        self._seconds = seconds
        # Texts up to this order wait no longer, for this reason.
        self._let_go = 0
        self._reason = CloseReason.DELAY
        self.until = math.inf

    def end(self) -> None:
        """Keep nothing waiting any more. Whoever waits goes at the next look."""
        self._seconds = 0.0

    def reason_to_run(self, now: float, full: Budget, run_seconds: float) -> CloseReason | None:
        """Why a run should begin now; None while what waits is to wait on, and when nothing waits.

        Args:
            now: Seconds on the scheduler's clock.
            full: Texts or tokens that make a run that is worth no more waiting.
            run_seconds: What a full run takes, for deadlines.
        """
        backlog = self._backlog
        self.until = math.inf
        oldest = backlog.oldest(now)
        if oldest is None:
            return None
        if oldest.order <= self._let_go:
            return self._reason
        if backlog.fills(full, now):
            return CloseReason.BUDGET
        patience_ends = oldest.call.terms.arrived + self._seconds
        latest_start = backlog.earliest_deadline(now) - run_seconds - _MARGIN_SECONDS
        if now < min(patience_ends, latest_start):
            self.until = min(patience_ends, latest_start)
            return None
        self._let_go = backlog.last_order
        self._reason = CloseReason.DELAY if patience_ends <= latest_start else CloseReason.DEADLINE
        return self._reason
