"""What a run costs, and how much of it pays. Pure: figures in, figures out.

A packed run costs what its tokens cost, `a + b T + c T^2`: starting it, the layers that look at one token at a time,
and attention over all pairs. A padded run costs `a + b R L + c R L^2` for R rows as long as the longest, L.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

# A budget is as large as pays: from it on, more tokens a run bring less than this share of throughput.
_KNEE = 0.03
# Nobody's text should wait longer than this for mates of its own run. A text that takes longer does so alone.
_LONGEST_RUN_SECONDS = 0.1
_BUDGET_STEP_TOKENS = 16
_SMALLEST_BUDGET_TOKENS = 32
# Below this, budgets that texts do not fill exactly, and the starts of runs, cost more than fits in cache save: in a
# server under load 96 tokens took 6 % less processor time a text than 64, and 128 no less (all-MiniLM-L6-v2, 2 cores).
_SATURATING_TOKENS = 96
# What a run costs beside the model: handing it to a worker and its answers back. It pays to do that less often.
_HAND_OFF_SECONDS = 0.0005
# Rows of this length stand for the texts of a padded run when only its tokens are known.
_TYPICAL_TOKENS = 32


class RunCost(Protocol):
    """The cost of a run of one model.

    Attributes:
        fixed: Seconds that every run takes.
        linear: Seconds for each token.
        quadratic: Seconds for each pair of tokens that attend to each other.
    """

    @property
    def fixed(self) -> float: ...  # noqa: D102 - see the class

    @property
    def linear(self) -> float: ...  # noqa: D102

    @property
    def quadratic(self) -> float: ...  # noqa: D102

    def of_run(self, rows: int, longest: int, tokens: int) -> float:
        """Seconds of a run.

        Args:
            rows: Its texts.
            longest: Tokens of the longest.
            tokens: Tokens of all.
        """
        ...

    def of_tokens(self, tokens: int) -> float:
        """Seconds of a run of many short texts with so many tokens in all."""
        ...


@dataclass(frozen=True, slots=True)
class PackedCost:
    """Cost of a run without padding; see `RunCost`."""

    fixed: float
    linear: float
    quadratic: float
    kind: Literal["packed"] = "packed"

    def seconds(self, tokens: float) -> float:
        """Seconds of a run of so many tokens."""
        return self.fixed + self.linear * tokens + self.quadratic * tokens * tokens

    def of_run(self, rows: int, longest: int, tokens: int) -> float:  # noqa: ARG002 - padding costs; here is none
        """See `RunCost`."""
        return self.seconds(tokens)

    def of_tokens(self, tokens: int) -> float:
        """See `RunCost`."""
        return self.seconds(tokens)


@dataclass(frozen=True, slots=True)
class PaddedCost:
    """Cost of a run whose rows are all as long as the longest; see `RunCost`."""

    fixed: float
    linear: float
    quadratic: float
    kind: Literal["padded"] = "padded"

    def seconds(self, rows: float, longest: float) -> float:
        """Seconds of a run of so many rows, padding included."""
        return self.fixed + rows * longest * (self.linear + self.quadratic * longest)

    def of_run(self, rows: int, longest: int, tokens: int) -> float:  # noqa: ARG002 - all rows cost what the longest does
        """See `RunCost`."""
        return self.seconds(rows, longest)

    def of_tokens(self, tokens: int) -> float:
        """See `RunCost`."""
        longest = min(tokens, _TYPICAL_TOKENS)
        return self.seconds(tokens / longest, longest)


@dataclass(frozen=True, slots=True)
class Sample:
    """One measured size of a run.

    Attributes:
        rows: Its texts.
        longest: Tokens of the longest.
        tokens: Tokens of all.
        seconds: What it took.
    """

    rows: int
    longest: int
    tokens: int
    seconds: float


def fit_packed(samples: Sequence[Sample]) -> PackedCost:
    """The packed cost that is nearest to the samples; see `fit_terms`."""
    features = [(1.0, each.tokens, each.tokens**2) for each in samples]
    return PackedCost(*fit_terms(features, [each.seconds for each in samples]))


def fit_padded(samples: Sequence[Sample]) -> PaddedCost:
    """The padded cost that is nearest to the samples; see `fit_terms`."""
    features = [(1.0, each.rows * each.longest, each.rows * each.longest**2) for each in samples]
    return PaddedCost(*fit_terms(features, [each.seconds for each in samples]))


@dataclass(frozen=True, slots=True)
class Prices:
    """What texts cost under load, when runs are as full as their budget lets them be.

    Attributes:
        cost: Of a run.
        budget_tokens: Most tokens of a run of several texts.
        most_texts: Most texts of a run. Where they are so few that short ones do not fill the budget, each costs more.
    """

    cost: RunCost
    budget_tokens: int
    most_texts: float = math.inf

    @property
    def full_run_seconds(self) -> float:
        """Seconds of a run at the budget."""
        return self.cost.of_tokens(self.budget_tokens)

    @property
    def run_tokens(self) -> float:
        """What starting a run costs, in tokens that could be computed in that time; at most as many as a full run's."""
        start = self.cost.fixed + _HAND_OFF_SECONDS
        return min(start / self.cost.linear, self.budget_tokens) if self.cost.linear else self.budget_tokens

    @property
    def filling_tokens(self) -> float:
        """Tokens from which on texts fill the budget, as many as share a run."""
        return self.budget_tokens / self.most_texts

    def text_seconds(self, tokens: int) -> float:
        """A text's share of a full run, or all of the run that a text over the budget has to itself."""
        if tokens > self.budget_tokens:
            return self.cost.of_run(1, tokens, tokens)
        if tokens < self.filling_tokens:
            texts = int(self.most_texts)
            return self.cost.of_run(texts, tokens, texts * tokens) / texts
        return self.full_run_seconds * tokens / self.budget_tokens


