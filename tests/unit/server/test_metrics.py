"""Metrics: their names, which others rely on, and by how much each moves."""

from __future__ import annotations

import re
import subprocess
import urllib.request

import pytest
from headwaiter_server.metrics import OTHER, CallFacts, Metrics
from prometheus_client import generate_latest

METHOD = "headwaiter.v1.InferenceService/Generate"

NAMES = {
    "headwaiter_requests_total": "counter",
    "headwaiter_requests_in_flight": "gauge",
    "headwaiter_request_duration_seconds": "histogram",
    "headwaiter_tokenize_duration_seconds": "histogram",
    "headwaiter_queue_duration_seconds": "histogram",
    "headwaiter_inference_duration_seconds": "histogram",
    "headwaiter_texts_total": "counter",
    "headwaiter_batch_size": "histogram",
    "headwaiter_batch_tokens": "histogram",
    "headwaiter_run_duration_seconds": "histogram",
    "headwaiter_batches_total": "counter",
    "headwaiter_padding_tokens_total": "counter",
    "headwaiter_tokens_total": "counter",
    "headwaiter_engine_failures_total": "counter",
    "headwaiter_calibration_budget_tokens": "gauge",
    "headwaiter_calibration_full_run_seconds": "gauge",
    "headwaiter_calibration_fixed_seconds": "gauge",
    "headwaiter_calibration_linear_seconds": "gauge",
    "headwaiter_calibration_quadratic_seconds": "gauge",
    "headwaiter_calibration_lone_tokens": "gauge",
    "headwaiter_model_info": "gauge",
    "headwaiter_build_info": "gauge",
}


@pytest.fixture
def metrics() -> Metrics:
    """Metrics in a registry of their own."""
    return Metrics()


def facts(code: str = "OK", **more: float) -> CallFacts:
    return CallFacts(METHOD, "m", "1", code, seconds=more.pop("seconds", 0.5), texts=int(more.pop("texts", 0)), **more)


def value(metrics: Metrics, name: str, **labels: str) -> float:
    """The value of a sample, 0 where it does not exist yet."""
    return metrics.registry.get_sample_value(name, labels) or 0.0


def exposed(metrics: Metrics) -> str:
    return generate_latest(metrics.registry).decode()


def everything(metrics: Metrics) -> None:
    """Move every metric."""
    metrics.call_started(METHOD)
    metrics.call_finished(facts(texts=2, tokenize_seconds=0.001, queue_seconds=0.002, inference_seconds=0.003))
    metrics.run_finished("m", seconds=0.01, rows=3, tokens=40)
    metrics.batch_closed("m", reason="budget", padding_tokens=4)
    metrics.tokens("m", source=5, generated=7)
    metrics.engine_failed("m")
    metrics.model_loaded("m", "1", "fp32", "generate", "transformer")
    metrics.calibrated("m", budget_tokens=128, full_run_seconds=0.04, fixed_seconds=0.001, linear_seconds=0.0003)
    metrics.build("0.1.0", "1.22")
    metrics.watch("headwaiter_queue_depth", "Texts that wait for their first run.", lambda: {"m": 4.0})


def test_names_and_types_are_those_others_rely_on(metrics: Metrics) -> None:
    """Dashboards and alerts go by these names: none is lost, renamed or of another type."""
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", exposed(metrics), re.MULTILINE))
    assert types == NAMES


def test_every_metric_has_a_help_text(metrics: Metrics) -> None:
    """A person who finds a metric reads there what it counts, in a sentence."""
    texts = dict(re.findall(r"^# HELP (\S+) (.*)$", exposed(metrics), re.MULTILINE))
    assert texts.keys() == NAMES.keys()
    assert all(text.endswith(".") for text in texts.values())


def test_promtool_has_nothing_to_say(metrics: Metrics) -> None:
    """Prometheus's own linter finds no fault with names, units, types and help texts."""
    everything(metrics)
    subject = generate_latest(metrics.registry)
    assert subject.count(b"\n") > 50
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
    metrics.call_finished(facts(seconds=0.25, tokenize_seconds=0.0001, queue_seconds=0.03, inference_seconds=40.0))
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
    assert not re.search(r"^headwaiter_(tokenize|queue|inference|texts)_\S*\{", text, re.MULTILINE)


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


def test_batches_are_counted_by_why_they_were_closed_and_padding_adds_up(metrics: Metrics) -> None:
    """How often runs are full, and what padding costs, can be told."""
    for reason, padding in (("budget", 5), ("budget", 0), ("empty", 7)):
        metrics.batch_closed("m", reason=reason, padding_tokens=padding)
    assert value(metrics, "headwaiter_batches_total", model="m", reason="budget") == 2
    assert value(metrics, "headwaiter_batches_total", model="m", reason="empty") == 1
    assert value(metrics, "headwaiter_padding_tokens_total", model="m") == 12


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
    assert value(metrics, "headwaiter_build_info", version="0.1.0", onnxruntime="1.22") == 1


def test_watched_gauges_are_read_at_each_scrape(metrics: Metrics) -> None:
    """A watched gauge shows what is true when it is asked, for each model, and forgets models that are gone."""
    depths = {"a": 1.0, "b": 2.0}
    metrics.watch("headwaiter_queue_depth", "Texts that wait.", lambda: depths)
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


def test_endpoint_answers_scrapes_until_it_is_closed(metrics: Metrics) -> None:
    """The metrics are served on a free port, and the port is given back."""
    everything(metrics)
    endpoint = metrics.serve("127.0.0.1", 0)
    url = f"http://127.0.0.1:{endpoint.port}/metrics"
    try:
        with urllib.request.urlopen(url, timeout=10) as response:
            assert b"headwaiter_engine_failures_total" in response.read()
    finally:
        endpoint.close()
    metrics.serve("127.0.0.1", endpoint.port).close()
