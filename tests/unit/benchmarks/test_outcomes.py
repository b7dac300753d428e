"""Schedules and summaries of the encoder benchmark's load generator."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.encoders.outcomes import (
    DEADLINE_EXCEEDED,
    OK,
    UNAVAILABLE,
    Outcome,
    percentile,
    poisson_schedule,
    summarize_open,
)


@pytest.mark.parametrize(("share", "expected"), [(0.0, 1), (0.5, 50), (0.99, 99), (0.991, 100), (1.0, 100)])
def test_a_percentile_is_a_measured_value(share: float, expected: float) -> None:
    assert percentile(list(range(100, 0, -1)), share) == expected


def test_nothing_has_no_percentile() -> None:
    assert math.isnan(percentile([], 0.99))


@given(st.lists(st.floats(0, 100), min_size=1), st.floats(0, 1))
def test_a_percentile_bounds_its_share_of_the_values(values: list[float], share: float) -> None:
    bound = percentile(values, share)
    assert sum(value <= bound for value in values) >= share * len(values)


def test_a_schedule_offers_exactly_its_rate_and_ends_in_time() -> None:
    times = poisson_schedule(rate_per_second=150, seconds=8, seed=1)
    assert len(times) == 1200
    assert times == sorted(times)
    assert times[0] >= 0
    assert times[-1] <= 8


def test_a_schedule_is_repeated_by_its_seed_only() -> None:
    assert poisson_schedule(100, 2, seed=3) == poisson_schedule(100, 2, seed=3)
    assert poisson_schedule(100, 2, seed=3) != poisson_schedule(100, 2, seed=4)


def test_a_schedule_comes_in_bursts_as_independent_callers_do() -> None:
    # Of a Poisson process the number of calls in an interval varies as much as its mean; evenly spaced calls would not.
    times = poisson_schedule(rate_per_second=100, seconds=200, seed=5)
    counts = [sum(second <= time < second + 1 for time in times) for second in range(200)]
    mean = sum(counts) / len(counts)
    variance = sum((count - mean) ** 2 for count in counts) / len(counts)
    assert 0.6 * mean < variance < 1.5 * mean


def test_an_answer_after_the_deadline_is_late_even_if_its_status_is_ok() -> None:
    outcomes = [Outcome(0.4, OK), Outcome(1.2, OK), Outcome(1.0, DEADLINE_EXCEEDED), Outcome(0.01, UNAVAILABLE)]
    figures = summarize_open(outcomes, seconds=2.0, deadline_seconds=1.0)
    assert figures["goodput_per_second"] == 0.5
    assert figures["late_share"] == 0.5
    assert figures["refused_share"] == 0.25
    assert figures["failed_calls"] == 0


def test_what_was_taken_and_never_answered_counts_in_the_percentiles_and_refusals_do_not() -> None:
    outcomes = [Outcome(0.1, OK)] * 50 + [Outcome(1.0, DEADLINE_EXCEEDED)] * 50 + [Outcome(9.0, UNAVAILABLE)] * 100
    figures = summarize_open(outcomes, seconds=1.0, deadline_seconds=1.0)
    assert figures["p50_seconds"] == 0.1
    assert figures["p99_seconds"] == 1.0


def test_any_other_status_is_a_failure() -> None:
    outcomes = [Outcome(0.1, OK), Outcome(0.1, 13), Outcome(0.1, 8)]
    assert summarize_open(outcomes, seconds=1.0, deadline_seconds=1.0)["failed_calls"] == 2
