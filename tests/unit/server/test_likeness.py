"""Which texts share a run of a padded graph: padding against the cost of another run."""

from __future__ import annotations

from typing import Any, cast

import pytest
from headwaiter_server.batching.likeness import LikeLength
from headwaiter_server.scheduling.calls import Pending


def entry(tokens: int) -> Pending[Any, Any]:
    return Pending(cast("Any", None), 0, None, tokens)


def joined(lengths: list[int], *, most_tokens: int = 1000, run_tokens: float = 10) -> list[int]:
    """Who of those that ask is let in."""
    run = LikeLength(most_tokens, run_tokens)
    return [length for length in lengths if not run.full and run.join(entry(length))]


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([20, 20, 20], [20, 20, 20]),
        ([20, 10], [20, 10]),  # pads 10, as much as a run costs
        ([20, 9], [20]),
        ([20, 30], [20, 30]),  # pads the other
        ([20, 31], [20]),
        ([20, 20, 25], [20, 20, 25]),  # pads both, by 5
        ([20, 20, 26], [20, 20]),
        ([20, 20, 26, 18], [20, 20, 18]),  # who is refused changes nothing
        ([5000], [5000]),  # the first is always let in
        ([5000, 5000], [5000]),
    ],
)
def test_text_joins_while_its_padding_costs_less_than_a_run(lengths: list[int], expected: list[int]) -> None:
    """A text is let in as long as what it pads, itself or the others, costs no more than starting a run."""
    assert joined(lengths) == expected


def test_equals_join_though_a_run_costs_nothing() -> None:
    """Where starting a run is free, only texts of the same length share one."""
    assert joined([7, 7, 8, 7, 6], run_tokens=0) == [7, 7, 7]


def test_budget_counts_padding() -> None:
    """Rows times the longest stay within the budget."""
    assert joined([30, 20, 30, 30], most_tokens=90) == [30, 20, 30]
    assert joined([30, 30, 31], most_tokens=92) == [30, 30]


def test_run_is_full_when_no_row_fits_any_more() -> None:
    """A run says so itself when even the shortest text would exceed its budget."""
    run = LikeLength(60, 10)
    assert not run.full
    for _ in range(2):
        assert not run.full
        assert run.join(entry(30))
    assert run.full
