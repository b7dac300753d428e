"""A search for capacity as words and as tables, for the terminal and the page alike."""

from __future__ import annotations

from headwaiter_load import units
from headwaiter_load.figures import Cell, Section, rate, seconds, share
from headwaiter_load.results import CapacityResult


def search_section(result: CapacityResult) -> Section:
    """The steps of a search for capacity."""
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (
            f"{step.number}. {step.phase}{', second try' if step.attempt > 1 else ''}",
            rate(step.rate),
            rate(step.answered_per_second),
            seconds(step.p50_seconds),
            seconds(step.p99_seconds),
            share(step.error_ratio),
            share(step.cpu_share),
            "met" if step.met else f"missed: {'; '.join(step.reasons)}",
        )
        for step in result.steps
    )
    columns = ("Step", "offered", "answered", "p50", "p99", "failed", "tester's CPU", "goal")
    goal = f"goal: p99 at most {units.seconds(result.goal.p99_seconds)}, failed at most"
    return Section("Steps of the search", columns, rows, f"{goal} {units.share(result.goal.error_ratio)}", wide=True)


def capacity_in_words(result: CapacityResult) -> str:
    """What the search found, in one sentence."""
    if result.capacity_per_second is None:
        return _nothing_found(result)
    found = f"Capacity: {units.rate(result.capacity_per_second)}"
    return {
        "server": f"{found}; {units.rate(result.missed_per_second)} was too much.",
        "max-rate": f"{found} or more: the highest rate that was allowed met the goal.",
        "tester": f"{found} or more: the tester itself could not send faster.",
        "interrupted": f"{found} or more: the search was interrupted.",
    }[result.limited_by]


def _nothing_found(result: CapacityResult) -> str:
    if not result.steps:
        return "No rate was tried."
    lowest = units.rate(min(step.rate for step in result.steps))
    return {
        "tester": f"Nothing is known of the server: the tester itself could not send {lowest} in time.",
        "interrupted": f"No rate had met the goal when the search was interrupted, not even {lowest}.",
    }.get(result.limited_by, f"No rate met the goal, not even {lowest}.")
