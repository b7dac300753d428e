"""What the live page is told: counts of the last 15 minutes as rates, quantiles and shares; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from headwaiter_server.metrics.definitions import OTHER
from headwaiter_server.metrics.growth import chosen, counts, grown_durations, grown_failures, refused, worked_on
from headwaiter_server.metrics.sampling import INTERVAL_SECONDS, SATURATION_SECONDS, Sample, quantile
from headwaiter_server.metrics.situation import ModelFacts, Situation

Figure = float | None
Json = float | str | Sequence["Json"] | Mapping[str, "Json"] | None

# Between samples that are further apart there is a gap: what happened in it is not known second by second.
_GAP_SECONDS = 2.5 * INTERVAL_SECONDS
_SIGNIFICANT_DIGITS = 5


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
        "generates": any(each.task == "generate" and model in ("", each.name) for each in situation.models),
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
        Rates, in 1/s: `calls`, `errors`, `texts`, `source_tokens`, and `generated_tokens` as they come. In seconds:
        `p50`, `p90`, `p99` of the calls that were worked on; refusals would make an overload look fast. Of generated
        tokens, in seconds: `first_p50` and `first_p99` of the first, `next_p50` and `next_p99` of the others. Means of
        the runs: `run_texts`, `run_tokens`. Shares of 1: `padding`, `saturation`. As it is at the newer sample: `queue`
        and `running`, in texts, `wait`, in seconds, and `kv_cache`, the share that is reserved of the memory for keys
        and values. None where there is nothing to tell of.
    """
    seconds = newer.at - older.at
    before, after = counts(older, model), counts(newer, model)

    def grown(name: str) -> float:
        # A model that was loaded again under its name may begin anew.
        growth: float = getattr(after, name) - getattr(before, name)
        return max(0.0, growth)

    durations = worked_on(grown_durations(before, after, "request"), refused(grown_failures(older, newer, model)))
    first, following = grown_durations(before, after, "first_token"), grown_durations(before, after, "inter_token")
    now = chosen(newer, model)
    waits = [each.predicted_wait_seconds for each in now if each.predicted_wait_seconds is not None]
    runs = grown("runs")
    return {
        "calls": grown("calls") / seconds,
        "errors": grown("failed_calls") / seconds,
        "texts": grown("texts") / seconds,
        "source_tokens": grown("source_tokens") / seconds,
        "generated_tokens": (sum(first) + sum(following)) / seconds,
        "p50": quantile(bounds, durations, 0.5),
        "p90": quantile(bounds, durations, 0.9),
        "p99": quantile(bounds, durations, 0.99),
        "first_p50": quantile(bounds, first, 0.5),
        "first_p99": quantile(bounds, first, 0.99),
        "next_p50": quantile(bounds, following, 0.5),
        "next_p99": quantile(bounds, following, 0.99),
        "run_texts": _ratio(grown("run_texts"), runs),
        "run_tokens": _ratio(grown("run_tokens"), runs),
        "padding": _ratio(grown("padding_tokens"), grown("computed_tokens")),
        "saturation": min(1.0, max(0.0, (newer.busy_seconds - older.busy_seconds) / (workers * seconds))),
        "queue": sum(each.queue_depth for each in now),
        "running": sum(each.running_texts for each in now),
        "wait": max(waits, default=None),
        "kv_cache": _ratio(sum(each.kv_cache_bytes for each in now), sum(each.kv_cache_limit_bytes for each in now)),
    }


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
    grown = grown_failures(older, newest, model)
    durations = worked_on(grown_durations(counts(older, model), counts(newest, model), "request"), refused(grown))
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


def _ratio(part: float, whole: float) -> Figure:
    return part / whole if whole else None


def _short(figure: Figure) -> Figure:
    """A figure with as many digits as can be seen, so that answers are small."""
    if figure is None:
        return None
    short = float(f"{figure:.{_SIGNIFICANT_DIGITS}g}")
    return int(short) if short.is_integer() else short
