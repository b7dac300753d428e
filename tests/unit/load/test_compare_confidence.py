"""Intervals hold what they promise, also where the calls of a second are alike."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest
from headwaiter_load.confidence import Interval, Sample, Second, difference, ratio, student_score

_QUANTILES = (0.5, 0.9, 0.99)
# As `compare` asks for it, with seven figures and 95 %.
_CONFIDENCE = 1 - 0.05 / 7
_TRIALS = 60


def _sample(draw: random.Random, *, scale: float = 1.0, uneven: float = 0.0, seconds: int = 20) -> Sample:
    """A run of 100 calls a second; `uneven` is how much seconds differ from each other."""
    recorded = []
    for _ in range(seconds):
        slow = scale * math.exp(uneven * draw.gauss(0, 1))
        values = Counter(round(slow * (0.01 + draw.expovariate(200)), 5) for _ in range(100))
        recorded.append(Second(1.0, 100, 0, sorted(values.items())))
    whole = Counter[float]()
    for second in recorded:
        whole.update(dict(second.latencies))
    return Sample(sorted(whole.items()), 0, 100.0, recorded)


def _claims(draw: random.Random, *, scale: float = 1.0, uneven: float = 0.0, seconds: int = 20) -> int:
    """How many of the quantiles and the mean of two runs are said to differ."""
    first = _sample(draw, uneven=uneven, seconds=seconds)
    second = _sample(draw, scale=scale, uneven=uneven, seconds=seconds)
    changes = [ratio(second.quantile(q, _CONFIDENCE), first.quantile(q, _CONFIDENCE)) for q in _QUANTILES]
    changes.append(ratio(second.mean(_CONFIDENCE), first.mean(_CONFIDENCE)))
    return sum(change.low > 1 or change.high < 1 for change in changes)


@pytest.mark.parametrize("uneven", [0.0, 0.1, 0.4], ids=["alike", "uneven seconds", "very uneven seconds"])
def test_two_runs_of_the_same_server_are_seldom_said_to_differ(uneven: float) -> None:
    draw = random.Random(1)
    wrong = sum(_claims(draw, uneven=uneven) > 0 for _ in range(_TRIALS))
    assert wrong <= 0.05 * _TRIALS


def test_ten_percent_are_found_where_the_run_is_long_enough_to_tell() -> None:
    draw = random.Random(2)
    found = [_claims(draw, scale=1.1, seconds=60) for _ in range(_TRIALS // 2)]
    # The median, the 90th percentile and the mean.
    assert sum(claims >= 3 for claims in found) >= 0.95 * len(found)


def test_an_interval_holds_the_true_quantile() -> None:
    draw = random.Random(3)
    kept = 0
    for _ in range(_TRIALS):
        interval = _sample(draw).quantile(0.9, 0.95)
        kept += interval.low <= 0.01 + math.log(10) / 200 <= interval.high
    assert kept >= 0.9 * _TRIALS


def test_a_quantile_beyond_the_calls_has_no_upper_end() -> None:
    interval = _sample(random.Random(4), seconds=5).quantile(0.999, 0.95)
    assert interval.estimate > 0
    assert interval.high == math.inf


def test_of_a_short_run_calls_count_as_independent() -> None:
    assert _sample(random.Random(5), seconds=3).blocks == 0
    assert _sample(random.Random(5), seconds=5).blocks == 5
    assert _sample(random.Random(5), seconds=125).blocks == 10


def test_seconds_that_differ_widen_the_interval() -> None:
    even, uneven = _sample(random.Random(6)).mean(0.95), _sample(random.Random(6), uneven=0.3).mean(0.95)
    assert uneven.high - uneven.low > 3 * (even.high - even.low)


def test_the_rate_is_as_sure_as_its_seconds_are_even() -> None:
    calls = [(0.01, 50)]
    steady = Sample(calls, 0, 10.0, [Second(1.0, 10, 0, calls)] * 10)
    assert steady.rate(0.95) == Interval(10.0, 10.0, 10.0)
    uneven = Sample(calls, 0, 10.0, [Second(1.0, 5, 0, calls), Second(1.0, 15, 0, calls)] * 5)
    # Ten seconds that are 5 off: a standard error of 5/3, and Student's score for nine degrees of freedom.
    assert uneven.rate(0.95).low == pytest.approx(10 - 2.262 * 5 / 3, rel=1e-3)


def test_no_failure_in_few_calls_does_not_exclude_failures() -> None:
    seconds = [Second(1.0, 10, 0, [(0.01, 10)])] * 10
    interval = Sample([(0.01, 100)], 0, 10.0, seconds).failed_share(0.95)
    assert interval.estimate == interval.low == 0
    assert 0.02 < interval.high < 0.1


def test_failures_in_one_stretch_are_less_sure_than_those_all_over() -> None:
    whole = [(0.01, 900)]
    spread = Sample(whole, 100, 90.0, [Second(1.0, 90, 10, [(0.01, 90)])] * 10).failed_share(0.95)
    lumped = [Second(1.0, 0, 100, []), *[Second(1.0, 100, 0, [(0.01, 100)])] * 9]
    assert Sample(whole, 100, 90.0, lumped).failed_share(0.95).high > 2 * spread.high


def test_failures_of_calls_from_before_the_run_are_none_of_its_own() -> None:
    """They end within it, in its time line, and are no calls that were due in it."""
    quiet = [Second(1.0, 10, 0, [(0.01, 10)])] * 9
    late = Second(1.0, 10, 3, [(0.01, 10)])
    found = Sample([(0.01, 100)], 0, 10.0, [late, *quiet]).failed_share(0.95)
    assert found == Sample([(0.01, 100)], 0, 10.0, [quiet[0], *quiet]).failed_share(0.95)


@pytest.mark.parametrize(
    ("confidence", "freedom", "score"),
    [(0.95, 9, 2.2622), (0.99, 9, 3.2498), (0.95, 4, 2.7764), (0.95, 120, 1.9799), (0.95, math.inf, 1.9600)],
)
def test_scores_are_those_of_the_tables(confidence: float, freedom: float, score: float) -> None:
    assert student_score(confidence, freedom) == pytest.approx(score, rel=4e-3)


def test_a_ratio_is_at_least_as_unsure_as_its_parts() -> None:
    change = ratio(Interval(2.0, 1.0, 4.0), Interval(1.0, 1.0, 1.0))
    assert (change.estimate, change.low, change.high) == pytest.approx((2.0, 1.0, 4.0))
    change = ratio(Interval(2.0, 1.0, math.inf), Interval(1.0, 0.5, 2.0))
    assert change.high == math.inf
    assert change.low < 1.0


def test_a_difference_is_at_least_as_unsure_as_its_parts() -> None:
    change = difference(Interval(0.3, 0.2, 0.4), Interval(0.1, 0.1, 0.1))
    assert (change.estimate, change.low, change.high) == pytest.approx((0.2, 0.1, 0.3))
