"""The last 15 minutes, a sample each second: for the live page, and for what is said of the last few seconds."""

from __future__ import annotations

import threading
import time
from array import array
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from headwaiter_server.log import get_logger
from headwaiter_server.metrics import definitions
from headwaiter_server.metrics.definitions import Definition
from headwaiter_server.metrics.recorder import Metrics
from headwaiter_server.metrics.series import Histograms

_log = get_logger(__name__)

INTERVAL_SECONDS = 1.0
KEPT_SAMPLES = 15 * 60
SATURATION_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Observations:
    """What a histogram held.

    Attributes:
        counts: Of each bucket, not of those below it; the last one has no bound.
        total: Sum of all observations.
    """

    counts: Sequence[int]
    total: float


@dataclass(frozen=True, slots=True)
class ModelSample:
    """One model's part of a sample. Counts are since the start; so are those of the histograms.

    Attributes:
        calls: Answered, however.
        failed_calls: Of these, answered with another code than OK.
        failures: These, by their code.
        texts: Answered.
        source_tokens: Read.
        generated_tokens: Generated.
        computed_tokens: Computed by runs, padding included.
        padding_tokens: Of these, padding.
        cpu_seconds: Of runs.
        wasted_cpu_seconds: Spent on calls that were cancelled or expired.
        queue_depth: Texts that wait now.
        running_texts: Texts in runs now.
        predicted_wait_seconds: Of a text that comes now; None where it is not predicted.
        kv_cache_bytes: Reserved now, for keys and values.
        kv_cache_limit_bytes: That may be reserved; 0 for a model that does not generate.
        request_seconds: Durations of calls, over all methods.
        queue_seconds: Durations.
        inference_seconds: Durations.
        first_token_seconds: Durations.
        inter_token_seconds: Durations.
        batch_size: Texts of runs.
        batch_tokens: Tokens of runs.
    """

    calls: float
    failed_calls: float
    failures: Mapping[str, float]
    texts: float
    source_tokens: float
    generated_tokens: float
    computed_tokens: float
    padding_tokens: float
    cpu_seconds: float
    wasted_cpu_seconds: float
    queue_depth: float
    running_texts: float
    predicted_wait_seconds: float | None
    kv_cache_bytes: float
    kv_cache_limit_bytes: float
    request_seconds: Observations
    queue_seconds: Observations
    inference_seconds: Observations
    first_token_seconds: Observations
    inter_token_seconds: Observations
    batch_size: Observations
    batch_tokens: Observations


@dataclass(frozen=True, slots=True)
class Sample:
    """The server at one moment.

    Attributes:
        at: On the sampler's clock.
        unix_seconds: The same on the wall's.
        busy_seconds: Time in which workers had a run, since the start.
        saturation_ratio: Part of the workers' time that was busy over the last 10 seconds.
        event_loop_lag_seconds: How late the event loop is.
        calls_started: Since the start.
        calls_in_flight: Being answered now.
        calls_held: Admitted and not answered.
        texts_held: Of these calls.
        models: By name; `OTHER` for calls whose model is not known.
    """

    at: float
    unix_seconds: float
    busy_seconds: float
    saturation_ratio: float
    event_loop_lag_seconds: float
    calls_started: float
    calls_in_flight: float
    calls_held: float
    texts_held: float
    models: Mapping[str, ModelSample]


