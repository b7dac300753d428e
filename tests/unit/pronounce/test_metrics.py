"""Word and phoneme error rates, against the best of the listed pronunciations."""

from __future__ import annotations

import pytest

from examples.pronounce.data import Entry
from examples.pronounce.metrics import edit_distance, error_rates, without_stress
from examples.pronounce.schedule import Trapezoid

pytestmark = pytest.mark.torch


@pytest.mark.parametrize(
    ("left", "right", "edits"),
    [("", "", 0), ("abc", "", 3), ("", "ab", 2), ("kitten", "sitting", 3), ("flaw", "lawn", 2), ("ab", "ba", 2)],
)
def test_edit_distance(left: str, right: str, edits: int) -> None:
    """Insertions, deletions and substitutions cost one each, from either side."""
    assert edit_distance(list(left), list(right)) == edits
    assert edit_distance(list(right), list(left)) == edits


def test_stress_is_the_final_digit() -> None:
    """Dropping stress leaves consonants alone."""
    assert without_stress(["AH0", "B", "AW1", "T"]) == ("AH", "B", "AW", "T")


def test_the_nearest_listed_pronunciation_counts() -> None:
    """An answer is right if it is any listed pronunciation; its edits are those to the nearest."""
    entries = [
        Entry("a", (("AH0",), ("EY1",))),
        Entry("ab", (("AE1", "B"),)),
        Entry("abc", (("EY1", "B", "IY2", "S", "IY1"), ("AE1", "B", "K"))),
    ]
    rates = error_rates(entries, [["EY1"], ["AE0", "B"], ["AE1", "B"]])
    assert rates.words == 3
    assert rates.wer == pytest.approx(2 / 3)
    assert rates.per == pytest.approx(2 / (1 + 2 + 3))
    assert rates.wer_no_stress == pytest.approx(1 / 3)
    assert rates.per_no_stress == pytest.approx(1 / (1 + 2 + 3))


def test_every_entry_needs_an_answer() -> None:
    """Fewer answers than words is an error and not a better score."""
    with pytest.raises(ValueError, match="zip"):
        error_rates([Entry("a", (("AH0",),))], [])


def test_learning_rate_is_a_trapezoid() -> None:
    """The rate rises to the peak, stays, and falls in the last part to just above zero."""
    schedule = Trapezoid(peak=2.0, warmup_steps=4, total_steps=100, decay_fraction=0.3)
    assert [schedule.rate(step) for step in range(5)] == [0.5, 1.0, 1.5, 2.0, 2.0]
    assert schedule.rate(70) == 2.0
    assert schedule.rate(85) == pytest.approx(1.0)
    assert schedule.rate(99) == pytest.approx(2.0 / 30)
    assert schedule.rate(100) == 0.0


def test_the_constant_part_does_not_depend_on_the_length() -> None:
    """Before any decay, a longer training has the same rates, so its length may still be changed."""
    short, long = (Trapezoid(2.0, 4, total, 0.3) for total in (100, 300))
    assert [short.rate(step) for step in range(71)] == [long.rate(step) for step in range(71)]
