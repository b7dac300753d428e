"""Twice and ten times too many calls: each is answered, or refused with word of when to come back; none is lost."""

from __future__ import annotations

import pytest
from reliability.open_loop import LATE
from reliability.overload import BELOW, QUIET, Flood, flood, payload
from reliability.sleeping_server import MODEL, ONE_BY_ONE, TEXT, running_sleeping_server

# So few calls a second, even at ten times the capacity, that every machine can send them in time.
_RUN_SECONDS = 0.05


@pytest.fixture(scope="module")
def flooded() -> Flood:
    """A server that runs one text at a time, flooded twice."""
    server = running_sleeping_server(*ONE_BY_ONE, *QUIET, run_seconds=_RUN_SECONDS)
    # No machine answers more: twice as many are too many for any.
    most = 1 / _RUN_SECONDS
    loads = (2.0, 10.0, BELOW)
    return flood(server, [payload(MODEL, TEXT)], loads, seconds=2.0, capacity_seconds=1.0, least_capacity=most)


def test_every_call_is_answered_or_refused(flooded: Flood) -> None:
    """Nobody gets anything else, nor nothing; and every refusal comes with a hint."""
    for outcome in flooded.outcomes:
        assert len(outcome.seen) > 0.5 * outcome.stage.rate * outcome.stage.seconds
        assert outcome.failed == 0
        assert outcome.unhinted == 0
    assert all(outcome.refused for outcome in flooded.outcomes[:2])


def test_who_is_let_in_is_answered_in_time(flooded: Flood) -> None:
    """A text that fills a run by itself is priced as one: work is not done for callers who have given up."""
    for outcome in flooded.outcomes:
        late = sum(each.code == LATE for each in outcome.seen)
        assert late < sum(each.good for each in outcome.seen)


def test_nothing_is_held_afterwards(flooded: Flood) -> None:
    """Every place is free again."""
    assert flooded.held == 0
