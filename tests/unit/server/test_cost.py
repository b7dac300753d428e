"""The cost of a run: fitted from samples, and the budget from the cost. Pure."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from headwaiter_server.scheduling.cost import (
    PackedCost,
    PaddedCost,
    Prices,
    Sample,
    fit_packed,
    fit_padded,
    fit_terms,
    knee_tokens,
)

SIZES = (8, 16, 32, 64, 96, 128, 192, 256, 384, 512)


def packed_samples(seconds: Callable[[int], float]) -> list[Sample]:
    return [Sample(max(1, size // 16), 16, size, seconds(size)) for size in SIZES]


@pytest.mark.parametrize("truth", [(1e-3, 3e-4, 2e-7), (0.0, 3e-4, 0.0), (5e-3, 0.0, 1e-6), (1e-3, 1e-5, 0.0)])
def test_packed_cost_is_found_again(truth: tuple[float, float, float]) -> None:
    """Samples of a known cost give that cost back, terms of zero among them."""
    known = PackedCost(*truth)
    fitted = fit_packed(packed_samples(known.seconds))
    for size in (1, 50, 512, 2000):
        assert fitted.seconds(size) == pytest.approx(known.seconds(size), rel=1e-6)


def test_padded_cost_is_found_again() -> None:
    """A padded run is charged for its rows, all as long as the longest, whatever its texts have."""
    known = PaddedCost(2e-3, 3e-4, 1e-6)
    shapes = [(rows, longest) for rows in (1, 4, 16) for longest in (8, 32, 128)]
    fitted = fit_padded(
        [Sample(rows, longest, rows * longest, known.seconds(rows, longest)) for rows, longest in shapes]
    )
    assert fitted.seconds(5, 77) == pytest.approx(known.seconds(5, 77), rel=1e-6)
    assert fitted.of_run(rows=5, longest=77, tokens=90) == fitted.seconds(5, 77)


def test_no_term_is_negative() -> None:
    """Where more tokens cost less each, the fit stays with what can be: costs that do not fall."""
    fitted = fit_packed(packed_samples(lambda size: 1e-3 * size**0.7))
    assert min(fitted.fixed, fitted.linear, fitted.quadratic) >= 0
    assert fitted.linear > 0


def test_fit_is_relative_and_withstands_noise() -> None:
    """Samples that are off by up to a tenth move predictions by less, for small runs as for large ones."""
    rng = random.Random(5)
    known = PackedCost(1e-3, 3e-4, 3e-7)
    fitted = fit_packed(packed_samples(lambda size: known.seconds(size) * rng.uniform(0.9, 1.1)))
    for size in (16, 128, 512):
        assert fitted.seconds(size) == pytest.approx(known.seconds(size), rel=0.1)


def test_fit_of_one_sample() -> None:
    """One sample is met, by one term."""
    factors = fit_terms([(1.0, 8.0, 64.0)], [0.5])
    assert sum(factor * feature for factor, feature in zip(factors, (1.0, 8.0, 64.0), strict=True)) == pytest.approx(
        0.5
    )


def test_budget_grows_with_what_a_run_costs_to_start() -> None:
    """The dearer the start of a run, the more tokens must share it; the dearer the pairs, the fewer."""
    cheap, dear = PackedCost(1e-4, 3e-4, 2e-7), PackedCost(2e-2, 3e-4, 2e-7)
    assert knee_tokens(cheap, 512) < knee_tokens(dear, 512)
    assert knee_tokens(PackedCost(4e-3, 3e-4, 2e-6), 512) < knee_tokens(dear, 512)


@pytest.mark.parametrize("cost", [PackedCost(1e-3, 1e-4, 2e-7), PackedCost(0, 1e-4, 0), PackedCost(1e-3, 1e-5, 0)])
def test_budget_is_the_smallest_that_pays(cost: PackedCost) -> None:
    """No size that was measured brings 3 % more throughput, hand-off included; the next smaller one lacks as much."""
    budget = knee_tokens(cost, 512)
    rate = {size: size / (5e-4 + cost.seconds(size)) for size in range(96, 513, 16)}
    assert rate[budget] * 1.03 >= max(rate.values())
    assert budget == 96 or rate[budget - 16] * 1.03 < max(rate.values())


def test_budget_of_a_large_model_is_bounded_by_time() -> None:
    """Nobody waits longer than a tenth of a second for batch-mates, though more of them would raise throughput."""
    slow = PackedCost(0.05, 5e-4, 0.0)
    assert slow.seconds(80) < slow.seconds(knee_tokens(slow, 512)) <= 0.1
    slower = PackedCost(0.05, 1e-3, 0.0)
    assert knee_tokens(slower, 512) == 48
    slowest = PackedCost(5.0, 1e-3, 0.0)
    assert knee_tokens(slowest, 512) == 32


def test_budget_saturates_a_core_whatever_was_measured() -> None:
    """A cost that makes tiny runs look best, as a disturbed calibration may find it, does not make runs tiny."""
    assert knee_tokens(PackedCost(0.0, 1e-4, 5e-6), 512) == 96


def test_budget_does_not_exceed_what_was_measured() -> None:
    """A cost that only falls ends at the largest measured run, also where that is tiny."""
    assert knee_tokens(PackedCost(1e-2, 1e-6, 0.0), 256) <= 256
    assert knee_tokens(PackedCost(1e-2, 1e-6, 0.0), 10) == 10


def test_padded_budget_is_the_knee_too() -> None:
    """A padded model's budget shares out the start of a run in the same way."""
    assert knee_tokens(PaddedCost(1e-4, 3e-4, 1e-7), 512) < knee_tokens(PaddedCost(5e-3, 3e-4, 1e-7), 512)


def test_text_is_priced_by_its_share_of_a_full_run() -> None:
    """Texts of a full run pay for all of it together; one over the budget pays for a run of its own."""
    cost = PackedCost(1e-3, 3e-4, 2e-7)
    prices = Prices(cost, 128)
    assert 8 * prices.text_seconds(16) == pytest.approx(prices.full_run_seconds) == cost.seconds(128)
    assert prices.text_seconds(300) == cost.seconds(300)


def test_short_text_costs_more_where_few_share_a_run() -> None:
    """Where as many as may share a run do not fill the budget, they pay for all of what they get."""
    cost = PackedCost(1e-2, 3e-4, 0.0)
    prices = Prices(cost, 128, most_texts=4)
    assert 4 * prices.text_seconds(16) == pytest.approx(cost.seconds(64))
    assert 4 * prices.text_seconds(32) == pytest.approx(cost.seconds(128))
    assert prices.text_seconds(300) == cost.seconds(300)
    assert Prices(cost, 128, most_texts=1).text_seconds(16) == pytest.approx(cost.seconds(16))