class Sampler:
    """Takes the samples, on a thread of its own."""

    def __init__(
        self,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """Begin with none.

        Args:
            metrics: What is read.
            clock: Seconds; the one by which busy workers are measured.
            wall_clock: Unix time.
        """
        self.metrics = metrics
        self._clock = clock
        self._wall_clock = wall_clock
        # Read by the threads that answer the page while the sampler appends.
        self._lock = threading.Lock()
        self._samples: deque[Sample] = deque(maxlen=KEPT_SAMPLES)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="metrics-sampler", daemon=True)
        metrics.watch(definitions.SATURATION, self.saturation)

    def start(self) -> None:
        """Take a sample now, and one each second from now on."""
        self.take()
        self._thread.start()

    def stop(self) -> None:
        """Take no more; the samples stay."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def samples(self) -> list[Sample]:
        """The last 15 minutes, the oldest first."""
        with self._lock:
            return list(self._samples)

    def saturation(self) -> float:
        """Of the latest sample."""
        with self._lock:
            return self._samples[-1].saturation_ratio if self._samples else 0.0

    def take(self) -> Sample:
        """Take a sample."""
        metrics = self.metrics
        at, busy_seconds = self._clock(), _number(metrics, definitions.WORKER_BUSY_SECONDS)
        sample = Sample(
            at=at,
            unix_seconds=self._wall_clock(),
            busy_seconds=busy_seconds,
            saturation_ratio=self._saturation(at, busy_seconds),
            event_loop_lag_seconds=_number(metrics, definitions.EVENT_LOOP_LAG_SECONDS),
            calls_started=sum(metrics.requests_started.copy().values()),
            calls_in_flight=sum(metrics.in_flight().values()),
            calls_held=_number(metrics, definitions.CALLS_HELD),
            texts_held=_number(metrics, definitions.WAITING_TEXTS_HELD),
            models=_models(metrics),
        )
        with self._lock:
            self._samples.append(sample)
        return sample

    def _run(self) -> None:
        due = self._clock() + INTERVAL_SECONDS
        while not self._stopped.wait(max(0.0, due - self._clock())):
            try:
                self.take()
            except Exception:  # noqa: BLE001 - a moment that could not be read must not be the last one
                _log.exception("sample_failed")
            # Of seconds in which the machine stood still there are no samples, rather than one right after this: what
            # happened in a millisecond says nothing about a second.
            due = max(due + INTERVAL_SECONDS, self._clock() + INTERVAL_SECONDS / 2)

    def _saturation(self, at: float, busy_seconds: float) -> float:
        workers = _number(self.metrics, definitions.WORKERS)
        with self._lock:
            # Half an interval more: the sample of ten seconds ago may be a little late.
            recent = [each for each in self._samples if at - each.at < SATURATION_SECONDS + INTERVAL_SECONDS / 2]
        if not recent or not workers or at <= recent[0].at:
            return 0.0
        return min(1.0, (busy_seconds - recent[0].busy_seconds) / (workers * (at - recent[0].at)))


def quantile(bounds: Sequence[float], counts: Sequence[float], share: float) -> float | None:
    """The value below which a share of observations lies, as `histogram_quantile` of Prometheus estimates it.

    Args:
        bounds: Upper bounds of the buckets, ascending, without the last one's, which has none.
        counts: Of each bucket, not of those below it: one more than there are bounds.
        share: 0.99 for the 99th percentile.

    Returns:
        The estimate, at most the largest bound; None without observations.
    """
    total = sum(counts)
    if not total:
        return None
    rank, below = share * total, 0.0
    for bucket, (bound, count) in enumerate(zip(bounds, counts, strict=False)):
        if count and below + count >= rank:
            lower = bounds[bucket - 1] if bucket else 0.0
            # Rounding may lead beyond the bound, and a median beyond the quantiles that stand at it.
            return min(bound, lower + (bound - lower) * max(0.0, rank - below) / count)
        below += count
    return bounds[-1]


def _models(metrics: Metrics) -> dict[str, ModelSample]:
    waits = _by_model(metrics, definitions.PREDICTED_WAIT_SECONDS)
    depths = _by_model(metrics, definitions.QUEUE_DEPTH)
    running = _by_model(metrics, definitions.RUNNING_TEXTS)
    reserved = _by_model(metrics, definitions.KV_CACHE_BYTES)
    reservable = _by_model(metrics, definitions.KV_CACHE_LIMIT_BYTES)
    wasted = metrics.wasted_cpu_seconds.copy()
    calls: dict[str, float] = dict.fromkeys(depths, 0.0)
    failures: dict[str, dict[str, float]] = {}
    for (_, model, code), number in metrics.requests.sums().items():
        calls[model] = calls.get(model, 0.0) + number
        if code != "OK":
            of_model = failures.setdefault(model, {})
            of_model[code] = of_model.get(code, 0.0) + number
    return {
        model: ModelSample(
            calls=calls[model],
            failed_calls=sum(failures.get(model, {}).values()),
            failures=failures.get(model, {}),
            texts=metrics.texts[(model,)],
            source_tokens=metrics.tokens_read[(model, "source")],
            generated_tokens=metrics.tokens_read[(model, "generated")],
            computed_tokens=metrics.computed_tokens[(model,)],
            padding_tokens=metrics.padding_tokens[(model,)],
            cpu_seconds=metrics.cpu_seconds[(model,)],
            wasted_cpu_seconds=sum(seconds for (name, _), seconds in wasted.items() if name == model),
            queue_depth=depths.get(model, 0.0),
            running_texts=running.get(model, 0.0),
            predicted_wait_seconds=waits.get(model),
            kv_cache_bytes=reserved.get(model, 0.0),
            kv_cache_limit_bytes=reservable.get(model, 0.0),
            request_seconds=_observations(metrics.request_seconds, model, position=1),
            queue_seconds=_observations(metrics.queue_seconds, model),
            inference_seconds=_observations(metrics.inference_seconds, model),
            first_token_seconds=_observations(metrics.first_token_seconds, model),
            inter_token_seconds=_observations(metrics.inter_token_seconds, model),
            batch_size=_observations(metrics.batch_size, model),
            batch_tokens=_observations(metrics.batch_tokens, model),
        )
        for model in calls
    }


def _observations(histograms: Histograms, model: str, position: int = 0) -> Observations:
    """What the histograms of a model hold together; its name is at this position among their labels."""
    # As 8-byte numbers: 900 samples of a dozen histograms for each model are kept.
    counts, total = array("q", bytes(8 * (len(histograms.bounds) + 1))), 0.0
    for labels, histogram in histograms.copy().items():
        if labels[position] == model:
            for bucket, count in enumerate(list(histogram.counts)):
                counts[bucket] += count
            total += histogram.total
    return Observations(counts, total)


def _number(metrics: Metrics, definition: Definition) -> float:
    reading = metrics.reading(definition)
    return 0.0 if isinstance(reading, Mapping) else reading


def _by_model(metrics: Metrics, definition: Definition) -> Mapping[str, float]:
    reading = metrics.reading(definition)
    return reading if isinstance(reading, Mapping) else {}
