"""Metrics: their names, which others rely on, and by how much each moves."""

from __future__ import annotations

import platform
import re
import subprocess
from dataclasses import replace
from functools import partial

import pytest
from headwaiter_server.metrics import OTHER, CallFacts, Metrics, definitions
from headwaiter_server.metrics.recorder import Reading
from prometheus_client import generate_latest

METHOD = "headwaiter.v1.InferenceService/Generate"
TRACE = "0af7651916cd43dd8448eb211c80319c"
WATCHED = (
    definitions.SATURATION,
    definitions.WORKERS,
    definitions.WORKER_BUSY_SECONDS,
    definitions.QUEUE_DEPTH,
    definitions.RUNNING_TEXTS,
    definitions.PREDICTED_WAIT_SECONDS,
    definitions.CALLS_HELD,
    definitions.CALLS_LIMIT,
    definitions.WAITING_TEXTS_HELD,
    definitions.WAITING_TEXTS_LIMIT,
    definitions.EVENT_LOOP_LAG_SECONDS,
    definitions.EVENT_LOOP_TASKS,
    definitions.COST_CORRECTION,
    definitions.MEMORY_LIMIT_BYTES,
    definitions.MODELS_LOADED,
    definitions.GENERATION_ROWS,
    definitions.GENERATION_ROWS_LIMIT,
    definitions.KV_CACHE_BYTES,
    definitions.KV_CACHE_LIMIT_BYTES,
    definitions.CACHE_ENTRIES,
    definitions.CACHE_BYTES,
    definitions.CACHE_LIMIT_BYTES,
    definitions.CACHE_EVICTIONS,
    definitions.ACCESS_RELOAD_FAILING,
    definitions.TLS_CERTIFICATE_EXPIRY,
    definitions.TLS_RELOAD_FAILING,
)

NAMES = {
    "headwaiter_requests_total": "counter",
    "headwaiter_requests_started_total": "counter",
    "headwaiter_requests_in_flight": "gauge",
    "headwaiter_request_duration_seconds": "histogram",
    "headwaiter_tokenize_duration_seconds": "histogram",
    "headwaiter_queue_duration_seconds": "histogram",
    "headwaiter_inference_duration_seconds": "histogram",
    "headwaiter_first_token_duration_seconds": "histogram",
    "headwaiter_inter_token_duration_seconds": "histogram",
    "headwaiter_deadlines_total": "counter",
    "headwaiter_slo_seconds": "gauge",
    "headwaiter_texts_total": "counter",
    "headwaiter_tokens_total": "counter",
    "headwaiter_run_duration_seconds": "histogram",
    "headwaiter_batch_wait_duration_seconds": "histogram",
    "headwaiter_batch_size": "histogram",
    "headwaiter_batch_tokens": "histogram",
    "headwaiter_batches_total": "counter",
    "headwaiter_computed_tokens_total": "counter",
    "headwaiter_padding_tokens_total": "counter",
    "headwaiter_engine_failures_total": "counter",
    "headwaiter_cpu_seconds_total": "counter",
    "headwaiter_wasted_cpu_seconds_total": "counter",
    "headwaiter_generations_total": "counter",
    "headwaiter_prefill_tokens_total": "counter",
    "headwaiter_generation_rows": "gauge",
    "headwaiter_generation_rows_limit": "gauge",
    "headwaiter_kv_cache_bytes": "gauge",
    "headwaiter_kv_cache_limit_bytes": "gauge",
    "headwaiter_kv_cache_short_iterations_total": "counter",
    "headwaiter_kv_cache_copied_bytes_total": "counter",
    "headwaiter_iteration_overhead_seconds_total": "counter",
    "headwaiter_saturation_ratio": "gauge",
    "headwaiter_workers": "gauge",
    "headwaiter_worker_busy_seconds_total": "counter",
    "headwaiter_queue_depth": "gauge",
    "headwaiter_running_texts": "gauge",
    "headwaiter_predicted_wait_seconds": "gauge",
    "headwaiter_calls_held": "gauge",
    "headwaiter_calls_limit": "gauge",
    "headwaiter_waiting_texts_held": "gauge",
    "headwaiter_waiting_texts_limit": "gauge",
    "headwaiter_event_loop_lag_seconds": "gauge",
    "headwaiter_event_loop_tasks": "gauge",
    "headwaiter_build_info": "gauge",
    "headwaiter_model_info": "gauge",
    "headwaiter_model_load_duration_seconds": "gauge",
    "headwaiter_model_loads_total": "counter",
    "headwaiter_model_load_failing": "gauge",
    "headwaiter_model_swap_duration_seconds": "histogram",
    "headwaiter_model_unloads_total": "counter",
    "headwaiter_models_loaded": "gauge",
    "headwaiter_cache_requests_total": "counter",
    "headwaiter_cache_entries": "gauge",
    "headwaiter_cache_bytes": "gauge",
    "headwaiter_cache_limit_bytes": "gauge",
    "headwaiter_cache_evictions_total": "counter",
    "headwaiter_model_memory_bytes": "gauge",
    "headwaiter_memory_limit_bytes": "gauge",
    "headwaiter_tls_certificate_expiry_timestamp_seconds": "gauge",
    "headwaiter_tls_reload_failing": "gauge",
    "headwaiter_cost_correction_ratio": "gauge",
    "headwaiter_calibration_budget_tokens": "gauge",
    "headwaiter_calibration_full_run_seconds": "gauge",
    "headwaiter_calibration_fixed_seconds": "gauge",
    "headwaiter_calibration_linear_seconds": "gauge",
    "headwaiter_calibration_quadratic_seconds": "gauge",
    "headwaiter_calibration_lone_tokens": "gauge",
    "headwaiter_client_requests_total": "counter",
    "headwaiter_access_reload_failing": "gauge",
}


