"""What of the models' counts the live page adds up, and what grew of it between two samples; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from headwaiter_server.metrics.sampling import ModelSample, Observations, Sample

# Codes of failed calls that the server has worked on; the others were refused, in next to no time.
_WORKED_ON = {"CANCELLED", "DEADLINE_EXCEEDED", "INTERNAL", "UNKNOWN"}


@dataclass(slots=True)
class Counts:
    """Of some models together, since the start. Names are those of `ModelSample`.

    Attributes:
        durations: Observations in each bucket, of the histograms that quantiles are taken of, by name.
    """

    calls: float = 0.0
    failed_calls: float = 0.0
    texts: float = 0.0
    source_tokens: float = 0.0
    computed_tokens: float = 0.0
    padding_tokens: float = 0.0
    runs: float = 0.0
    run_texts: float = 0.0
    run_tokens: float = 0.0
    durations: dict[str, list[int]] = field(default_factory=dict)


def chosen(sample: Sample, model: str) -> list[ModelSample]:
    """A model's part of a sample; those of all if its name is ""."""
    return [each for name, each in sample.models.items() if not model or name == model]


def counts(sample: Sample, model: str) -> Counts:
    """The counts of a model, or of all of them together."""
    total = Counts()
    for each in chosen(sample, model):
        total.calls += each.calls
        total.failed_calls += each.failed_calls
        total.texts += each.texts
        total.source_tokens += each.source_tokens
        total.computed_tokens += each.computed_tokens
        total.padding_tokens += each.padding_tokens
        total.runs += sum(each.batch_size.counts)
        total.run_texts += each.batch_size.total
        total.run_tokens += each.batch_tokens.total
        for name, observed in (
            ("request", each.request_seconds),
            ("first_token", each.first_token_seconds),
            ("inter_token", each.inter_token_seconds),
        ):
            total.durations[name] = _added(total.durations.get(name), observed)
    return total


def grown_durations(before: Counts, after: Counts, name: str) -> list[int]:
    """By how much each bucket of one of the histograms has grown."""
    newer = after.durations.get(name, [])
    older = before.durations.get(name) or [0] * len(newer)
    return [max(0, count - earlier) for count, earlier in zip(newer, older, strict=False)]


def grown_failures(older: Sample, newer: Sample, model: str) -> dict[str, float]:
    """By how much calls that were not answered with OK have grown, by code."""
    before, after = _failures(older, model), _failures(newer, model)
    # A model that was loaded again under its name may begin anew.
    return {code: max(0.0, number - before.get(code, 0.0)) for code, number in after.items()}


def refused(failures: Mapping[str, float]) -> float:
    """How many of the calls that failed were not worked on."""
    return sum(number for code, number in failures.items() if code not in _WORKED_ON)


def worked_on(counts: Sequence[int], refused: float) -> list[float]:
    """How long calls took that were not refused: without the shortest, which the refused ones are.

    Args:
        counts: Calls in each bucket of durations, the shortest first.
        refused: How many of them were refused.
    """
    left, kept = refused, list[float]()
    for count in counts:
        gone = min(count, left)
        kept.append(count - gone)
        left -= gone
    return kept


def _added(counts: list[int] | None, observed: Observations) -> list[int]:
    if counts is None:
        return list(observed.counts)
    return [a + b for a, b in zip(counts, observed.counts, strict=True)]


def _failures(sample: Sample, model: str) -> dict[str, float]:
    """Calls that were not answered with OK since the start, by code."""
    total: dict[str, float] = {}
    for each in chosen(sample, model):
        for code, number in each.failures.items():
            total[code] = total.get(code, 0.0) + number
    return total
