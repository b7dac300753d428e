"""Sums of the work that waits: what stands before a call, and nothing left of what has gone."""

from __future__ import annotations

import pickle
import random

import pytest
from headwaiter_server.scheduling.calls import Terms
from headwaiter_server.scheduling.waiting import WaitingWork


def test_only_earlier_deadlines_of_the_same_caller_stand_before() -> None:
    """Of a caller's own texts, those that are due later wait behind a new one."""
    work = WaitingWork()
    work.add(Terms(0.0, deadline=5.0), 2, 2.0)
    work.add(Terms(0.0, deadline=10.0), 1, 4.0)
    assert work.ahead(Terms(0.0, deadline=4.0), 1.0) == 0
    assert work.ahead(Terms(0.0, deadline=7.0), 1.0) == 2
    assert work.ahead(Terms(0.0, deadline=20.0), 1.0) == 6


def test_others_stand_before_by_their_weight() -> None:
    """Of a caller with twice the weight, twice as much is served meanwhile; of one with half, half as much."""
    work = WaitingWork()
    work.add(Terms(0.0, fairness_key="other", weight=2.0), 1, 100.0)
    assert work.ahead(Terms(0.0, fairness_key="own"), 1.0) == 2
    assert work.ahead(Terms(0.0, fairness_key="own", weight=4.0), 1.0) == 0.5
    work.add(Terms(0.0, fairness_key="own"), 1, 3.0)
    assert work.ahead(Terms(0.0, fairness_key="own"), 1.0) == 3 + 2 * 4
    work.remove(Terms(0.0, fairness_key="other", weight=5.0), 1, 100.0)
    assert work.ahead(Terms(0.0, fairness_key="own"), 1.0) == 3


def test_steady_load_leaves_no_trail() -> None:
    """A caller that always has something waiting costs as much memory after an hour as after a second."""
    work, sizes = WaitingWork(), []
    terms = [Terms(second / 10, deadline=second / 10 + 3) for second in range(3000)]
    for index, each in enumerate(terms):
        work.add(each, 2, 0.5)
        if index >= 10:
            work.remove(terms[index - 10], 1, 0.25)
            work.remove(terms[index - 10], 1, 0.25)
        sizes.append(len(pickle.dumps(work)))
    assert max(sizes[100:]) < 1.2 * max(sizes[:100])


@pytest.mark.parametrize("seed", range(5))
def test_sums_end_at_exactly_nothing(seed: int) -> None:
    """Whatever is added and removed, in whatever order and sizes, nothing remains of it, not even of rounding."""
    dice = random.Random(seed)
    work = WaitingWork()
    texts = [
        (
            Terms(0.0, dice.uniform(1, 9), dice.randint(1, 3), dice.choice("abc")),
            dice.random() * 10 ** dice.randint(-6, 3),
        )
        for _ in range(500)
    ]
    for terms, seconds in texts:
        work.add(terms, 1, seconds)
    dice.shuffle(texts)
    for terms, seconds in texts:
        work.remove(terms, 1, seconds)
    assert work.seconds == 0
    assert work.ahead(Terms(0.0, 100.0, 16), 1.0) == 0