@pytest.fixture
def metrics() -> Metrics:
    """Metrics in a registry of their own."""
    return Metrics()


def facts(code: str = "OK", *, seconds: float = 0.5, texts: int = 0) -> CallFacts:
    return CallFacts(METHOD, "m", "1", code, seconds, texts)


def value(metrics: Metrics, name: str, **labels: str) -> float:
    """The value of a sample, 0 where it does not exist yet."""
    return metrics.registry.get_sample_value(name, labels) or 0.0


def exposed(metrics: Metrics) -> str:
    return generate_latest(metrics.registry).decode()


def everything(metrics: Metrics) -> None:
    """Move every metric."""
    metrics.method_offered(METHOD)
    metrics.call_started(METHOD)
    metrics.call_finished(CallFacts(METHOD, "m", "1", "OK", 0.5, 2, 0.001, 0.002, 0.003, True, TRACE, "ada"))
    metrics.run_finished("m", seconds=0.01, rows=3, tokens=40, padding_tokens=4, wait_seconds=0.0)
    metrics.cpu_spent("m", 0.01)
    metrics.batch_closed("m", reason="budget")
    metrics.cpu_wasted("m", reason="expired", seconds=0.5)
    metrics.tokens("m", source=5, generated=7)
    metrics.first_token("m", 0.02)
    metrics.next_tokens("m", 0.01, 3)
    metrics.iteration_finished("m", prefill_tokens=5, overhead_seconds=0.001, copied_bytes=64, short_of_room=True)
    metrics.generation_ended("m", "stop")
    metrics.engine_failed("m")
    metrics.model_loaded("m", "1", "fp32", "generate", "transformer")
    metrics.model_cost("m", "1", load_seconds=2.5, memory_bytes=1 << 20)
    metrics.load_finished("m", loaded=False)
    metrics.load_failing("m", failing=True)
    metrics.model_swapped("m", 2.5)
    metrics.model_unloaded("m", "0")
    metrics.cache_asked("m", hits=1, misses=1)
    metrics.calibrated("m", **dict.fromkeys(definitions.CALIBRATION, 0.5))
    metrics.build("0.1.0", "1.22")
    for definition in WATCHED:
        reading: Reading = {"m": 4.0} if definition.labels else 4.0
        metrics.watch(definition, partial(identity, reading))


