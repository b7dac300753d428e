"""One load run: the processes told, the server's metrics read before and after, the result made."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from headwaiter_load.crew import Crew, Mark
from headwaiter_load.driver import Assignment
from headwaiter_load.merging import merge
from headwaiter_load.plan import Plan, bin_seconds
from headwaiter_load.recorder import Window
from headwaiter_load.results import RunResult, Settings
from headwaiter_load.schedules import Load
from headwaiter_load.worker import Progress

if TYPE_CHECKING:
    from headwaiter_load.breakdown import Breakdown

# Between telling the processes and the first call, so that all of them begin in step.
_LEAD_SECONDS: Final = 0.2

Watch = Callable[[Progress], None]


def run_plan(plan: Plan, watch: Watch) -> RunResult:
    """Runs a plan.

    Raises:
        LoadError: No server answers, or a process of the tester died.
    """
    with Crew(plan.endpoint, plan.requests, plan.settings.processes) as crew:
        return run_load(crew, plan, plan.load, plan.settings, watch)


def run_load(crew: Crew, plan: Plan, load: Load, settings: Settings, watch: Watch) -> RunResult:
    """Runs one load with processes that are there already.

    Args:
        crew: The processes.
        plan: What is the same for all runs of a search.
        load: When calls are due.
        settings: What the result says was asked for, with the lengths that count.
        watch: Called with word of progress.

    Raises:
        LoadError: A process of the tester died.
    """
    # It asks the metrics a first time, before the clock starts.
    server = _ServerSide(plan)
    start = time.monotonic() + _LEAD_SECONDS
    window = Window(start + settings.warmup_seconds, settings.seconds, bin_seconds(settings.seconds))
    started_at = datetime.now(UTC) + timedelta(seconds=window.begin - time.monotonic())
    assignment = Assignment(
        load=load,
        start=start,
        window=window,
        deadline_seconds=settings.deadline_seconds,
        drain_seconds=plan.drain_seconds,
        most_outstanding=plan.most_outstanding,
    )
    marks = (Mark(window.begin, server.begin), Mark(window.end, server.end))
    reports, finished = crew.run(assignment, watch, marks)
    server.end()
    return merge(
        reports,
        settings,
        window,
        started_at.isoformat(timespec="milliseconds"),
        finished=finished,
        server=server.figures,
    )


class _ServerSide:
    """What the server's own metrics say of the measured part; nothing if nobody asked."""

    def __init__(self, plan: Plan) -> None:
        self.figures: dict[str, Any] | None = None
        self._breakdown: Breakdown | None = None
        self._begun = False
        if plan.metrics_page is not None:
            # What reads metrics is needed only where they are asked for.
            from headwaiter_load.breakdown import Breakdown  # noqa: PLC0415

            self._breakdown = Breakdown(plan.metrics_page, plan.settings)

    def begin(self) -> None:
        if self._breakdown is not None:
            self._breakdown.begin()
            self._begun = True

    def end(self) -> None:
        """At the end of the measured part, or of a run that was interrupted in it."""
        if self._breakdown is not None and self._begun:
            self.figures = self._breakdown.end()
            self._begun = False
