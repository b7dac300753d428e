"""What every panel must show of the story in `monitored`: by what the callers counted, and by the raw counters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from .monitored import (
    BIG_TEXTS,
    FROZEN_SECONDS,
    KV_CACHE_BYTES,
    LONG_BEAMS,
    LONG_TEXTS,
    MEMORY_BYTES,
    MOST_CALLS,
    MOST_TEXTS,
    SLO_SECONDS,
    WORDS,
    Story,
)
from .reloading import FAILED_LOADS, HITS, MISSES, SWAPS, Reloading
from .windows import Between, Window

MODELS = ("embed", "fragile", "pronounce", "tag")
ENCODERS = ("embed", "fragile", "tag")
WINDOWS = ("5m", "30m", "1h", "6h", "3d")
FAILED = ("UNAVAILABLE", "INTERNAL", "DEADLINE_EXCEEDED")
WORKED_ON = ("OK", "INTERNAL", "DEADLINE_EXCEEDED", "CANCELLED")

_SERVICE = "headwaiter.v1.InferenceService"
_REQUESTS = "headwaiter_requests_total"
_SECONDS = "headwaiter_request_duration_seconds"
_LONG = MOST_CALLS * LONG_TEXTS


Expected = Mapping[str, float | Between]


@dataclass(frozen=True)
class Rates:
    """Rates over a window: what they are by legend, from what rose in it."""

    window: Literal["calm", "storm", "whole"]
    expected: Callable[[Window], Expected]


@dataclass(frozen=True)
class Peaks:
    """The highest values that a gauge had in the whole story, by legend."""

    expected: Callable[[Story], Expected]


@dataclass(frozen=True)
class Finally:
    """What is shown when all is over, by legend."""

    expected: Callable[[Story], Expected]


Check = Rates | Peaks | Finally


def failed_share(window: Window) -> float:
    """The share of calls that the server failed, by its counters."""
    codes = window.rises(_REQUESTS, "code")
    failed = sum(codes[code] for code in FAILED)
    return failed / (failed + codes["OK"])


def slow_shares(window: Window) -> dict[str, float]:
    """The share of the calls worked on that were slow, by model."""
    calls = window.rises(f"{_SECONDS}_count", "model")
    within = window.rises(f"{_SECONDS}_bucket", "model", le=str(SLO_SECONDS))
    shares = {}
    for model in calls:
        codes = window.rises(_REQUESTS, "code", model=model)
        worked_on = sum(codes.get(code, 0.0) for code in WORKED_ON)
        if worked_on:
            shares[model] = min(1.0, (calls[model] - within[model]) / worked_on)
    return shares


def _per_second(rises: Mapping[str, float], window: Window) -> Expected:
    return {key: rise / window.seconds for key, rise in rises.items()}


def _ratios(window: Window, part: str, whole: str, label: str, **wanted: str) -> dict[str, float]:
    parts, wholes = window.rises(part, label, **wanted), window.rises(whole, label)
    return {key: parts.get(key, 0.0) / each for key, each in wholes.items() if each}


def _quantiles(name: str, *shares: float, models: tuple[str, ...] = MODELS) -> Callable[[Window], Expected]:
    def expected(window: Window) -> Expected:
        used = [model for model in models if window.rise(f"{name}_count", model=model)]
        return {
            f"{model} p{share * 100:.0f}": window.quantile(share, name, model=model)
            for model in used
            for share in shares
        }

    return expected


def _instance(story: Story) -> str:
    return story.server.metrics


def _durations(window: Window) -> Expected:
    shown = {f"p{share * 100:.0f}": window.quantile(share, _SECONDS) for share in (0.5, 0.9, 0.99)}
    return {**shown, "SLO": SLO_SECONDS}


def _parts(window: Window) -> Expected:
    names = {part: f"headwaiter_{part}_duration_seconds" for part in ("tokenize", "queue", "inference")}
    return {part: window.rise(f"{name}_sum") / window.rise(f"{name}_count") for part, name in names.items()}


def _computed(window: Window) -> Expected:
    computed, padding = window.rise("headwaiter_computed_tokens_total"), window.rise("headwaiter_padding_tokens_total")
    return {"of texts": (computed - padding) / window.seconds, "padding": padding / window.seconds}


def _generated(window: Window) -> int:
    return sum(call.generated_tokens for call in window.calls)


def _came(window: Window) -> Expected:
    """Tokens as they came; those of beams are not among them, which are there all at once."""
    names = [f"headwaiter_{which}_token_duration_seconds_count" for which in ("first", "inter")]
    return {"pronounce": sum(window.rise(name, model="pronounce") for name in names) / window.seconds}


def _of_iterations(name: str, whole: str = "headwaiter_run_duration_seconds_count") -> Rates:
    """What a counter of the model that generates is for each iteration, or each second of them."""
    return Rates(
        "whole",
        lambda window: {"pronounce": window.rise(name, model="pronounce") / window.rise(whole, model="pronounce")},
    )


def _answered_texts(window: Window) -> int:
    return sum(call.texts for call in window.calls if call.code == "OK")


def _calibrated(**legends: str) -> Callable[[Story], Expected]:
    return lambda story: {
        f"{model} {_instance(story)} {legend}": value
        for name, legend in legends.items()
        for model, value in story.whole.gauges(f"headwaiter_calibration_{name}", "model").items()
    }


def _slowest_call(window: Window) -> float:
    return max(call.seconds for call in window.calls if call.model == "embed")


def _saturated(story: Story) -> Between:
    """What the busy time itself says, which is less than 1 where the machine has other work."""
    busy = story.prometheus.over("rate(headwaiter_worker_busy_seconds_total[10s])", story.calm.start, story.storm.end)
    (shares,) = busy.values()
    assert max(shares) > 0.5
    return Between(max(shares) - 0.1, min(1.0, max(shares) + 0.1))


_SATURATED = Peaks(lambda story: {_instance(story): _saturated(story)})
_QUEUED = Between(0.7 * _LONG, _LONG)
_GENERATE_RUNS = ("pronounce",)

PANELS: Mapping[tuple[str, str], Check] = {
    ("overview", "Calls"): Rates("whole", lambda window: {"calls": len(window.calls) / window.seconds}),
    ("overview", "Failed calls"): Rates("whole", lambda window: {"failed": failed_share(window)}),
    ("overview", "Slow calls"): Finally(lambda story: {"slow": max(slow_shares(story.ever).values())}),
    ("overview", "Busiest server"): Peaks(lambda story: {"saturation": _saturated(story)}),
    ("overview", "Models loaded"): Finally(lambda _: {f"{model} 1 fp32": 1 for model in MODELS}),
    ("overview", "Budget of availability: burn rate"): Finally(
        lambda story: {f"headwaiter {window}": failed_share(story.ever) / 0.001 for window in WINDOWS}
    ),
    ("overview", "Budget of latency: burn rate"): Finally(
        lambda story: {f"headwaiter {window}": max(slow_shares(story.ever).values()) / 0.01 for window in WINDOWS}
    ),
    ("overview", "Calls by model"): Rates(
        "whole", lambda window: _per_second(window.rises(_REQUESTS, "model"), window)
    ),
    ("overview", "Calls that did not end with OK"): Rates(
        "whole",
        lambda window: {code: n / window.seconds for code, n in window.codes().items() if code != "OK"},
    ),
    ("overview", "Calls in flight"): Peaks(
        lambda _: {
            f"{_SERVICE}/Generate": Between(MOST_CALLS - 1, MOST_CALLS),
            f"{_SERVICE}/GenerateStream": 1,
            f"{_SERVICE}/Embed": Between(1, MOST_CALLS),
            f"{_SERVICE}/Tag": Between(0, MOST_CALLS),
        }
    ),
    ("overview", "Failures of the engine"): Rates(
        "whole", lambda window: {"fragile": window.codes()["INTERNAL"] / window.seconds}
    ),
    ("overview", "Duration of calls"): Rates("whole", _durations),
    ("overview", "p99 by model"): Rates(
        "whole",
        lambda window: {
            **{model: window.quantile(0.99, _SECONDS, model=model) for model in (*MODELS, "_other")},
            "SLO": SLO_SECONDS,
        },
    ),
    ("overview", "Where the time goes"): Rates("whole", _parts),
    ("overview", "Saturation"): _SATURATED,
    ("overview", "Waiting texts"): Peaks(
        lambda _: {
            "pronounce": _QUEUED,
            "embed": Between(1, BIG_TEXTS),
            # In the calm some scrape may see the texts of all callers wait.
            "tag": Between(0, 100),
            "fragile": Between(0, MOST_CALLS),
        }
    ),
    ("overview", "Predicted wait"): Peaks(
        lambda story: {
            **{model: Between(0.01, 2 * _slowest_call(story.calm) + 1) for model in ENCODERS},
            "SLO": SLO_SECONDS,
        }
    ),
    ("batching", "Why runs closed"): Rates(
        "whole", lambda window: _per_second(window.rises("headwaiter_batches_total", "reason"), window)
    ),
    ("batching", "Texts in a run"): Rates(
        "whole", lambda window: _ratios(window, "headwaiter_batch_size_sum", "headwaiter_batch_size_count", "model")
    ),
    ("batching", "Duration of a run"): Rates("whole", _quantiles("headwaiter_run_duration_seconds", 0.5, 0.99)),
    ("batching", "Distribution of texts in a run"): Rates(
        "whole", lambda window: window.rises("headwaiter_batch_size_bucket", "le")
    ),
    ("batching", "Distribution of tokens in a run"): Rates(
        "whole", lambda window: window.rises("headwaiter_batch_tokens_bucket", "le")
    ),
    ("batching", "Computed tokens"): Rates("whole", _computed),
    ("batching", "Padding"): Rates(
        "whole",
        lambda window: _ratios(window, "headwaiter_padding_tokens_total", "headwaiter_computed_tokens_total", "model"),
    ),
    ("batching", "Waiting for batch-mates and a worker"): Rates(
        "whole", _quantiles("headwaiter_batch_wait_duration_seconds", 0.5, 0.99)
    ),
    ("batching", "Correction of the cost"): Finally(
        lambda story: {
            f"{model} {_instance(story)}": value
            for model, value in story.whole.gauges("headwaiter_cost_correction_ratio", "model").items()
        }
    ),
    ("batching", "Budget of a run"): Finally(_calibrated(budget_tokens="budget", lone_tokens="all threads from")),
    ("batching", "Calibrated cost"): Finally(_calibrated(full_run_seconds="full run", fixed_seconds="any run")),
    ("generation", "Until the first token"): Rates(
        "whole", _quantiles("headwaiter_first_token_duration_seconds", 0.5, 0.9, 0.99, models=_GENERATE_RUNS)
    ),
    ("generation", "Between tokens"): Rates(
        "whole", _quantiles("headwaiter_inter_token_duration_seconds", 0.5, 0.9, 0.99, models=_GENERATE_RUNS)
    ),
    ("generation", "Generated tokens"): Rates("calm", _came),
    ("generation", "Generated tokens of a text"): Rates(
        "calm",
        lambda window: {
            "pronounce": _generated(window) / sum(call.texts for call in window.calls if call.model == "pronounce")
        },
    ),
    # In the calm some scrape may see all callers' words at one time.
    ("generation", "Texts being generated"): Peaks(
        lambda _: {"pronounce": Between(32 / LONG_BEAMS, max(64 / LONG_BEAMS, MOST_CALLS * len(WORDS)))}
    ),
    ("generation", "Texts that wait for a place"): Peaks(lambda _: {"pronounce": _QUEUED}),
    ("generation", "Texts in a step"): Rates(
        "whole",
        lambda window: {
            "pronounce": window.rise("headwaiter_batch_size_sum", model="pronounce")
            / window.rise("headwaiter_batch_size_count", model="pronounce")
        },
    ),
    ("generation", "Duration of a step"): Rates(
        "whole", _quantiles("headwaiter_run_duration_seconds", 0.5, 0.99, models=_GENERATE_RUNS)
    ),
    ("generation", "Why texts ended"): Rates(
        "whole", lambda window: _per_second(window.rises("headwaiter_generations_total", "finish_reason"), window)
    ),
    ("generation", "Cache in use"): Peaks(
        lambda _: {"pronounce": Between(0.9 * KV_CACHE_BYTES, KV_CACHE_BYTES), "pronounce limit": KV_CACHE_BYTES}
    ),
    ("generation", "Rows in use"): Peaks(lambda _: {"pronounce": Between(32, 64), "pronounce limit": 64}),
    ("generation", "Iterations short of room"): _of_iterations("headwaiter_kv_cache_short_iterations_total"),
    ("generation", "Tokens read"): Rates(
        "whole",
        lambda window: {
            "pronounce": window.rise("headwaiter_prefill_tokens_total", model="pronounce") / window.seconds,
        },
    ),
    ("generation", "Time beside the model"): _of_iterations(
        "headwaiter_iteration_overhead_seconds_total", "headwaiter_run_duration_seconds_sum"
    ),
    ("generation", "Copied in an iteration"): _of_iterations("headwaiter_kv_cache_copied_bytes_total"),
    ("generation", "Open streams"): Peaks(lambda _: {f"{_SERVICE}/GenerateStream": 1}),
    ("capacity", "Saturation"): _SATURATED,
    ("capacity", "Busy workers"): Rates(
        "storm",
        lambda window: {
            f"{instance} {legend}": value
            for instance, busy in window.rises("headwaiter_worker_busy_seconds_total", "instance").items()
            for legend, value in (("busy", busy / window.seconds), ("workers", 1))
        },
    ),
    ("capacity", "Texts by worker"): Rates(
        "whole",
        lambda window: dict.fromkeys(
            window.gauges("headwaiter_workers", "instance"), _answered_texts(window) / window.seconds
        ),
    ),
    ("capacity", "Processor time of 1000 texts"): Rates(
        "whole",
        lambda window: {
            model: 1000 * seconds
            for model, seconds in _ratios(
                window, "headwaiter_cpu_seconds_total", "headwaiter_texts_total", "model"
            ).items()
        },
    ),
    ("capacity", "Processors in use"): Rates(
        "whole",
        lambda window: dict.fromkeys(
            window.gauges("headwaiter_workers", "instance"),
            Between(0.9 * window.cpu_seconds / window.seconds, 1.1 * window.cpu_seconds / window.seconds),
        ),
    ),
    ("capacity", "Wasted processor time"): Rates(
        "whole",
        lambda window: {
            reason: wasted / window.rise("headwaiter_cpu_seconds_total")
            for reason, wasted in window.rises("headwaiter_wasted_cpu_seconds_total", "reason").items()
        },
    ),
    ("capacity", "Lateness of the event loop"): Peaks(
        lambda story: {_instance(story): Between(FROZEN_SECONDS - 1.2, story.frozen_seconds + 1)}
    ),
    ("capacity", "Memory of the process"): Finally(
        lambda story: {
            _instance(story): Between(0.85 * story.resident_bytes, 1.15 * story.resident_bytes),
            f"{_instance(story)} limit": MEMORY_BYTES,
        }
    ),
    ("capacity", "Memory of models"): Finally(
        lambda story: story.whole.gauges("headwaiter_model_memory_bytes", "model")
    ),
    ("capacity", "Time to load models"): Finally(
        lambda story: {f"{model} 1": Between(0.001, story.load_seconds) for model in MODELS}
    ),
    ("capacity", "Room for calls and texts"): Peaks(
        lambda story: {f"{_instance(story)} calls": 1.0, f"{_instance(story)} texts": _LONG / MOST_TEXTS}
    ),
    ("capacity", "Refused calls"): Rates(
        "whole", lambda window: {"headwaiter": window.codes()["UNAVAILABLE"] / len(window.calls)}
    ),
    # Half of the storm's long calls had a deadline; those of the calm were all met.
    ("capacity", "Missed deadlines"): Rates("whole", lambda _: {"pronounce": 1.0, "embed": 0.0}),
}

# Of the other story, in `reloading`: what is shown when it is over, by legend.
MODEL_PANELS: Mapping[tuple[str, str], Callable[[Reloading], Expected]] = {
    ("capacity", "Loads of models"): lambda _: {"embed loaded": SWAPS, "embed failed": FAILED_LOADS},
    ("capacity", "Models that fail to load"): lambda told: {f"embed {told.instance}": 1},
    ("capacity", "Time to swap a version"): lambda told: {"embed": Between(0.001, told.slowest_seconds)},
    ("capacity", "Remembered answers"): lambda _: {"embed": HITS / (HITS + MISSES)},
}
