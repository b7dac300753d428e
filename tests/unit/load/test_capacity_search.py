"""The search finds the highest rate that keeps the goal, and says why others miss it."""

from __future__ import annotations

import dataclasses

import pytest
from headwaiter_load.capacity import Search, by_tester, judged
from headwaiter_load.figures import run_warnings
from headwaiter_load.results import Goal
from hypothesis import given
from hypothesis import strategies as st
from unit.load.test_results_file import run_result

GOAL = Goal(p99_seconds=0.25, error_ratio=0.05, precision=0.05)


def searched(search: Search, capacity: float) -> list[float]:
    """The rates that a search tries of a server with a known capacity."""
    rates = []
    while (probe := search.next()) is not None:
        rates.append(probe.rate)
        search.record(probe.rate, met=probe.rate <= capacity)
    return rates


@given(capacity=st.floats(0.2, 50_000), start=st.floats(0.5, 5_000), precision=st.floats(0.01, 0.5))
def test_capacity_is_found_to_the_precision(capacity: float, start: float, precision: float) -> None:
    """The highest rate that meets is at most the precision below the capacity, in few steps."""
    search = Search(start, 100_000, precision)
    rates = searched(search, capacity)
    assert search.met is not None
    assert search.missed is not None
    assert search.met <= capacity < search.missed <= search.met * (1 + precision)
    assert len(rates) <= 32
    assert len(set(rates)) == len(rates)


def test_steps_double_then_halve_the_gap() -> None:
    """The rates of a search are those that anybody would expect."""
    rates = searched(Search(10, 1000, 0.2), 50)
    assert [round(rate, 1) for rate in rates] == [10, 20, 40, 80, 56.6, 47.6]


def test_a_server_beyond_the_highest_rate_is_told() -> None:
    """The search ends at the highest rate, and knows that nothing missed."""
    search = Search(100, 350, 0.05)
    assert searched(search, 1e9) == [100, 200, 350]
    assert (search.at_highest, search.missed) == (True, None)


def test_a_server_that_never_meets_ends_the_search() -> None:
    """Down to the lowest rate, and no further."""
    search = Search(1, 100, 0.05)
    assert searched(search, 0) == [1, 0.5, 0.25, 0.125]
    assert (search.met, search.at_highest) == (None, False)


def test_a_run_that_keeps_the_goal_has_no_reasons() -> None:
    """p99 0.2 s and 1 of 51 failed."""
    assert judged(run_result(), GOAL) == ()


@pytest.mark.parametrize(
    ("goal", "said"),
    [
        (dataclasses.replace(GOAL, p99_seconds=0.15), "p99 200.1 ms, above 150 ms"),
        (dataclasses.replace(GOAL, error_ratio=0.01), r"1.96% failed (1 UNAVAILABLE), above 1.00%"),
    ],
)
def test_what_misses_is_told(goal: Goal, said: str) -> None:
    """In figures."""
    assert judged(run_result(), goal) == (said,)


def test_a_growing_queue_misses_whatever_the_latency() -> None:
    """A rate just above capacity has good latencies for a while; the backlog tells."""
    result = dataclasses.replace(run_result(), scheduled=1000, outstanding_at_begin=4, outstanding_at_end=40)
    assert judged(result, GOAL) == ("36 more calls outstanding at the end than at the beginning: the queue grew",)
    steady = dataclasses.replace(run_result(), scheduled=1000, outstanding_at_begin=30, outstanding_at_end=40)
    assert judged(steady, GOAL) == ()


@pytest.mark.parametrize(
    ("begin", "end"), [(0, 8), (0, 10), (0, 21), (30, 40), (30, 55), (30, 52), (1000, 1080), (5, 2)]
)
def test_a_report_says_that_the_queue_grew_when_the_search_does(begin: int, end: int) -> None:
    """There is one rule; and a closed loop has no queue that could grow."""
    result = dataclasses.replace(run_result(), scheduled=1000, outstanding_at_begin=begin, outstanding_at_end=end)
    warned = any("more calls were outstanding" in each for each in run_warnings(result, None))
    assert warned == bool(judged(result, GOAL))
    closed = dataclasses.replace(result, settings=dataclasses.replace(result.settings, load="closed"))
    assert not any("more calls were outstanding" in each for each in run_warnings(closed, None))


def test_a_run_without_answers_misses() -> None:
    """No latency at all is no good latency."""
    result = dataclasses.replace(run_result(), answered=0)
    assert "no call was answered" in judged(result, GOAL)


def test_a_miss_may_be_the_testers() -> None:
    """Late calls are the tester's fault where the server answered in time what it got, or where no time was left."""
    result = run_result()
    use, goal = result.tester, dataclasses.replace(GOAL, p99_seconds=0.1)
    late = dataclasses.replace(use, bottleneck=True)
    busy = dataclasses.replace(late, processes=(dataclasses.replace(use.processes[0], cpu_share=0.99),))
    assert not by_tester(result, goal)
    assert not by_tester(dataclasses.replace(result, tester=late), goal)
    assert by_tester(dataclasses.replace(result, tester=busy), goal)
    quick = dataclasses.replace(result.service_time, percentiles={**result.service_time.percentiles, "99": 0.05})
    assert by_tester(dataclasses.replace(result, tester=late, service_time=quick), goal)
