"""What the scheduler and the models know anyway, and the metrics and the live page read when they are asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from headwaiter_server.batching.lane import BatchLane
from headwaiter_server.generation.lane import GenerationLane
from headwaiter_server.lifecycle.catalog import Catalog, ServedModel
from headwaiter_server.metrics import Metrics, definitions
from headwaiter_server.metrics.situation import ModelFacts
from headwaiter_server.pipeline import ResponseCache
from headwaiter_server.scheduling.admission import Admission
from headwaiter_server.scheduling.dispatcher import Dispatcher
from headwaiter_server.scheduling.forecast import Forecast


def watch(metrics: Metrics, catalog: Catalog, admission: Admission, dispatcher: Dispatcher, forecast: Forecast) -> None:
    """Have what the scheduler knows anyway read when it is asked for, instead of being recorded.

    The readers run on other threads: each reads single numbers, or copies.

    Args:
        metrics: What shows it.
        catalog: The models.
        admission: Calls and texts that are held, and how many may be.
        dispatcher: The workers.
        forecast: Waits.
    """

    def drifts() -> dict[str, float]:
        lanes = {model.name: model.lane for model in catalog.all()}
        return {
            name: lane.forecast.drift
            for name, lane in lanes.items()
            if isinstance(lane, BatchLane) and lane.forecast is not None
        }

    def generating(read: Callable[[GenerationLane], int]) -> Callable[[], dict[str, float]]:
        return lambda: _summed(
            (each.name, read(each.lane)) for each in catalog.placed() if isinstance(each.lane, GenerationLane)
        )

    metrics.watch(definitions.GENERATION_ROWS, generating(lambda lane: lane.used_rows))
    metrics.watch(definitions.GENERATION_ROWS_LIMIT, generating(lambda lane: lane.rows))
    metrics.watch(definitions.KV_CACHE_BYTES, generating(lambda lane: lane.reserved_bytes))
    metrics.watch(definitions.KV_CACHE_LIMIT_BYTES, generating(lambda lane: lane.cache_bytes))
    metrics.watch(definitions.MODELS_LOADED, lambda: float(len(catalog.all())))
    metrics.watch(definitions.QUEUE_DEPTH, lambda: _summed((each.name, each.lane.waiting) for each in catalog.placed()))
    metrics.watch(
        definitions.RUNNING_TEXTS, lambda: _summed((each.name, each.lane.running) for each in catalog.placed())
    )
    metrics.watch(
        definitions.PREDICTED_WAIT_SECONDS, lambda: dict.fromkeys(drifts(), forecast.wait_seconds(dispatcher.clock()))
    )
    metrics.watch(definitions.COST_CORRECTION, drifts)
    metrics.watch(definitions.CALLS_HELD, lambda: float(admission.calls))
    metrics.watch(definitions.CALLS_LIMIT, lambda: float(admission.max_calls))
    metrics.watch(definitions.WAITING_TEXTS_HELD, lambda: float(admission.texts))
    metrics.watch(definitions.WAITING_TEXTS_LIMIT, lambda: float(admission.max_texts))
    metrics.watch(definitions.WORKERS, lambda: float(dispatcher.workers))
    metrics.watch(definitions.WORKER_BUSY_SECONDS, dispatcher.busy_seconds)


def watch_cache(metrics: Metrics, cache: ResponseCache) -> None:
    """Have what is known of the remembered answers read when it is asked for; as `watch`."""
    metrics.watch(definitions.CACHE_ENTRIES, lambda: float(cache.entries))
    metrics.watch(definitions.CACHE_BYTES, lambda: float(cache.size_bytes))
    metrics.watch(definitions.CACHE_LIMIT_BYTES, lambda: float(cache.max_bytes))
    metrics.watch(definitions.CACHE_EVICTIONS, lambda: float(cache.evicted))


def _summed(counts: Iterable[tuple[str, int]]) -> dict[str, float]:
    """Counts of the versions of each model, together."""
    totals: Counter[str] = Counter()
    for name, count in counts:
        totals[name] += count
    return {name: float(total) for name, total in totals.items()}


def model_facts(models: Sequence[ServedModel]) -> list[ModelFacts]:
    """What the live page is told of the models."""
    return [
        ModelFacts(
            each.name,
            each.task,
            each.lane.budget.tokens if isinstance(each.lane, BatchLane) and each.text_tokenizer else None,
        )
        for each in models
    ]
