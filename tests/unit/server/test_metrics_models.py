"""What is told of models that come and go: of each load, swap and unload, and of versions that are gone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from headwaiter_server.metrics import CallFacts, Metrics, definitions
from headwaiter_server.metrics.answered import MOST_GONE
from headwaiter_server.metrics.sampling import Sampler

METHOD = "inference.GRPCInferenceService/ModelInfer"


@pytest.fixture
def metrics() -> Metrics:
    """Metrics in a registry of their own."""
    return Metrics()


def series(metrics: Metrics, name: str, **labels: str) -> dict[tuple[str, ...], float]:
    """The samples of a metric that have these labels, by the values of their others."""
    found: Iterator[tuple[tuple[str, ...], float]] = (
        (tuple(value for label, value in sample.labels.items() if label not in labels), sample.value)
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )
    return dict(found)


def serve(metrics: Metrics, version: str, *, variant: str = "fp32", calls: int = 0) -> None:
    metrics.model_loaded("m", version, variant, "embed", "bert")
    metrics.model_cost("m", version, load_seconds=1.0, memory_bytes=100)
    for _ in range(calls):
        metrics.call_started(METHOD)
        metrics.call_finished(CallFacts(METHOD, "m", version, "OK", 0.1, 1))


def test_loads_are_counted_by_what_came_of_them(metrics: Metrics) -> None:
    """Each adds one to its outcome."""
    for loaded in (True, False, False, True):
        metrics.load_finished("m", loaded=loaded)
    assert series(metrics, "headwaiter_model_loads_total", model="m") == {("loaded",): 2, ("failed",): 2}


def test_first_load_shows_both_outcomes(metrics: Metrics) -> None:
    """So that a model's first failure is a rise from 0."""
    metrics.load_finished("m", loaded=True)
    assert series(metrics, "headwaiter_model_loads_total", model="m") == {("loaded",): 1, ("failed",): 0}


def test_model_is_failing_until_a_load_of_it_succeeds(metrics: Metrics) -> None:
    """Whatever the loads before."""
    told = []
    for failing in (False, True, True, False):
        metrics.load_failing("m", failing=failing)
        told.append(series(metrics, "headwaiter_model_load_failing", model="m")[()])
    assert told == [0, 1, 1, 0]


def test_swaps_are_timed(metrics: Metrics) -> None:
    """Each swap is an observation."""
    for seconds in (0.05, 20.0, 1000.0):
        metrics.model_swapped("m", seconds)
    assert series(metrics, "headwaiter_model_swap_duration_seconds_sum") == {("m",): 1020.05}
    buckets = series(metrics, "headwaiter_model_swap_duration_seconds_bucket", model="m")
    assert (buckets[("0.1",)], buckets[("30.0",)], buckets[("600.0",)], buckets[("+Inf",)]) == (1, 2, 2, 3)


def test_unloaded_version_is_told_of_no_more(metrics: Metrics) -> None:
    """It is not loaded, did not take long to load, and has no memory; the other version still does."""
    serve(metrics, "1")
    serve(metrics, "2")
    metrics.calibrated("m", budget_tokens=128)
    metrics.model_unloaded("m", "1")
    assert series(metrics, "headwaiter_model_info", model="m") == {("2", "fp32", "embed", "bert"): 1}
    assert series(metrics, "headwaiter_model_load_duration_seconds", model="m") == {("2",): 1.0}
    assert series(metrics, "headwaiter_model_memory_bytes") == {("m",): 100}
    metrics.model_unloaded("m", "2")
    for gone in ("model_info", "model_load_duration_seconds", "model_memory_bytes", "calibration_budget_tokens"):
        assert series(metrics, f"headwaiter_{gone}") == {}
    assert series(metrics, "headwaiter_model_unloads_total") == {("m",): 2}


def test_bundle_in_place_of_its_version_is_described_anew(metrics: Metrics) -> None:
    """A version that is loaded again in another variant is not there twice."""
    serve(metrics, "1")
    serve(metrics, "1", variant="int8")
    assert series(metrics, "headwaiter_model_info", model="m") == {("1", "int8", "embed", "bert"): 1}


def test_a_thousand_versions_leave_a_few_series(metrics: Metrics) -> None:
    """Calls of a version that is gone are told of for a while, then only in sums: nothing grows, nothing is lost."""
    sampler = Sampler(metrics)
    for number in range(1000):
        serve(metrics, str(number), calls=2)
        metrics.model_unloaded("m", str(number))
    told = series(metrics, definitions.REQUESTS.name, method=METHOD, model="m")
    assert sorted(told) == sorted((str(number), "OK") for number in range(1000 - MOST_GONE, 1000))
    assert series(metrics, "headwaiter_requests_in_flight") == {(METHOD,): 0}
    assert sampler.take().models["m"].calls == 2000


def test_version_that_comes_back_goes_on_counting(metrics: Metrics) -> None:
    """A counter of a version that was unloaded and loaded again is never set back while it serves."""
    serve(metrics, "1", calls=3)
    metrics.model_unloaded("m", "1")
    serve(metrics, "1", calls=2)
    for number in range(2 * MOST_GONE):
        serve(metrics, f"1{number}")
        metrics.model_unloaded("m", f"1{number}")
    assert series(metrics, definitions.REQUESTS.name, version="1", code="OK") == {(METHOD, "m"): 5}


def test_hits_and_misses_of_the_cache_are_counted(metrics: Metrics) -> None:
    """Each text that was looked for is a hit or a miss."""
    metrics.cache_asked("m", hits=3, misses=1)
    metrics.cache_asked("m", hits=0, misses=4)
    assert series(metrics, "headwaiter_cache_requests_total", model="m") == {("hit",): 3, ("miss",): 5}


def test_nothing_is_told_of_a_cache_that_is_off(metrics: Metrics) -> None:
    """Sizes that nobody answers for have no series."""
    for name in ("entries", "bytes", "limit_bytes", "evictions_total"):
        assert series(metrics, f"headwaiter_cache_{name}") == {}
