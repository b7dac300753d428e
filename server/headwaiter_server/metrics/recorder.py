"""Records what the server does. Every number is added to on the event loop, and read from anywhere."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import Metric

from headwaiter_server.config import DEFAULT_SLO_SECONDS
from headwaiter_server.metrics import definitions
from headwaiter_server.metrics.answered import AnsweredCalls
from headwaiter_server.metrics.definitions import Definition
from headwaiter_server.metrics.series import Histograms, LabelValues, Numbers, metric_of

# What a watched metric says when it is asked: its value or, of one with a label such as `model`, its value for each.
Reading = float | Mapping[str, float]


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
        deadline_met: Whether it was answered in the time it had; None if it had no deadline, or ended by neither.
        trace_id: Of the trace that it is a sampled part of, in hexadecimal; None if there is none.
        client: Who called; None where that is not asked.
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
    deadline_met: bool | None = None
    trace_id: str | None = None
    client: str | None = None


class Metrics:
    """Every metric of the server.

    The public families are for reading, those of them that the live page shows; recording goes through the methods, all
    of which are to be called on the event loop unless they say something else.

    Attributes:
        registry: Where they are registered; it is never the library's global one.
        slo_seconds: The configured objective.
    """

    def __init__(self, slo_seconds: float = DEFAULT_SLO_SECONDS) -> None:
        """Register the metrics.

        Args:
            slo_seconds: Time within which calls should be answered; becomes a bound of every duration's buckets.
        """
        self.slo_seconds = slo_seconds
        self._families: dict[str, Numbers | Histograms] = {}
        self._watched: dict[str, Callable[[], Reading]] = {}
        self.requests = AnsweredCalls()
        self._families[definitions.REQUESTS.name] = self.requests
        self.client_requests = self._numbers(definitions.CLIENT_REQUESTS)
        self.requests_started = self._numbers(definitions.REQUESTS_STARTED)
        self.request_seconds = self._histograms(definitions.REQUEST_SECONDS)
        self.tokenize_seconds = self._histograms(definitions.TOKENIZE_SECONDS)
        self.queue_seconds = self._histograms(definitions.QUEUE_SECONDS)
        self.inference_seconds = self._histograms(definitions.INFERENCE_SECONDS)
        self.first_token_seconds = self._histograms(definitions.FIRST_TOKEN_SECONDS)
        self.inter_token_seconds = self._histograms(definitions.INTER_TOKEN_SECONDS)
        self.deadlines = self._numbers(definitions.DEADLINES)
        self.texts = self._numbers(definitions.TEXTS)
        self.tokens_read = self._numbers(definitions.TOKENS_READ)
        self.run_seconds = self._histograms(definitions.RUN_SECONDS)
        self.batch_wait_seconds = self._histograms(definitions.BATCH_WAIT_SECONDS)
        self.batch_size = self._histograms(definitions.BATCH_SIZE)
        self.batch_tokens = self._histograms(definitions.BATCH_TOKENS)
        self.batches = self._numbers(definitions.BATCHES)
        self.computed_tokens = self._numbers(definitions.COMPUTED_TOKENS)
        self.padding_tokens = self._numbers(definitions.PADDING_TOKENS)
        self.generations = self._numbers(definitions.GENERATIONS)
        self.prefill_tokens = self._numbers(definitions.PREFILL_TOKENS)
        self.overhead_seconds = self._numbers(definitions.OVERHEAD_SECONDS)
        self._kv_cache_short = self._numbers(definitions.KV_CACHE_SHORT)
        self._kv_cache_copied_bytes = self._numbers(definitions.KV_CACHE_COPIED_BYTES)
        self.engine_failures = self._numbers(definitions.ENGINE_FAILURES)
        self.cpu_seconds = self._numbers(definitions.CPU_SECONDS)
        self.wasted_cpu_seconds = self._numbers(definitions.WASTED_CPU_SECONDS)
        self._build_info = self._numbers(definitions.BUILD_INFO)
        self._model_info = self._numbers(definitions.MODEL_INFO)
        self._model_load_seconds = self._numbers(definitions.MODEL_LOAD_SECONDS)
        self._model_memory_bytes = self._numbers(definitions.MODEL_MEMORY_BYTES)
        self._model_loads = self._numbers(definitions.MODEL_LOADS)
        self._model_load_failing = self._numbers(definitions.MODEL_LOAD_FAILING)
        self._model_swap_seconds = self._histograms(definitions.MODEL_SWAP_SECONDS)
        self._model_unloads = self._numbers(definitions.MODEL_UNLOADS)
        self._cache_requests = self._numbers(definitions.CACHE_REQUESTS)
        self._calibration = {name: self._numbers(each) for name, each in definitions.CALIBRATION.items()}
        self._numbers(definitions.SLO_SECONDS)[()] = slo_seconds
        self.registry = CollectorRegistry()
        self.registry.register(self)
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)

    def method_offered(self, method: str) -> None:
        """Show a method from the start, so that its first call is seen as a rise from 0."""
        self.requests_started.setdefault((method,), 0.0)

    def call_started(self, method: str) -> None:
        """Count a call in."""
        self.requests_started[(method,)] += 1

    def call_finished(self, facts: CallFacts) -> None:
        """Count a call out and record what is known of it: the one place where calls are recorded."""
        method, model = facts.method, (facts.model,)
        self.requests[(method, facts.model, facts.version, facts.code)] += 1
        self.request_seconds[(method, facts.model)].observe(facts.seconds, facts.trace_id)
        if facts.client is not None:
            self.client_requests[(facts.client, facts.code)] += 1
        if facts.texts:
            self.texts[model] += facts.texts
        if facts.tokenize_seconds is not None:
            self.tokenize_seconds[model].observe(facts.tokenize_seconds)
        if facts.queue_seconds is not None:
            self.queue_seconds[model].observe(facts.queue_seconds, facts.trace_id)
        if facts.inference_seconds is not None:
            self.inference_seconds[model].observe(facts.inference_seconds, facts.trace_id)
        if facts.deadline_met is not None:
            self.deadlines[(facts.model, "true" if facts.deadline_met else "false")] += 1

    def run_finished(
        self,
        model: str,
        *,
        seconds: float,
        rows: int,
        tokens: int,
        padding_tokens: int = 0,
        wait_seconds: float | None = None,
    ) -> None:
        """Record one run of a model.

        Args:
            model: Whose run.
            seconds: Its length.
            rows: Its texts, or rows of tensors.
            tokens: Tokens of its texts; 0 for tensors.
            padding_tokens: Tokens it computed beyond these.
            wait_seconds: From when it could have begun to when it did; None where that is not known.
        """
        key = (model,)
        self.run_seconds[key].observe(seconds)
        self.batch_size[key].observe(rows)
        if tokens:  # tensors have none
            self.batch_tokens[key].observe(tokens)
        self.computed_tokens[key] += tokens + padding_tokens
        self.padding_tokens[key] += padding_tokens
        if wait_seconds is not None:
            self.batch_wait_seconds[key].observe(wait_seconds)

    def batch_closed(self, model: str, *, reason: str) -> None:
        """Count a run of texts that are answered at once, by why it held no more of them."""
        self.batches[(model, reason)] += 1

    def cpu_spent(self, model: str, seconds: float) -> None:
        """Count processor time of a run."""
        self.cpu_seconds[(model,)] += seconds

    def cpu_wasted(self, model: str, *, reason: str, seconds: float) -> None:
        """Count processor time that went into texts of a call that was `cancelled` or has `expired`."""
        self.wasted_cpu_seconds[(model, reason)] += seconds

    def tokens(self, model: str, *, source: int, generated: int) -> None:
        """Count tokens read and generated."""
        self.tokens_read[(model, "source")] += source
        self.tokens_read[(model, "generated")] += generated

    def first_token(self, model: str, seconds: float) -> None:
        """Record how long after its call came in a text got its first generated token."""
        self.first_token_seconds[(model,)].observe(seconds)

    def next_tokens(self, model: str, seconds: float, count: int) -> None:
        """Record how long after the one before it a generated token came, for as many texts as that is true of."""
        self.inter_token_seconds[(model,)].observe(seconds, times=count)

    def iteration_finished(
        self, model: str, *, prefill_tokens: int, overhead_seconds: float, copied_bytes: int, short_of_room: bool
    ) -> None:
        """Record what is special to an iteration of a model that generates, which is recorded as a run as well.

        Args:
            model: Whose iteration.
            prefill_tokens: Tokens of texts that it read.
            overhead_seconds: Part of its time that was not spent in the model.
            copied_bytes: Keys and values that it copied.
            short_of_room: Whether a text was left out that had a row, and no room in the cache.
        """
        key = (model,)
        self.prefill_tokens[key] += prefill_tokens
        self.overhead_seconds[key] += overhead_seconds
        self._kv_cache_copied_bytes[key] += copied_bytes
        self._kv_cache_short[key] += short_of_room

    def generation_ended(self, model: str, finish_reason: str) -> None:
        """Count a text whose generation has ended."""
        self.generations[(model, finish_reason)] += 1

    def engine_failed(self, model: str) -> None:
        """Count a text on which the model failed."""
        self.engine_failures[(model,)] += 1

    def model_loaded(self, model: str, version: str, variant: str, task: str, architecture: str) -> None:
        """Describe a model that serves from now on, in place of its version if that serves already.

        Its counters are shown from the start.
        """
        self.requests.version_came(model, version)
        labels = (model, version, variant, task, architecture)
        self._model_info[labels] = 1
        self._drop_info(model, version, but=labels)
        for family in list(self._families.values()):
            definition = family.definition
            if isinstance(family, Numbers) and definition.kind == "counter" and definition.labels[:1] == ("model",):
                others = definition.labels[1:]
                for value in definition.values[others[0]] if others else ("",):
                    family.setdefault((model, value) if others else (model,), 0.0)

    def load_finished(self, model: str, *, loaded: bool) -> None:
        """Count a load of one version of a model that there is, whatever came of it."""
        for outcome in definitions.MODEL_LOADS.values["outcome"]:
            self._model_loads.setdefault((model, outcome), 0.0)
        self._model_loads[(model, "loaded" if loaded else "failed")] += 1

    def load_failing(self, model: str, *, failing: bool) -> None:
        """Tell whether a version of a model that is to serve could not be loaded."""
        self._model_load_failing[(model,)] = int(failing)

    def load_forgotten(self, model: str) -> None:
        """Tell no more of the loads of a model that is gone, and that does not serve."""
        self._model_load_failing.pop((model,), None)

    def model_swapped(self, model: str, seconds: float) -> None:
        """Record how long after the load of it began a version had taken over from another."""
        self._model_swap_seconds[(model,)].observe(seconds)

    def model_unloaded(self, model: str, version: str) -> None:
        """Count a version out that nobody can call any more and that no other bundle has taken the place of."""
        self._model_unloads[(model,)] += 1
        self._drop_info(model, version)
        self._model_load_seconds.pop((model, version), None)
        if not any(name == model for name, *_ in self._model_info):
            for family in (self._model_memory_bytes, *self._calibration.values()):
                family.pop((model,), None)
        self.requests.version_went(model, version)

    def cache_asked(self, model: str, *, hits: int, misses: int) -> None:
        """Count what was looked for among the remembered answers."""
        self._cache_requests[(model, "hit")] += hits
        self._cache_requests[(model, "miss")] += misses

    def model_cost(self, model: str, version: str, *, load_seconds: float, memory_bytes: int) -> None:
        """Tell what loading a model took: time, and memory by which the process has grown."""
        self._model_load_seconds[(model, version)] = load_seconds
        self._model_memory_bytes[(model,)] = memory_bytes

    def calibrated(self, model: str, **figures: float) -> None:
        """Show how a model runs, by the names of the gauges. May be called on any thread."""
        for name, figure in figures.items():
            self._calibration[name][(model,)] = figure

    def build(self, version: str, onnxruntime: str) -> None:
        """Describe this server."""
        self._build_info[(version, onnxruntime, platform.python_version())] = 1

    def watch(self, definition: Definition, read: Callable[[], Reading]) -> None:
        """Have a gauge or counter without labels, or with one such as `model`, read when it is asked for.

        Args:
            definition: Which one.
            read: Its value, or its values by model; called on other threads than the event loop's.
        """
        self._watched[definition.name] = read

    def reading(self, definition: Definition) -> Reading:
        """What a watched metric says now; 0 while nobody answers for it."""
        read = self._watched.get(definition.name)
        return 0.0 if read is None else read()

    def in_flight(self) -> dict[str, float]:
        """Calls that are being answered, by method."""
        # Finished ones first: of what happens in between, too many are seen in flight rather than fewer than none.
        finished = self.requests.sums()
        started = self.requests_started.copy()
        in_flight = {method: number for (method,), number in started.items()}
        for (method, *_), number in finished.items():
            in_flight[method] -= number
        return in_flight

    def collect(self) -> Iterator[Metric]:
        """Every metric with its samples, in the order of the definitions; for the registry."""
        for definition in definitions.ALL:
            family = self._families.get(definition.name)
            if family is not None:
                yield family.metric()
            elif definition is definitions.REQUESTS_IN_FLIGHT:
                yield metric_of(definition, {(method,): n for method, n in self.in_flight().items()})
            else:
                yield metric_of(definition, self._series(definition))

    def _series(self, definition: Definition) -> dict[LabelValues, float]:
        read = self._watched.get(definition.name)
        if read is None:
            return {}
        reading = read()
        return {(model,): n for model, n in reading.items()} if isinstance(reading, Mapping) else {(): reading}

    def _drop_info(self, model: str, version: str, but: LabelValues = ()) -> None:
        for labels in [each for each in self._model_info if each[:2] == (model, version) and each != but]:
            del self._model_info[labels]

    def _numbers(self, definition: Definition) -> Numbers:
        family = self._families[definition.name] = Numbers(definition)
        return family

    def _histograms(self, definition: Definition) -> Histograms:
        bounds = {*definition.buckets, self.slo_seconds} if definition.unit == "seconds" else definition.buckets
        family = self._families[definition.name] = Histograms(definition, tuple(bounds))
        return family
