"""Every metric of the server, as data: the only list of their names, and what docs/metrics.md is made from."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["counter", "gauge", "histogram"]

# From a tenth of a millisecond, where a small model's queue is, to half a minute, where patience ends. The configured
# objective is added as a further bound, so that calls within it can be counted exactly.
SECONDS = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
)  # fmt: skip
# Reading and calibrating a model takes from a moment to minutes.
LOAD_SECONDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
ROWS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128)
TOKENS = (1, 2, 4, 8, 16, 32, 64, 96, 128, 192, 256, 384, 512, 1024, 2048, 4096, 8192)

# A request whose model is not known must not make a new series for every name somebody tries.
OTHER = "_other"


@dataclass(frozen=True)
class Definition:
    """One metric.

    Attributes:
        name: As it is scraped; of a histogram without `_bucket`, `_count` and `_sum`.
        kind: Its type.
        text: What it tells, in a sentence.
        labels: What its series differ in.
        unit: What its values count.
        buckets: Bounds of a histogram's buckets.
        values: Of labels with a few fixed values, those values.
    """

    name: str
    kind: Kind
    text: str
    labels: tuple[str, ...] = ()
    unit: str = ""
    buckets: tuple[float, ...] = ()
    values: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def _counter(
    name: str, text: str, *labels: str, unit: str, values: Mapping[str, tuple[str, ...]] | None = None
) -> Definition:
    return Definition(f"headwaiter_{name}", "counter", text, labels, unit, values=values or {})


def _gauge(name: str, text: str, *labels: str, unit: str) -> Definition:
    return Definition(f"headwaiter_{name}", "gauge", text, labels, unit)


def _duration(name: str, text: str, *labels: str) -> Definition:
    return Definition(f"headwaiter_{name}", "histogram", text, labels, "seconds", SECONDS)


# Calls: methods are those of the services, models those that are loaded, or `_other`.
REQUESTS = _counter(
    "requests_total", "Calls answered, by gRPC status code.", "method", "model", "version", "code", unit="calls"
)
REQUESTS_STARTED = _counter("requests_started_total", "Calls that came in.", "method", unit="calls")
REQUESTS_IN_FLIGHT = _gauge(
    "requests_in_flight", "Calls that are being answered: those that came in less those answered.", "method",
    unit="calls",
)  # fmt: skip
REQUEST_SECONDS = _duration("request_duration_seconds", "From first sight of a call to its answer.", "method", "model")
TOKENIZE_SECONDS = _duration(
    "tokenize_duration_seconds", "Turning the texts of a call into tokens; of calls answered with OK.", "model"
)
QUEUE_SECONDS = _duration(
    "queue_duration_seconds",
    "From submission to the first run: of a call with several texts the longest. Of calls answered with OK.",
    "model",
)
INFERENCE_SECONDS = _duration(
    "inference_duration_seconds",
    "From the start of the first run to the end of the last: of a call with several texts the longest. Of calls "
    "answered with OK.",
    "model",
)
FIRST_TOKEN_SECONDS = _duration(
    "first_token_duration_seconds", "From the arrival of a call to the first generated token of a text.", "model"
)
INTER_TOKEN_SECONDS = _duration(
    "inter_token_duration_seconds", "From one generated token of a text to the next.", "model"
)
DEADLINES = _counter(
    "deadlines_total",
    "Calls with a deadline, by whether it was met; those that a deadline had refused count as not met.",
    "model",
    "met",
    unit="calls",
    values={"met": ("true", "false")},
)
SLO_SECONDS = _gauge(
    "slo_seconds", "Time within which calls should be answered, as configured; a bound of every duration's buckets.",
    unit="seconds",
)  # fmt: skip

# Texts, tokens and runs.
TEXTS = _counter("texts_total", "Texts answered.", "model", unit="texts")
TOKENS_READ = _counter(
    "tokens_total",
    "Tokens of texts, read (source) and generated.",
    "model",
    "direction",
    unit="tokens",
    values={"direction": ("source", "generated")},
)
RUN_SECONDS = _duration("run_duration_seconds", "Length of one run; of a generation one step.", "model")
BATCH_WAIT_SECONDS = _duration(
    "batch_wait_duration_seconds",
    "From when a run could have begun, its oldest text there and a worker idle, to when it began.",
    "model",
)
BATCH_SIZE = Definition(
    "headwaiter_batch_size", "histogram", "Texts in a run; of a model of tensors, rows.", ("model",), "texts", ROWS
)
BATCH_TOKENS = Definition(
    "headwaiter_batch_tokens", "histogram", "Tokens of the texts in a run, without padding; tensors have none.",
    ("model",), "tokens",
    TOKENS,
)  # fmt: skip
BATCHES = _counter(
    "batches_total",
    "Runs of texts that are answered at once, by why no more were put into one.",
    "model",
    "reason",
    unit="runs",
    values={"reason": ("budget", "empty", "alone", "deadline", "delay")},
)
COMPUTED_TOKENS = _counter(
    "computed_tokens_total",
    "Tokens that runs computed, padding included; 0 for models of tensors.",
    "model",
    unit="tokens",
)
PADDING_TOKENS = _counter(
    "padding_tokens_total", "Tokens computed only to fill rows up to the longest.", "model", unit="tokens"
)
ENGINE_FAILURES = _counter("engine_failures_total", "Texts on which the model failed.", "model", unit="texts")
CPU_SECONDS = _counter(
    "cpu_seconds_total",
    "Processor time of runs: their thread's time, times the threads of a run.",
    "model",
    unit="seconds",
)
WASTED_CPU_SECONDS = _counter(
    "wasted_cpu_seconds_total",
    "Processor time of tokenizing and of runs that was spent on calls that nobody got an answer to, by what became of "
    "them.",
    "model",
    "reason",
    unit="seconds",
    values={"reason": ("cancelled", "expired")},
)

# Generation.
GENERATIONS = _counter(
    "generations_total",
    "Texts whose generation has ended, by why. Of those that were cancelled, expired or failed, none.",
    "model",
    "finish_reason",
    unit="texts",
    values={"finish_reason": ("end_of_sequence", "length", "stop")},
)
PREFILL_TOKENS = _counter(
    "prefill_tokens_total",
    "Tokens of texts that were read before the first token could be generated: encoded, or read into the cache.",
    "model",
    unit="tokens",
)
GENERATION_ROWS = _gauge(
    "generation_rows", "Rows of running batches that texts have; a beam search has one for each beam.", "model",
    unit="rows",
)  # fmt: skip
GENERATION_ROWS_LIMIT = _gauge("generation_rows_limit", "Rows of all running batches together.", "model", unit="rows")
KV_CACHE_BYTES = _gauge(
    "kv_cache_bytes",
    "Of the memory for keys and values, what the texts that are being generated have reserved.",
    "model",
    unit="bytes",
)
KV_CACHE_LIMIT_BYTES = _gauge("kv_cache_limit_bytes", "What they may reserve of it.", "model", unit="bytes")
KV_CACHE_SHORT = _counter(
    "kv_cache_short_iterations_total",
    "Iterations that began without a text which waited and had a row: its keys and values had no room.",
    "model",
    unit="iterations",
)
KV_CACHE_COPIED_BYTES = _counter(
    "kv_cache_copied_bytes_total", "Keys and values that were copied, for beams and to close gaps.", "model",
    unit="bytes",
)  # fmt: skip
OVERHEAD_SECONDS = _counter(
    "iteration_overhead_seconds_total",
    "Time of iterations that was not spent in the model: choosing tokens, joining and leaving.",
    "model",
    unit="seconds",
)

# How full the server is.
SATURATION = _gauge(
    "saturation_ratio", "Part of the workers' time that was spent on runs in the last 10 seconds, 0 to 1.", unit="ratio"
)
WORKERS = _gauge("workers", "Runs at one time.", unit="workers")
WORKER_BUSY_SECONDS = _counter(
    "worker_busy_seconds_total",
    "Time that workers have spent on runs, summed over the workers, on runs under way up to now.",
    unit="seconds",
)
QUEUE_DEPTH = _gauge(
    "queue_depth",
    "Texts that wait for their first run; those of calls that have ended meanwhile until their turn comes.",
    "model",
    unit="texts",
)
RUNNING_TEXTS = _gauge("running_texts", "Texts in runs under way.", "model", unit="texts")
PREDICTED_WAIT_SECONDS = _gauge(
    "predicted_wait_seconds", "Wait of a text that comes now after all others.", "model", unit="seconds"
)
CALLS_HELD = _gauge("calls_held", "Calls that were admitted and are not answered yet.", unit="calls")
CALLS_LIMIT = _gauge("calls_limit", "Most calls held at one time; further ones are refused.", unit="calls")
WAITING_TEXTS_HELD = _gauge("waiting_texts_held", "Texts of the calls that are held.", unit="texts")
WAITING_TEXTS_LIMIT = _gauge(
    "waiting_texts_limit", "Most texts held at one time; further calls are refused.", unit="texts"
)
EVENT_LOOP_LAG_SECONDS = _gauge(
    "event_loop_lag_seconds",
    "How late the event loop was for its last turn of once a second or, if it is late now, by how much.",
    unit="seconds",
)
EVENT_LOOP_TASKS = _gauge(
    "event_loop_tasks",
    "Asyncio tasks that are not done, counted once a second: a few for each call and stream, and a few of the server's "
    "own.",
    unit="tasks",
)

# What is served, and how it was planned.
BUILD_INFO = _gauge(
    "build_info", "Versions of the server and of what it runs on; always 1.", "version", "onnxruntime", "python",
    unit="",
)  # fmt: skip
MODEL_INFO = _gauge(
    "model_info", "Models that are loaded; always 1.", "model", "version", "variant", "task", "architecture", unit=""
)
MODEL_LOAD_SECONDS = _gauge(
    "model_load_duration_seconds",
    "Loading a model: reading, checking, building, calibrating.",
    "model",
    "version",
    unit="seconds",
)
MODEL_LOADS = _counter(
    "model_loads_total",
    "Loads of models, those at start among them, by what came of them.",
    "model",
    "outcome",
    unit="loads",
    values={"outcome": ("loaded", "failed")},
)
MODEL_LOAD_FAILING = _gauge(
    "model_load_failing",
    "Whether the latest load of a model has failed, of any of the versions that are to serve: 1 if so, else 0.",
    "model",
    unit="",
)
MODEL_SWAP_SECONDS = Definition(
    "headwaiter_model_swap_duration_seconds",
    "histogram",
    "From when the load of what replaces a version that serves began to when it had taken over.",
    ("model",),
    "seconds",
    LOAD_SECONDS,
)
MODEL_UNLOADS = _counter("model_unloads_total", "Versions of models that were unloaded.", "model", unit="versions")
MODELS_LOADED = _gauge("models_loaded", "Versions of models that serve.", unit="versions")
MODEL_MEMORY_BYTES = _gauge(
    "model_memory_bytes", "Memory by which the process grew while the model was loaded.", "model", unit="bytes"
)
MEMORY_LIMIT_BYTES = _gauge(
    "memory_limit_bytes", "Memory that the process may take: the setting, or the container's limit; none without one.",
    unit="bytes",
)  # fmt: skip
COST_CORRECTION = _gauge(
    "cost_correction_ratio", "What runs take, as a multiple of what they were calibrated to.", "model", unit="ratio"
)
CALIBRATION = {
    name: _gauge(f"calibration_{name}", text, "model", unit=unit)
    for name, text, unit in (
        (
            "budget_tokens",
            "Most tokens of a run of several texts; of a model of tensors, rows, as in all of these.",
            "tokens",
        ),
        ("full_run_seconds", "What a run of so many tokens takes.", "seconds"),
        ("fixed_seconds", "What every run takes, whatever its tokens.", "seconds"),
        ("linear_seconds", "What a run takes for each token.", "seconds"),
        (
            "quadratic_seconds",
            "What a run takes for each pair of tokens that attend to each other.",
            "seconds",
        ),
        ("lone_tokens", "Tokens from which on a run that is alone uses all threads; 0 if none does.", "tokens"),
    )
}

# Answers that are remembered.
CACHE_REQUESTS = _counter(
    "cache_requests_total",
    "Texts, or requests of tensors, that were looked for among remembered answers, by whether one was there or on its "
    "way.",
    "model",
    "result",
    unit="texts",
    values={"result": ("hit", "miss")},
)
CACHE_ENTRIES = _gauge("cache_entries", "Answers that are remembered.", unit="answers")
CACHE_BYTES = _gauge("cache_bytes", "Memory that remembered answers take.", unit="bytes")
CACHE_LIMIT_BYTES = _gauge("cache_limit_bytes", "Memory that they may take; none while none are kept.", unit="bytes")
CACHE_EVICTIONS = _counter("cache_evictions_total", "Remembered answers that gave way to newer ones.", unit="answers")

# TLS; the label is grpc or metrics.
TLS_CERTIFICATE_EXPIRY = _gauge(
    "tls_certificate_expiry_timestamp_seconds",
    "When the certificate that a port shows expires, in Unix time; none where it speaks clear text.",
    "listener",
    unit="seconds",
)
TLS_RELOAD_FAILING = _gauge(
    "tls_reload_failing",
    "Whether the files of a port's certificate were changed to what cannot be taken, and the last one is still shown: "
    "1 if so, else 0.",
    "listener",
    unit="",
)

# Who may call.
CLIENT_REQUESTS = _counter(
    "client_requests_total",
    "Calls answered, by the client of the access file that called; none where everybody may.",
    "client",
    "code",
    unit="calls",
)
ACCESS_RELOAD_FAILING = _gauge(
    "access_reload_failing",
    "Whether the access file was changed to what cannot be taken, and what it said before is still in force: 1 if so, "
    "else 0.",
    unit="",
)

# As docs/metrics.md shows them.
GROUPS: Mapping[str, tuple[Definition, ...]] = {
    "Calls": (
        REQUESTS, REQUESTS_STARTED, REQUESTS_IN_FLIGHT, REQUEST_SECONDS, TOKENIZE_SECONDS, QUEUE_SECONDS,
        INFERENCE_SECONDS, FIRST_TOKEN_SECONDS, INTER_TOKEN_SECONDS, DEADLINES, SLO_SECONDS,
    ),
    "Texts, tokens and runs": (
        TEXTS, TOKENS_READ, RUN_SECONDS, BATCH_WAIT_SECONDS, BATCH_SIZE, BATCH_TOKENS, BATCHES, COMPUTED_TOKENS,
        PADDING_TOKENS, ENGINE_FAILURES, CPU_SECONDS, WASTED_CPU_SECONDS,
    ),
    "Generation": (
        GENERATIONS, PREFILL_TOKENS, GENERATION_ROWS, GENERATION_ROWS_LIMIT, KV_CACHE_BYTES, KV_CACHE_LIMIT_BYTES,
        KV_CACHE_SHORT, KV_CACHE_COPIED_BYTES, OVERHEAD_SECONDS,
    ),
    "How full the server is": (
        SATURATION, WORKERS, WORKER_BUSY_SECONDS, QUEUE_DEPTH, RUNNING_TEXTS, PREDICTED_WAIT_SECONDS, CALLS_HELD,
        CALLS_LIMIT, WAITING_TEXTS_HELD, WAITING_TEXTS_LIMIT, EVENT_LOOP_LAG_SECONDS, EVENT_LOOP_TASKS,
    ),
    "Models and versions": (
        BUILD_INFO, MODEL_INFO, MODELS_LOADED, MODEL_LOADS, MODEL_LOAD_FAILING, MODEL_LOAD_SECONDS, MODEL_SWAP_SECONDS,
        MODEL_UNLOADS, MODEL_MEMORY_BYTES, MEMORY_LIMIT_BYTES, COST_CORRECTION, *CALIBRATION.values(),
    ),
    "Remembered answers": (CACHE_REQUESTS, CACHE_ENTRIES, CACHE_BYTES, CACHE_LIMIT_BYTES, CACHE_EVICTIONS),
    "Certificates": (TLS_CERTIFICATE_EXPIRY, TLS_RELOAD_FAILING),
    "Access": (CLIENT_REQUESTS, ACCESS_RELOAD_FAILING),
}  # fmt: skip
ALL: tuple[Definition, ...] = tuple(itertools.chain.from_iterable(GROUPS.values()))

# What the library itself tells of any Python process.
PROCESS: tuple[Definition, ...] = (
    Definition("process_resident_memory_bytes", "gauge", "Memory that the process holds.", unit="bytes"),
    Definition("process_virtual_memory_bytes", "gauge", "Addresses that the process has mapped.", unit="bytes"),
    Definition("process_cpu_seconds_total", "counter", "Processor time of the process.", unit="seconds"),
    Definition("process_start_time_seconds", "gauge", "When the process began, in Unix time.", unit="seconds"),
    Definition("process_open_fds", "gauge", "File descriptors that are open.", unit="descriptors"),
    Definition("process_max_fds", "gauge", "File descriptors that may be open.", unit="descriptors"),
    Definition(
        "python_info",
        "gauge",
        "The interpreter; always 1.",
        ("implementation", "major", "minor", "patchlevel", "version"),
    ),
    Definition(
        "python_gc_collections_total", "counter", "Collections of garbage.", ("generation",), unit="collections"
    ),
    Definition(
        "python_gc_objects_collected_total", "counter", "Objects that they freed.", ("generation",), unit="objects"
    ),
    Definition(
        "python_gc_objects_uncollectable_total",
        "counter",
        "Objects that they could not free.",
        ("generation",),
        unit="objects",
    ),
)