def identity(reading: Reading) -> Reading:
    return reading


def test_names_and_types_are_those_others_rely_on(metrics: Metrics) -> None:
    """Dashboards and alerts go by these names: none is lost, renamed or of another type."""
    types = dict(re.findall(r"^# TYPE (headwaiter_\S+) (\S+)$", exposed(metrics), re.MULTILINE))
    assert types == NAMES


def test_every_metric_can_move(metrics: Metrics) -> None:
    """No metric is defined that nothing records: each has a series when everything has happened once."""
    everything(metrics)
    families = metrics.registry.collect()
    assert [family.name for family in families if family.name.startswith("headwaiter") and not family.samples] == []


def test_what_the_library_tells_of_the_process_is_on_its_page(metrics: Metrics) -> None:
    """docs/metrics.md lists what comes with the library, too, by name, type and labels."""
    told = {}
    for family in metrics.registry.collect():
        if not family.name.startswith("headwaiter_"):
            name = f"{family.name}_total" if family.type == "counter" else family.name
            told[name] = (family.type, tuple(family.samples[0].labels))
    listed = {each.name: (each.kind, each.labels) for each in definitions.PROCESS}
    assert {name: (kind, tuple(sorted(labels))) for name, (kind, labels) in told.items()} == {
        name: (kind, tuple(sorted(labels))) for name, (kind, labels) in listed.items()
    }


def test_every_metric_has_a_help_text(metrics: Metrics) -> None:
    """A person who finds a metric reads there what it counts, in a sentence."""
    texts = dict(re.findall(r"^# HELP (\S+) (.*)$", exposed(metrics), re.MULTILINE))
    own = {name: text for name, text in texts.items() if name.startswith("headwaiter_")}
    assert own.keys() == NAMES.keys()
    assert all(text.endswith(".") for text in own.values())