def knee_tokens(cost: RunCost, largest_tokens: int) -> int:
    """The budget: the fewest tokens of a run from which more bring next to no throughput.

    A run of several texts must not keep any of them long, either, so that the budget of a large model may lie below its
    knee.

    Args:
        cost: Of a run.
        largest_tokens: Largest run that was measured; the budget does not go beyond.
    """
    smallest = min(_SMALLEST_BUDGET_TOKENS, largest_tokens)
    quick = [
        tokens
        for tokens in range(smallest, largest_tokens + 1, _BUDGET_STEP_TOKENS)
        if cost.of_tokens(tokens) <= _LONGEST_RUN_SECONDS
    ]
    # The knee is flat, and a noisy measurement may put it anywhere: what saturates any core is not gone below for it.
    sizes = [tokens for tokens in quick if tokens >= _SATURATING_TOKENS] or quick[-1:] or [smallest]
    return _knee(cost, sizes)


def knee_rows(cost: RunCost, largest_rows: int) -> int:
    """The budget of a model of tensors: as `knee_tokens`, in rows, of which nothing is known beforehand.

    Args:
        cost: Of a run, in rows.
        largest_rows: Largest run that was measured; the budget does not go beyond.
    """
    return _knee(
        cost, [rows for rows in range(1, largest_rows + 1) if cost.of_tokens(rows) <= _LONGEST_RUN_SECONDS] or [1]
    )


def _knee(cost: RunCost, sizes: Sequence[int]) -> int:
    per_token = [(_HAND_OFF_SECONDS + cost.of_tokens(tokens)) / tokens for tokens in sizes]
    best = min(per_token)
    return next(tokens for tokens, each in zip(sizes, per_token, strict=True) if each <= best * (1 + _KNEE))


def fit_terms(features: Sequence[tuple[float, float, float]], values: Sequence[float]) -> tuple[float, float, float]:
    """Non-negative least squares on relative errors.

    The best fit is an ordinary one of some of the features, the others being at zero. There are seven choices of
    features, few enough to try each.

    Args:
        features: Of each sample.
        values: Of each sample: what the features times their factors should come to. At least one, all positive.

    Returns:
        A factor for each feature, none negative.
    """
    relative = np.array(features) / np.array(values)[:, np.newaxis]
    ones = np.ones(len(values))
    # Factors differ by orders of magnitude: with columns of like size the solver's sums lose nothing.
    sizes = np.linalg.norm(relative, axis=0)
    best, least = np.zeros(3), np.inf
    for count in (1, 2, 3):
        for chosen in itertools.combinations(range(3), count):
            factors = np.zeros(3)
            factors[list(chosen)] = np.linalg.lstsq((relative / sizes)[:, chosen], ones, rcond=None)[0]
            residual = float(np.square(relative / sizes @ factors - ones).sum())
            if (factors >= 0).all() and residual < least:
                best, least = factors / sizes, residual
    fixed, linear, quadratic = best.tolist()
    return fixed, linear, quadratic
