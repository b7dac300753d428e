"""What the live page is told: counts of the last 15 minutes as rates, quantiles and shares; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from headwaiter_server.metrics.definitions import OTHER
from headwaiter_server.metrics.sampling import INTERVAL_SECONDS, SATURATION_SECONDS, ModelSample, Sample, quantile
from headwaiter_server.metrics.situation import ModelFacts, Situation

Figure = float | None
Json = float | str | Sequence["Json"] | Mapping[str, "Json"] | None

# Between samples that are further apart there is a gap: what happened in it is not known second by second.
_GAP_SECONDS = 2.5 * INTERVAL_SECONDS
_SIGNIFICANT_DIGITS = 5


@dataclass(slots=True)
class _Counts:
    """Of some models together, since the start. Names are those of `ModelSample`."""

    calls: float = 0.0
    failed_calls: float = 0.0
    texts: float = 0.0
    source_tokens: float = 0.0
    generated_tokens: float = 0.0
    computed_tokens: float = 0.0
    padding_tokens: float = 0.0
    runs: float = 0.0
    run_texts: float = 0.0
    run_tokens: float = 0.0
    request_counts: list[int] = field(default_factory=list)


# Codes of failed calls that the server has worked on; the others were refused, in next to no time.
_WORKED_ON = {"CANCELLED", "DEADLINE_EXCEEDED", "INTERNAL", "UNKNOWN"}


def answer(
    samples: Sequence[Sample], situation: Situation, bounds: Sequence[float], *, model: str = "", since: float = 0.0
) -> dict[str, Json]:
    """The answer to the page's question for what is new.

    Args:
        samples: The oldest first.
        situation: Of the server.
        bounds: Of the buckets of calls' durations.
        model: Whose figures; "" for all together.
        since: The sample up to which the page has the points: `last` of the answer it got before. 0 for none.

    Returns:
        Times of the points in Unix time, a list of the same length for each figure, and how it is now.
    """
    first = next((place for place, sample in enumerate(samples) if sample.at > since), len(samples))
    wanted = samples[max(0, first - 1) :]
    times, points = _points(wanted, situation.workers, bounds, model)
    newest = samples[-1] if samples else None
    budgets = {each.name: each.budget_tokens for each in situation.models}
    return {
        "run": situation.run,
        "started": situation.started,
        "version": situation.version,
        "state": situation.state,
        "workers": situation.workers,
        "slo_seconds": situation.slo_seconds,
        "targets": list(situation.targets),
        "models": _choices(situation.models, newest),
        "budget_tokens": budgets.get(model) if model or len(budgets) != 1 else next(iter(budgets.values())),
        "model": model,
        "calls": _calls(newest, model),
        "last": newest.at if newest else 0.0,
        "time": newest.unix_seconds if newest else situation.started,
        "times": times,
        "points": {name: list(figures) for name, figures in points.items()},
        "now": _now(samples, situation, bounds, model),
    }


def figures(older: Sample, newer: Sample, workers: int, bounds: Sequence[float], model: str = "") -> dict[str, Figure]:
    """What happened between two samples.

    Args:
        older: The one before.
        newer: The one after it.
        workers: Of the scheduler.
        bounds: Of the buckets of calls' durations.
        model: Whose figures; "" for all together.

    Returns:
        Rates, in 1/s: `calls`, `errors`, `texts`, `source_tokens`, `generated_tokens`. In seconds: `p50`, `p90`, `p99`
        of the calls that were worked on; refusals would make an overload look fast. Means of the runs: `run_texts`,
        `run_tokens`. Shares of 1: `padding`, `saturation`. As it is at the newer sample: `queue` and `running`, in
        texts, and `wait`, in seconds. None where there is nothing to tell of.
    """
    seconds = newer.at - older.at
    before, after = _counts(older, model), _counts(newer, model)

    def grown(name: str) -> float:
        # A model that was loaded again under its name may begin anew.
        growth: float = getattr(after, name) - getattr(before, name)
        return max(0.0, growth)

    durations = worked_on(_grown_counts(before, after), _refused(_grown_failures(older, newer, model)))
    chosen = _chosen(newer, model)
    waits = [each.predicted_wait_seconds for each in chosen if each.predicted_wait_seconds is not None]
    runs = grown("runs")
    return {
        "calls": grown("calls") / seconds,
        "errors": grown("failed_calls") / seconds,
        "texts": grown("texts") / seconds,
        "source_tokens": grown("source_tokens") / seconds,
        "generated_tokens": grown("generated_tokens") / seconds,
        "p50": quantile(bounds, durations, 0.5),
        "p90": quantile(bounds, durations, 0.9),
        "p99": quantile(bounds, durations, 0.99),
        "run_texts": _ratio(grown("run_texts"), runs),
        "run_tokens": _ratio(grown("run_tokens"), runs),
        "padding": _ratio(grown("padding_tokens"), grown("computed_tokens")),
        "saturation": min(1.0, max(0.0, (newer.busy_seconds - older.busy_seconds) / (workers * seconds))),
        "queue": sum(each.queue_depth for each in chosen),
        "running": sum(each.running_texts for each in chosen),
        "wait": max(waits, default=None),
    }


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


def within(bounds: Sequence[float], counts: Sequence[float], bound: float) -> Figure:
    """The share of observations that are at most one of the bounds; None without observations.

    Args:
        bounds: Upper ends of the buckets.
        counts: Observations in each, and in one without an end.
        bound: One of the bounds.
    """
    total = sum(counts)
    quick = sum(count for each, count in zip(bounds, counts, strict=False) if each <= bound)
    return quick / total if total else None


def _points(
    samples: Sequence[Sample], workers: int, bounds: Sequence[float], model: str
) -> tuple[list[float], dict[str, list[Figure]]]:
    """The times of the points, and the figures of each by their name."""
    times: list[float] = []
    points: dict[str, list[Figure]] = {}
    for older, newer in pairwise(samples):
        found = figures(older, newer, workers, bounds, model)
        if newer.at - older.at > _GAP_SECONDS:
            # No line is drawn over it.
            times.append(round((older.unix_seconds + newer.unix_seconds) / 2, 3))
            for name in found:
                points.setdefault(name, []).append(None)
        times.append(round(newer.unix_seconds, 3))
        for name, figure in found.items():
            points.setdefault(name, []).append(_short(figure))
    return times, points


def _now(samples: Sequence[Sample], situation: Situation, bounds: Sequence[float], model: str) -> dict[str, Json]:
    """The figures of the last seconds together, with some that single points do not have."""
    if not samples:
        return {"seconds": 0.0}
    newest = samples[-1]
    # Half an interval more: the sample of ten seconds ago may be a little late.
    reach = SATURATION_SECONDS + INTERVAL_SECONDS / 2
    older = next((sample for sample in samples if newest.at - sample.at < reach), newest)
    if older is newest:
        return {"seconds": 0.0}
    seconds = newest.at - older.at
    grown = _grown_failures(older, newest, model)
    durations = worked_on(_grown_counts(_counts(older, model), _counts(newest, model)), _refused(grown))
    codes = {code: number / seconds for code, number in grown.items()}
    return {
        "seconds": round(seconds, 1),
        **{name: _short(figure) for name, figure in figures(older, newest, situation.workers, bounds, model).items()},
        "within_slo": within(bounds, durations, situation.slo_seconds),
        "codes": {code: _short(rate) for code, rate in codes.items() if rate > 0},
        # Which model a call is for is known only when it is answered.
        "in_flight": None if model else newest.calls_in_flight,
    }


def _choices(models: Sequence[ModelFacts], newest: Sample | None) -> list[Json]:
    """The models whose figures can be asked for, each with the words around the target of its first call."""
    choices: list[Json] = [
        {"name": name, "title": name, "command": each.first_call()}
        for name, each in sorted({each.name: each for each in models}.items())
    ]
    if newest is not None and OTHER in newest.models:
        choices.append({"name": OTHER, "title": "Calls of no model", "command": ()})
    return choices


def _calls(sample: Sample | None, model: str) -> float:
    """Calls of a model since the start; of all, those that were for a model that there is."""
    if sample is None:
        return 0.0
    if model:
        return sample.models[model].calls if model in sample.models else 0.0
    return sum(each.calls for name, each in sample.models.items() if name != OTHER)


def _chosen(sample: Sample, model: str) -> list[ModelSample]:
    return [each for name, each in sample.models.items() if not model or name == model]


def _counts(sample: Sample, model: str) -> _Counts:
    total = _Counts()
    for each in _chosen(sample, model):
        total.calls += each.calls
        total.failed_calls += each.failed_calls
        total.texts += each.texts
        total.source_tokens += each.source_tokens
        total.generated_tokens += each.generated_tokens
        total.computed_tokens += each.computed_tokens
        total.padding_tokens += each.padding_tokens
        total.runs += sum(each.batch_size.counts)
        total.run_texts += each.batch_size.total
        total.run_tokens += each.batch_tokens.total
        counts = each.request_seconds.counts
        total.request_counts = [a + b for a, b in zip(total.request_counts or [0] * len(counts), counts, strict=True)]
    return total


def _grown_counts(before: _Counts, after: _Counts) -> list[int]:
    """By how much each bucket of calls' durations has grown."""
    older = before.request_counts or [0] * len(after.request_counts)
    return [max(0, count - earlier) for count, earlier in zip(after.request_counts, older, strict=False)]


def _failures(sample: Sample, model: str) -> dict[str, float]:
    """Calls that were not answered with OK since the start, by code."""
    total: dict[str, float] = {}
    for each in _chosen(sample, model):
        for code, number in each.failures.items():
            total[code] = total.get(code, 0.0) + number
    return total


def _grown_failures(older: Sample, newer: Sample, model: str) -> dict[str, float]:
    before, after = _failures(older, model), _failures(newer, model)
    # A model that was loaded again under its name may begin anew.
    return {code: max(0.0, number - before.get(code, 0.0)) for code, number in after.items()}


def _refused(failures: Mapping[str, float]) -> float:
    return sum(number for code, number in failures.items() if code not in _WORKED_ON)


def _ratio(part: float, whole: float) -> Figure:
    return part / whole if whole else None


def _short(figure: Figure) -> Figure:
    """A figure with as many digits as can be seen, so that answers are small."""
    if figure is None:
        return None
    short = float(f"{figure:.{_SIGNIFICANT_DIGITS}g}")
    return int(short) if short.is_integer() else short
