"""One load test as it was asked for, checked, with everything made that it sends."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from headwaiter_load.endpoint import Endpoint
from headwaiter_load.metrics_page import MetricsPage
from headwaiter_load.requests import Requests
from headwaiter_load.results import Settings
from headwaiter_load.schedules import Load

# As many stretches as a page can show; each costs 27 kB in each process.
_MOST_BINS: Final = 600
_PATIENCE_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything a run needs.

    Attributes:
        endpoint: Where the server is.
        requests: What to send.
        load: When.
        settings: The same for people, as the result says it.
        most_outstanding: Calls that one process keeps outstanding at most.
        metrics_page: The server's metrics; None to leave them alone.
    """

    endpoint: Endpoint
    requests: Requests
    load: Load
    settings: Settings
    most_outstanding: int
    metrics_page: MetricsPage | None

    @property
    def drain_seconds(self) -> float:
        """How long calls may take to end when no more are sent."""
        deadline = self.settings.deadline_seconds
        return _PATIENCE_SECONDS if deadline is None else max(1.0, deadline * 1.1)


def bin_seconds(seconds: float) -> float:
    """Length of a stretch of the time line: a second, or more where there would be too many."""
    return float(max(1, math.ceil(seconds / _MOST_BINS)))