def test_promtool_has_nothing_to_say(metrics: Metrics) -> None:
    """Prometheus's own linter finds no fault with names, units, types and help texts."""
    everything(metrics)
    subject = generate_latest(metrics.registry)
    assert subject.count(b"\n") > 200
    result = subprocess.run(["promtool", "check", "metrics"], input=subject, capture_output=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")


def test_no_series_tells_when_another_was_created(metrics: Metrics) -> None:
    """The library's own `_created` series, one for each counter and histogram, are left out: nobody reads them."""
    everything(metrics)
    assert "_created" not in exposed(metrics)


def test_calls_are_counted_by_method_model_version_and_code(metrics: Metrics) -> None:
    """Each call adds one under its own labels and to no other."""
    for code in ("OK", "OK", "UNAVAILABLE"):
        metrics.call_started(METHOD)
        metrics.call_finished(facts(code))
    labels = {"method": METHOD, "model": "m", "version": "1"}
    assert value(metrics, "headwaiter_requests_total", **labels, code="OK") == 2
    assert value(metrics, "headwaiter_requests_total", **labels, code="UNAVAILABLE") == 1
    assert value(metrics, "headwaiter_requests_total", **labels, code="INTERNAL") == 0


def test_calls_in_flight_return_to_zero(metrics: Metrics) -> None:
    """Calls count while they are being answered, and not afterwards, however they end."""
    in_flight = []
    metrics.call_started(METHOD)
    metrics.call_started(METHOD)
    in_flight.append(value(metrics, "headwaiter_requests_in_flight", method=METHOD))
    for code in ("OK", "CANCELLED"):
        metrics.call_finished(facts(code))
        in_flight.append(value(metrics, "headwaiter_requests_in_flight", method=METHOD))
    assert in_flight == [2, 1, 0]


def test_times_go_into_their_histograms(metrics: Metrics) -> None:
    """Each time of a call is observed once, in its own histogram, in the bucket where it belongs."""
    metrics.call_started(METHOD)
    times = replace(facts(seconds=0.25), tokenize_seconds=0.0001, queue_seconds=0.03, inference_seconds=40.0)
    metrics.call_finished(times)
    prefix = "headwaiter_request_duration_seconds"
    assert value(metrics, f"{prefix}_sum", method=METHOD, model="m") == 0.25
    assert value(metrics, f"{prefix}_bucket", method=METHOD, model="m", le="0.1") == 0
    assert value(metrics, f"{prefix}_bucket", method=METHOD, model="m", le="0.25") == 1
    for stage, seconds, below, above in (
        ("tokenize", 0.0001, None, "0.0001"),
        ("queue", 0.03, "0.025", "0.05"),
        ("inference", 40.0, "30.0", "+Inf"),
    ):
        name = f"headwaiter_{stage}_duration_seconds"
        assert value(metrics, f"{name}_sum", model="m") == seconds
        assert value(metrics, f"{name}_count", model="m") == 1
        assert below is None or value(metrics, f"{name}_bucket", model="m", le=below) == 0
        assert value(metrics, f"{name}_bucket", model="m", le=above) == 1


def test_stages_a_call_did_not_reach_are_not_observed(metrics: Metrics) -> None:
    """A call that was refused adds no zeros to the times of tokenizing, queueing and running, and no text."""
    metrics.call_started(METHOD)
    metrics.call_finished(CallFacts(METHOD, OTHER, "", "NOT_FOUND", 0.001))
    text = exposed(metrics)
    assert f'headwaiter_requests_total{{code="NOT_FOUND",method="{METHOD}",model="_other",version=""}} 1.0' in text
    assert not re.search(r"^headwaiter_(tokenize|queue|inference|texts|deadlines)_\S*\{", text, re.MULTILINE)


def test_texts_and_tokens_add_up(metrics: Metrics) -> None:
    """Texts and tokens, read and generated, are counted by their number."""
    for texts in (3, 4):
        metrics.call_started(METHOD)
        metrics.call_finished(facts(texts=texts))
        metrics.tokens("m", source=10 * texts, generated=texts)
    assert value(metrics, "headwaiter_texts_total", model="m") == 7
    assert value(metrics, "headwaiter_tokens_total", model="m", direction="source") == 70
    assert value(metrics, "headwaiter_tokens_total", model="m", direction="generated") == 7


def test_runs_are_observed_by_rows_tokens_and_time(metrics: Metrics) -> None:
    """One run is one observation of each of its three sizes."""
    metrics.run_finished("m", seconds=0.5, rows=32, tokens=100)
    metrics.run_finished("m", seconds=0.25, rows=1, tokens=1)
    for name, total in (("run_duration_seconds", 0.75), ("batch_size", 33), ("batch_tokens", 101)):
        assert value(metrics, f"headwaiter_{name}_count", model="m") == 2
        assert value(metrics, f"headwaiter_{name}_sum", model="m") == total
    assert value(metrics, "headwaiter_batch_size_bucket", model="m", le="24.0") == 1
    assert value(metrics, "headwaiter_batch_size_bucket", model="m", le="32.0") == 2


def test_batches_are_counted_by_why_they_were_closed(metrics: Metrics) -> None:
    """How often runs are full can be told."""
    for reason in ("budget", "budget", "empty"):
        metrics.batch_closed("m", reason=reason)
    assert value(metrics, "headwaiter_batches_total", model="m", reason="budget") == 2
    assert value(metrics, "headwaiter_batches_total", model="m", reason="empty") == 1


def test_padding_computed_tokens_processor_time_and_waits_of_runs_add_up(metrics: Metrics) -> None:
    """Computed tokens are those of the texts and their padding; a run whose wait is unknown adds none."""
    metrics.run_finished("m", seconds=1.0, rows=2, tokens=40, padding_tokens=8, wait_seconds=0.001)
    metrics.run_finished("m", seconds=1.0, rows=2, tokens=60)
    for seconds in (0.75, 0.5):
        metrics.cpu_spent("m", seconds)
    assert value(metrics, "headwaiter_computed_tokens_total", model="m") == 108
    assert value(metrics, "headwaiter_padding_tokens_total", model="m") == 8
    assert value(metrics, "headwaiter_batch_tokens_sum", model="m") == 100
    assert value(metrics, "headwaiter_cpu_seconds_total", model="m") == 1.25
    assert value(metrics, "headwaiter_batch_wait_duration_seconds_count", model="m") == 1


def test_wasted_time_is_told_by_what_became_of_the_calls(metrics: Metrics) -> None:
    """Seconds add up for each reason."""
    for reason, seconds in (("cancelled", 0.25), ("cancelled", 0.5), ("expired", 1.0)):
        metrics.cpu_wasted("m", reason=reason, seconds=seconds)
    assert value(metrics, "headwaiter_wasted_cpu_seconds_total", model="m", reason="cancelled") == 0.75
    assert value(metrics, "headwaiter_wasted_cpu_seconds_total", model="m", reason="expired") == 1.0


def test_deadlines_are_met_or_not_or_were_none(metrics: Metrics) -> None:
    """Only calls that a deadline decided on count, each on one side."""
    for met in (True, True, False, None):
        metrics.call_started(METHOD)
        metrics.call_finished(replace(facts(), deadline_met=met))
    assert value(metrics, "headwaiter_deadlines_total", model="m", met="true") == 2
    assert value(metrics, "headwaiter_deadlines_total", model="m", met="false") == 1


def test_generated_tokens_are_timed(metrics: Metrics) -> None:
    """The first token of a text is timed from its call, every other one from the one before, many at a time."""
    metrics.first_token("m", 0.2)
    metrics.next_tokens("m", 0.02, 3)
    assert value(metrics, "headwaiter_first_token_duration_seconds_sum", model="m") == 0.2
    assert value(metrics, "headwaiter_inter_token_duration_seconds_bucket", model="m", le="0.01") == 0
    assert value(metrics, "headwaiter_inter_token_duration_seconds_bucket", model="m", le="0.025") == 3
    assert value(metrics, "headwaiter_inter_token_duration_seconds_sum", model="m") == pytest.approx(0.06)


def test_iterations_add_up(metrics: Metrics) -> None:
    """What each read, copied and took beside the model is summed; those that left a text out are counted."""
    metrics.iteration_finished("m", prefill_tokens=64, overhead_seconds=0.25, copied_bytes=0, short_of_room=True)
    metrics.iteration_finished("m", prefill_tokens=0, overhead_seconds=0.5, copied_bytes=4096, short_of_room=False)
    assert value(metrics, "headwaiter_prefill_tokens_total", model="m") == 64
    assert value(metrics, "headwaiter_iteration_overhead_seconds_total", model="m") == 0.75
    assert value(metrics, "headwaiter_kv_cache_copied_bytes_total", model="m") == 4096
    assert value(metrics, "headwaiter_kv_cache_short_iterations_total", model="m") == 1


def test_generations_are_counted_by_why_they_ended(metrics: Metrics) -> None:
    """Each adds one to its reason; of a model that serves every reason is shown from the start."""
    metrics.model_loaded("m", "1", "fp32", "generate", "gpt2")
    for reason in ("length", "stop", "length"):
        metrics.generation_ended("m", reason)
    name = "headwaiter_generations_total"
    assert [value(metrics, name, model="m", finish_reason=each) for each in ("length", "stop")] == [2, 1]
    assert f'{name}{{finish_reason="end_of_sequence",model="m"}} 0.0' in exposed(metrics)


@pytest.mark.parametrize("slo_seconds", [0.1, 0.15, 60.0])
def test_objective_is_a_bound_of_every_duration(slo_seconds: float) -> None:
    """Calls within the objective can be counted exactly: those that took just so long are, and none beyond."""
    metrics = Metrics(slo_seconds)
    everything(metrics)
    for seconds in (slo_seconds / 2, slo_seconds, slo_seconds * 1.001):
        metrics.call_started(METHOD)
        metrics.call_finished(replace(facts(seconds=seconds), model="other"))
    name = "headwaiter_request_duration_seconds_bucket"
    assert value(metrics, name, method=METHOD, model="other", le=str(slo_seconds)) == 2
    assert value(metrics, "headwaiter_slo_seconds") == slo_seconds
    durations = [name for name, kind in NAMES.items() if kind == "histogram" and name.endswith("_seconds")]
    assert len(durations) == 9
    for name in durations:
        own = definitions.LOAD_SECONDS if name == definitions.MODEL_SWAP_SECONDS.name else definitions.SECONDS
        bounds = re.findall(rf'^{name}_bucket\{{le="([^"]+)",.*model="m"', exposed(metrics), re.MULTILINE)
        assert [float(bound) for bound in bounds] == sorted({*own, slo_seconds, float("inf")})


def test_counters_of_a_loaded_model_begin_at_zero(metrics: Metrics) -> None:
    """The first event is seen as a rise from 0: of every method, and of a model for every value its labels can have."""
    metrics.method_offered(METHOD)
    metrics.model_loaded("m", "1", "fp32", "generate", "transformer")
    for definition in definitions.ALL:
        if definition.kind != "counter" or definition.labels[:1] != ("model",):
            continue
        label = definition.labels[1:]
        for told in definition.values[label[0]] if label else ("",):
            labels = {"model": "m", **dict.fromkeys(label, told)}
            assert metrics.registry.get_sample_value(definition.name, labels) == 0, definition.name
    assert metrics.registry.get_sample_value("headwaiter_requests_started_total", {"method": METHOD}) == 0
    assert metrics.registry.get_sample_value("headwaiter_requests_in_flight", {"method": METHOD}) == 0


def test_loading_again_does_not_set_counters_back(metrics: Metrics) -> None:
    """A model that is loaded a second time, as another version, goes on counting."""
    metrics.tokens("m", source=3, generated=0)
    metrics.model_loaded("m", "2", "fp32", "generate", "transformer")
    assert value(metrics, "headwaiter_tokens_total", model="m", direction="source") == 3


def test_failures_of_the_engine_are_counted_by_model(metrics: Metrics) -> None:
    """Each text on which a model failed adds one to that model's count."""
    for model in ("a", "b", "a"):
        metrics.engine_failed(model)
    assert value(metrics, "headwaiter_engine_failures_total", model="a") == 2
    assert value(metrics, "headwaiter_engine_failures_total", model="b") == 1


def test_info_metrics_are_one(metrics: Metrics) -> None:
    """Models and versions are told as labels of a 1."""
    everything(metrics)
    labels = {"model": "m", "version": "1", "variant": "fp32", "task": "generate", "architecture": "transformer"}
    assert value(metrics, "headwaiter_model_info", **labels) == 1
    python = platform.python_version()
    assert value(metrics, "headwaiter_build_info", version="0.1.0", onnxruntime="1.22", python=python) == 1


def test_what_loading_took_is_told(metrics: Metrics) -> None:
    """Time for each version, memory for the model."""
    metrics.model_cost("m", "3", load_seconds=2.5, memory_bytes=5000)
    assert value(metrics, "headwaiter_model_load_duration_seconds", model="m", version="3") == 2.5
    assert value(metrics, "headwaiter_model_memory_bytes", model="m") == 5000


def test_watched_gauges_are_read_at_each_scrape(metrics: Metrics) -> None:
    """A watched gauge shows what is true when it is asked, for each model, and forgets models that are gone."""
    depths = {"a": 1.0, "b": 2.0}
    metrics.watch(definitions.QUEUE_DEPTH, lambda: depths)
    assert value(metrics, "headwaiter_queue_depth", model="b") == 2
    depths["b"] = 5.0
    assert value(metrics, "headwaiter_queue_depth", model="b") == 5
    del depths["a"]
    assert metrics.registry.get_sample_value("headwaiter_queue_depth", {"model": "a"}) is None


def test_two_servers_in_one_process_do_not_share_metrics() -> None:
    """Each has its registry: what one counts the other does not see."""
    first, second = Metrics(), Metrics()
    first.engine_failed("m")
    assert value(second, "headwaiter_engine_failures_total", model="m") == 0
