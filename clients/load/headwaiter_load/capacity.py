"""The search for the highest rate that keeps a goal: doubling until one misses, then halving the gap."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from headwaiter_load import backlog
from headwaiter_load.crew import Crew
from headwaiter_load.merging import is_busy, tool_version
from headwaiter_load.plan import Plan
from headwaiter_load.results import CapacityResult, Goal, LimitedBy, Phase, RunResult, Settings, Step
from headwaiter_load.running import Watch, run_load
from headwaiter_load.schedules import Open

# A 99th percentile of fewer calls is one or two of them.
_LEAST_CALLS: Final = 300
# So that a queue which grows without end has the time to show.
_GOALS_IN_A_STEP: Final = 10
_LONGEST_STEP_SECONDS: Final = 120.0
# Below it a search goes on for hours.
_LOWEST_RATE: Final = 0.1
# A rate that misses by more is not tried again.
_CLEAR_RATIO: Final = 3.0


@dataclass(frozen=True, slots=True)
class Probe:
    """A rate to try next."""

    rate: float
    phase: Phase


class Search:
    """Which rate to try next; pure.

    Args:
        start: The first rate.
        highest: The highest rate to try.
        precision: It is over when the lowest rate that missed is at most so much above the highest that met.
    """

    def __init__(self, start: float, highest: float, precision: float) -> None:
        self._start = min(start, highest)
        self._highest = highest
        self._precision = precision
        self.met: float | None = None
        self.missed: float | None = None

    @property
    def at_highest(self) -> bool:
        """Whether the highest rate met the goal, so that nothing is known of what the server can do."""
        return self.met is not None and self.met >= self._highest

    def next(self) -> Probe | None:
        """The next rate; None when it is over."""
        if self.missed is None:
            if self.met is None:
                return Probe(self._start, "doubling")
            return None if self.at_highest else Probe(min(self.met * 2, self._highest), "doubling")
        if self.met is None:
            rate = self.missed / 2
            return Probe(rate, "halving") if rate >= _LOWEST_RATE else None
        if self.missed / self.met <= 1 + self._precision:
            return None
        return Probe(math.sqrt(self.met * self.missed), "bisection")

    def record(self, rate: float, *, met: bool) -> None:
        """Takes in what came of a rate."""
        if met:
            self.met = rate if self.met is None else max(self.met, rate)
        else:
            self.missed = rate if self.missed is None else min(self.missed, rate)


@dataclass(frozen=True, slots=True)
class SearchSettings:
    """How a search is made.

    Attributes:
        goal: What a rate must keep.
        start_rate: The first rate, in calls a second.
        highest_rate: The highest to try.
        settle_seconds: Pause between two steps, when all calls of the first have ended.
    """

    goal: Goal
    start_rate: float
    highest_rate: float
    settle_seconds: float


def find_capacity(
    plan: Plan, search_settings: SearchSettings, watch: Watch, tell: Callable[[Step], None]
) -> CapacityResult:
    """Searches; Ctrl-C ends the search with what it found so far.

    Args:
        plan: What to send; of its load the arrivals, of its settings `seconds` as the least length of a step.
        search_settings: How to search.
        watch: Called with word of each step's progress.
        tell: Called with each step when it is done.

    Raises:
        LoadError: No server answers, or a process of the tester died.
    """
    started_at = datetime.now(UTC).isoformat(timespec="milliseconds")
    with Crew(plan.endpoint, plan.requests, plan.settings.processes) as crew:
        climb = _Climb(crew, plan, search_settings, watch, tell)
        limited_by = climb.climb()
    return CapacityResult(
        tool_version=tool_version(),
        started_at=started_at,
        finished=limited_by != "interrupted",
        settings=plan.settings,
        goal=search_settings.goal,
        steps=tuple(climb.steps),
        capacity_per_second=climb.search.met,
        missed_per_second=climb.search.missed,
        limited_by=limited_by,
        best=climb.best,
    )


class _Climb:
    """One search as it goes on."""

    def __init__(
        self, crew: Crew, plan: Plan, settings: SearchSettings, watch: Watch, tell: Callable[[Step], None]
    ) -> None:
        self._crew = crew
        self._plan = plan
        self._settings = settings
        self._watch = watch
        self._tell = tell
        self.search = Search(settings.start_rate, settings.highest_rate, settings.goal.precision)
        self.steps: list[Step] = []
        self.best: RunResult | None = None

    def climb(self) -> LimitedBy:
        """Tries rates until the search is over; what ended it."""
        while (probe := self.search.next()) is not None:
            for attempt in (1, 2):
                try:
                    result = self._try(probe)
                except KeyboardInterrupt:
                    # Between two steps; in one, it ends that with what there is.
                    return "interrupted"
                if not result.finished:
                    return "interrupted"
                step = self._judge(probe, attempt, result)
                if step.met or (self._is_clear(step) and not by_tester(result, self._settings.goal)):
                    break
            if step.met:
                self.best = result
            elif by_tester(result, self._settings.goal):
                return "tester"
            self.search.record(probe.rate, met=step.met)
        return "max-rate" if self.search.at_highest else "server"

    def _try(self, probe: Probe) -> RunResult:
        plan = self._plan
        if not isinstance(plan.load, Open):
            raise TypeError("a search needs an open loop")
        if self.steps:
            time.sleep(self._settings.settle_seconds)
        load = dataclasses.replace(plan.load, rate=probe.rate)
        settings = dataclasses.replace(plan.settings, rate=probe.rate, seconds=self._seconds(probe.rate, plan.settings))
        return run_load(self._crew, plan, load, settings, self._watch)

    def _seconds(self, rate: float, settings: Settings) -> float:
        """Length of a step: as asked for, or longer where the rate or the goal needs it."""
        needed = max(settings.seconds, _LEAST_CALLS / rate, _GOALS_IN_A_STEP * self._settings.goal.p99_seconds)
        return max(settings.seconds, min(needed, _LONGEST_STEP_SECONDS))

    def _judge(self, probe: Probe, attempt: int, result: RunResult) -> Step:
        reasons = judged(result, self._settings.goal)
        step = Step(
            number=len(self.steps) + 1,
            phase=probe.phase,
            attempt=attempt,
            rate=probe.rate,
            seconds=result.measured_seconds,
            calls=result.scheduled,
            answered_per_second=result.answered_per_second,
            p50_seconds=result.latency.p50_seconds,
            p99_seconds=result.latency.p99_seconds,
            error_ratio=result.error_ratio,
            backlog_growth=backlog.growth(result),
            cpu_share=max(each.cpu_share for each in result.tester.processes),
            met=not reasons,
            reasons=reasons,
        )
        self.steps.append(step)
        self._tell(step)
        return step

    def _is_clear(self, step: Step) -> bool:
        goal = self._settings.goal
        return step.p99_seconds > _CLEAR_RATIO * goal.p99_seconds or step.error_ratio > max(
            _CLEAR_RATIO * goal.error_ratio, 0.1
        )


def by_tester(result: RunResult, goal: Goal) -> bool:
    """Whether a miss says nothing of the server: what the tester did not send in time, it was not asked for in time.

    Late as the tester may have been, a server that was too slow from when it was really asked has missed by itself.
    """
    in_time = result.service_time.p99_seconds <= goal.p99_seconds and result.error_ratio <= goal.error_ratio
    return result.tester.bottleneck and (in_time or is_busy(result.tester))


def judged(result: RunResult, goal: Goal) -> tuple[str, ...]:
    """Why a run misses a goal; nothing if it meets it."""
    reasons = []
    p99 = result.latency.p99_seconds
    if result.error_ratio > goal.error_ratio:
        worst = ", ".join(f"{each.count} {each.code}" for each in result.errors[:3])
        reasons.append(f"{result.error_ratio:.2%} failed ({worst}), above {goal.error_ratio:.2%}")
    if not result.answered:
        reasons.append("no call was answered")
    elif p99 > goal.p99_seconds:
        reasons.append(f"p99 {p99 * 1e3:.4g} ms, above {goal.p99_seconds * 1e3:.4g} ms")
    if backlog.grew(result):
        more = backlog.growth(result)
        reasons.append(f"{more} more calls outstanding at the end than at the beginning: the queue grew")
    return tuple(reasons)
