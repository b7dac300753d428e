"""Prometheus metrics. No other file imports prometheus_client; the registry is given, never global."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, start_http_server
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.metrics import MetricWrapperBase

Wrapped = TypeVar("Wrapped", bound=MetricWrapperBase)

# From a tenth of a millisecond, where a small model's queue is, to half a minute, where patience ends.
_SECONDS = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
)  # fmt: skip
_ROWS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128)
_TOKENS = (1, 2, 4, 8, 16, 32, 64, 96, 128, 192, 256, 384, 512, 1024)

# A request whose model is not known must not make a new series for every name somebody tries.
OTHER = "_other"

disable_created_metrics()  # type: ignore[no-untyped-call]


@dataclass(frozen=True, slots=True)
class CallFacts:
    """What is known of one call when its answer is out.

    Attributes:
        method: `package.Service/Method`.
        model: Model that answered, or `OTHER`.
        version: Its version, or "".
        code: gRPC status code, `OK`.
        seconds: From first sight to answer.
        texts: Texts answered.
        tokenize_seconds: Text to tokens.
        queue_seconds: Longest wait of its texts for their first run; None if none ran.
        inference_seconds: Longest time of its texts in runs; None if none ran.
    """

    method: str
    model: str
    version: str
    code: str
    seconds: float
    texts: int = 0
    tokenize_seconds: float | None = None
    queue_seconds: float | None = None
    inference_seconds: float | None = None


class Metrics:
    """Every metric of the server."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        """Register the metrics.

        Args:
            registry: Where; a new one if not given.
        """
        self.registry = registry or CollectorRegistry()
        self._requests = self._counter(
            "headwaiter_requests_total", "Calls answered, by gRPC status code.", "method", "model", "version", "code"
        )
        self._in_flight = self._gauge("headwaiter_requests_in_flight", "Calls that are being answered.", "method")
        self._request_seconds = self._histogram(
            "headwaiter_request_duration_seconds",
            "From first sight of a call to its answer.",
            _SECONDS,
            "method",
            "model",
        )
        self._tokenize_seconds = self._histogram(
            "headwaiter_tokenize_duration_seconds", "Turning the texts of a call into tokens.", _SECONDS, "model"
        )
        self._queue_seconds = self._histogram(
            "headwaiter_queue_duration_seconds",
            "From submission to the first run: of a call with several texts the longest.",
            _SECONDS,
            "model",
        )
        self._inference_seconds = self._histogram(
            "headwaiter_inference_duration_seconds",
            "From the start of the first run to the end of the last: of a call with several texts the longest.",
            _SECONDS,
            "model",
        )
        self._texts = self._counter("headwaiter_texts_total", "Texts answered.", "model")
        self._batch_size = self._histogram("headwaiter_batch_size", "Texts in a run.", _ROWS, "model")
        self._batch_tokens = self._histogram("headwaiter_batch_tokens", "Tokens computed by a run.", _TOKENS, "model")
        self._run_seconds = self._histogram("headwaiter_run_duration_seconds", "Length of one run.", _SECONDS, "model")
        self._tokens = self._counter(
            "headwaiter_tokens_total", "Tokens of texts, read (source) and generated.", "model", "direction"
        )
        self._failures = self._counter("headwaiter_engine_failures_total", "Texts on which the model failed.", "model")
        self._batches = self._counter(
            "headwaiter_batches_total",
            "Runs of texts that are answered at once, by why no more were put into one.",
            "model",
            "reason",
        )
        self._padding_tokens = self._counter(
            "headwaiter_padding_tokens_total", "Tokens computed only to fill rows up to the longest.", "model"
        )
        self._model_info = self._gauge(
            "headwaiter_model_info",
            "Models that are loaded; always 1.",
            "model",
            "version",
            "variant",
            "task",
            "architecture",
        )
        self._calibration = {
            name: self._gauge(f"headwaiter_calibration_{name}", text, "model")
            for name, text in (
                ("budget_tokens", "Most tokens of a run of several texts."),
                ("full_run_seconds", "What a run of so many tokens takes."),
                ("fixed_seconds", "What every run takes, whatever its tokens."),
                ("linear_seconds", "What a run takes for each token."),
                ("quadratic_seconds", "What a run takes for each pair of tokens that attend to each other."),
                ("lone_tokens", "Tokens from which on a run that is alone uses all threads; 0 if none does."),
            )
        }
        self._build_info = self._gauge(
            "headwaiter_build_info",
            "Versions of the server and of what it runs on; always 1.",
            "version",
            "onnxruntime",
        )
        self._children: dict[tuple[int, tuple[str, ...]], MetricWrapperBase] = {}

    def call_started(self, method: str) -> None:
        """Count a call in."""
        self._child(self._in_flight, method).inc()

    def call_finished(self, facts: CallFacts) -> None:
        """Count a call out and record what is known of it: the one place where calls are recorded."""
        self._child(self._in_flight, facts.method).dec()
        self._child(self._requests, facts.method, facts.model, facts.version, facts.code).inc()
        self._child(self._request_seconds, facts.method, facts.model).observe(facts.seconds)
        if facts.texts:
            self._child(self._texts, facts.model).inc(facts.texts)
        for histogram, seconds in (
            (self._tokenize_seconds, facts.tokenize_seconds),
            (self._queue_seconds, facts.queue_seconds),
            (self._inference_seconds, facts.inference_seconds),
        ):
            if seconds is not None:
                self._child(histogram, facts.model).observe(seconds)

    def run_finished(self, model: str, *, seconds: float, rows: int, tokens: int) -> None:
        """Record one run of a model."""
        self._child(self._run_seconds, model).observe(seconds)
        self._child(self._batch_size, model).observe(rows)
        self._child(self._batch_tokens, model).observe(tokens)

    def batch_closed(self, model: str, *, reason: str, padding_tokens: int) -> None:
        """Count a run of texts that are answered at once.

        Args:
            model: Whose run.
            reason: Why it held no more texts.
            padding_tokens: Tokens it computed beyond those of its texts.
        """
        self._child(self._batches, model, reason).inc()
        self._child(self._padding_tokens, model).inc(padding_tokens)

    def tokens(self, model: str, *, source: int, generated: int) -> None:
        """Count tokens read and generated."""
        self._child(self._tokens, model, "source").inc(source)
        self._child(self._tokens, model, "generated").inc(generated)

    def engine_failed(self, model: str) -> None:
        """Count a text on which the model failed."""
        self._child(self._failures, model).inc()

    def model_loaded(self, model: str, version: str, variant: str, task: str, architecture: str) -> None:
        """Describe a model that is loaded."""
        self._child(self._model_info, model, version, variant, task, architecture).set(1)

    def calibrated(self, model: str, **figures: float) -> None:
        """Show how a model runs, by the names of the gauges."""
        for name, figure in figures.items():
            self._child(self._calibration[name], model).set(figure)

    def build(self, version: str, onnxruntime: str) -> None:
        """Describe this server."""
        self._child(self._build_info, version, onnxruntime).set(1)

    def watch(self, name: str, text: str, read: Callable[[], dict[str, float]]) -> None:
        """Add a gauge that is read when it is scraped.

        Args:
            name: Its name.
            text: Its help text.
            read: Its value for each model.
        """
        self.registry.register(_Watched(name, text, read))

    def serve(self, host: str, port: int) -> MetricsEndpoint:
        """Answer scrapes on a port, from threads of its own.

        Args:
            host: Address to listen on.
            port: Port; 0 takes a free one.

        Raises:
            OSError: The port is taken.
        """
        server, thread = start_http_server(port, host, self.registry)

        def close() -> None:
            server.shutdown()
            server.server_close()
            thread.join()

        return MetricsEndpoint(server.server_port, close)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        # The library appends _total itself.
        return Counter(name.removesuffix("_total"), text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(name, text, labels, buckets=buckets, registry=self.registry)

    def _child(self, metric: Wrapped, *labels: str) -> Wrapped:
        # `labels()` takes a lock and checks its arguments every time; this is on every call's path.
        key = (id(metric), labels)
        child = self._children.get(key)
        if child is None:
            child = self._children[key] = metric.labels(*labels)
        return child  # type: ignore[return-value]  # what labels() returns for this metric


@dataclass(frozen=True)
class MetricsEndpoint:
    """A listening metrics server.

    Attributes:
        port: Its port.
        close: Ends it.
    """

    port: int
    close: Callable[[], None]


class _Watched:
    """A gauge with a label `model` that reads its values when asked."""

    def __init__(self, name: str, text: str, read: Callable[[], dict[str, float]]) -> None:
        self._name, self._text, self._read = name, text, read

    def collect(self) -> list[Metric]:
        family = GaugeMetricFamily(self._name, self._text, labels=["model"])
        for model, value in self._read().items():
            family.add_metric([model], value)
        return [family]
