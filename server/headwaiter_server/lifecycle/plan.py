"""How a model is run on this machine: what its runs cost, how large they are, and what they take of memory."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean
from typing import Any

from headwaiter_server.model.contract import BatchModel
from headwaiter_server.scheduling.cost import PackedCost, PaddedCost, Prices, Sample, fit_terms

# Without a measurement: a multiplication and an addition for each weight and token, at the pace of an ordinary core.
_GUESSED_SECONDS_PER_TOKEN_AND_BYTE = 3e-12
_GUESSED_FIXED_SECONDS = 1e-3
_GUESSED_BUDGET_TOKENS = 128

# Of what the largest runs that were tried took: smaller ones tell nothing of still larger ones.
_TELLING_PART = 0.1


@dataclass(frozen=True, slots=True)
class LoneSample:
    """A size of a run that has the server to itself, measured both ways.

    Attributes:
        tokens: Of the run.
        seconds: With the threads of any run.
        all_threads_seconds: With all of them.
    """

    tokens: int
    seconds: float
    all_threads_seconds: float


@dataclass(frozen=True, slots=True)
class MemorySample:
    """A size of a run on every worker, and the memory that all of them took.

    Attributes:
        tokens: Of each run, padding included.
        longest: Tokens of the longest text in it.
        size_bytes: What the process held more than before the first run.
    """

    tokens: int
    longest: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class CalibrationPlan:
    """How a model is run.

    Attributes:
        cost: Of a run beside others.
        budget_tokens: Most tokens of a run of several texts.
        lone_tokens: From so many tokens on, a run that has the server to itself uses all threads; None if none does.
        samples: What the cost was fitted to; none if it was guessed.
        lone_samples: What `lone_tokens` was found from.
        memory_samples: What runs took of memory.
    """

    cost: PackedCost | PaddedCost
    budget_tokens: int
    lone_tokens: int | None = None
    samples: tuple[Sample, ...] = ()
    lone_samples: tuple[LoneSample, ...] = ()
    memory_samples: tuple[MemorySample, ...] = ()

    @property
    def prices(self) -> Prices:
        """The part of it that admission needs."""
        return Prices(self.cost, self.budget_tokens)

    @property
    def scatter(self) -> float:
        """By which part the samples are off the cost that was fitted to them, on average."""
        if not self.samples:
            return 0.0
        return fmean(abs(self.cost.of_run(s.rows, s.longest, s.tokens) / s.seconds - 1) for s in self.samples)

    def run_bytes(self, longest_tokens: int, most_tokens: int | None = None, *, attending: bool = True) -> int:
        """Memory that the largest runs take, one on each worker: at the budget, or of the longest text; 0 if unknown.

        Args:
            longest_tokens: Of a text.
            most_tokens: Tokens of several texts that the model takes at a time, however large the budget; None for any
                number.
            attending: Whether tokens may attend to one another. The rows of a model of tensors that may share a run
                leave one another alone.
        """
        most = max((each.size_bytes for each in self.memory_samples), default=0)
        # Smaller ones fit mostly into what the process held already when it was measured, and say little.
        telling = [each for each in self.memory_samples if each.size_bytes > most * _TELLING_PART]
        if not telling:
            return 0
        packed = self.cost.kind == "packed"

        def pairs(tokens: int, longest: int) -> int:
            """Attention holds a number for each pair of tokens: of a packed run, or of each row of a padded one."""
            if not attending:
                return tokens
            return tokens * (tokens if packed else longest)

        # What was held is counted off.
        features = [(-1.0, each.tokens, pairs(each.tokens, each.longest)) for each in telling]
        held, linear, quadratic = fit_terms(features, [each.size_bytes for each in telling])
        budget = self.budget_tokens if most_tokens is None else min(self.budget_tokens, most_tokens)
        tokens = max(budget, longest_tokens)
        most_pairs = pairs(tokens, longest_tokens)
        fitted = linear * tokens + quadratic * most_pairs - held
        # Beyond what was tried it grows as between the last two sizes at most, counted by what grows faster: which part
        # of it comes from the pairs cannot be told from few sizes. What was held is in neither of them.
        sizes = [(each.tokens, pairs(each.tokens, each.longest), each.size_bytes) for each in self.memory_samples]
        tried = max(sizes)
        smaller = [each for each in sizes if each[0] < tried[0] and each[1] < tried[1]]
        before = max(smaller, default=(0, 0, 0))
        growth = max((tokens - tried[0]) / (tried[0] - before[0]), (most_pairs - tried[1]) / (tried[1] - before[1]))
        bound = tried[2] + growth * (tried[2] - before[2]) if growth > 0 else 0.0
        return round(max(fitted, bound, *(each.size_bytes for each in telling if each.tokens <= tokens), 0))


def guess(model: BatchModel[Any, Any, Any], graph_bytes: int) -> CalibrationPlan:
    """A plan without measuring; what runs take corrects its prices.

    Args:
        model: The model.
        graph_bytes: Size of its graph.
    """
    fit = PackedCost if model.packed else PaddedCost
    cost = fit(_GUESSED_FIXED_SECONDS, _GUESSED_SECONDS_PER_TOKEN_AND_BYTE * graph_bytes, 0.0)
    return CalibrationPlan(cost, _GUESSED_BUDGET_TOKENS)


def describe(name: str, plan: CalibrationPlan, unit: str = "tokens") -> str:
    """A plan as a small table for a person.

    Args:
        name: Of the model.
        plan: Its plan.
        unit: What its cost is counted in: "tokens", or "rows".
    """
    cost, one = plan.cost, unit.removesuffix("s")
    terms = (
        f"{cost.fixed * 1e3:.2f} ms, {cost.linear * 1e6:.1f} us a {one}, {cost.quadratic * 1e9:.1f} ns a pair of {unit}"
    )
    lines = [
        f"{name}: up to {plan.budget_tokens} {unit} a run, {plan.prices.full_run_seconds * 1e3:.1f} ms",
        f"  a run takes {terms}",
    ]
    if plan.samples:
        heading = "   texts" if unit == "tokens" else "requests"
        lines.append(f"{heading}  longest{unit:>9}        ms  fitted, ms{unit + '/s':>10}")
    for each in plan.samples:
        fitted = cost.of_run(each.rows, each.longest, each.tokens)
        lines.append(
            f"{each.rows:8}{each.longest:9}{each.tokens:9}{each.seconds * 1e3:10.2f}{fitted * 1e3:12.2f}"
            f"{each.tokens / each.seconds:10.0f}"
        )
    if plan.lone_samples:
        chosen = "never" if plan.lone_tokens is None else f"from {plan.lone_tokens} {unit} on"
        lines += [f"  all threads for a run that is alone: {chosen}", f"{unit:>8}        ms  all threads, ms"]
    lines += [
        f"{each.tokens:8}{each.seconds * 1e3:10.2f}{each.all_threads_seconds * 1e3:17.2f}" for each in plan.lone_samples
    ]
    return "\n".join(lines)
