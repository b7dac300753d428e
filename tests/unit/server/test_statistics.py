"""What a model has done: which calls count, as what, and where their time is said to have gone."""

from __future__ import annotations

import time
from typing import Any, cast

import grpc
import pytest
from headwaiter_proto.inference import grpc_service_pb2
from headwaiter_proto.v1 import bundle_pb2
from headwaiter_server.errors import InvalidRequestError, UnknownModelError
from headwaiter_server.lifecycle.catalog import Catalog, ServedModel
from headwaiter_server.metrics import Metrics
from headwaiter_server.pipeline import Pipeline
from headwaiter_server.rpc.crossing import Crossing
from headwaiter_server.rpc.open_inference.statistics import Statistics
from headwaiter_server.scheduling.calls import Terms

METHOD = "inference.GRPCInferenceService/ModelInfer"
STAGES = ("compute_input", "queue", "compute_infer", "compute_output")


def served(name: str = "m", version: int = 1) -> ServedModel:
    nothing = cast("Any", None)
    return ServedModel(name, version, "fp32", bundle_pb2.Manifest(), nothing, nothing)


def call(
    model: ServedModel,
    *,
    rows: int = 1,
    code: grpc.StatusCode = grpc.StatusCode.OK,
    ran: bool = True,
    hits: int = 0,
    misses: int = 0,
) -> None:
    """A call that arrives at 10, waits from 11 on, runs from 13 to 16, and is over at 20."""
    crossing = Crossing(Terms(10.0))
    crossing.recognize(model, rows)
    trail = crossing.terms.trail
    trail.read(10.25, 10.5, 3)
    trail.cache_hits, trail.cache_misses = hits, misses
    if ran:
        trail.submitted = 11.0
        trail.began(13.0, 1)
        trail.began(14.0, 2)
        trail.answered = 16.0
    crossing.finish(METHOD, code, 20.0, Metrics())


async def statistics(*models: ServedModel, name: str = "", version: str = "") -> list[grpc_service_pb2.ModelStatistics]:
    """What is told of models."""
    catalog = Catalog()
    for each in models:
        catalog.add(each)
    nothing = cast("Any", None)
    method = Statistics(Pipeline(catalog, nothing, Metrics(), 100)).methods()["ModelStatistics"]
    request = grpc_service_pb2.ModelStatisticsRequest(name=name, version=version)
    data = await method(request.SerializeToString(), nothing, Crossing(Terms(0.0)))
    return list(grpc_service_pb2.ModelStatisticsResponse.FromString(data).model_stats)


def told(message: grpc_service_pb2.ModelStatistics) -> dict[str, tuple[int, float]]:
    """Counts and seconds that are not zero, by name."""
    return {field.name: (value.count, value.ns / 1e9) for field, value in message.inference_stats.ListFields()}


async def test_time_of_an_answered_call_is_shared_out_whole() -> None:
    """Reading, waiting, running and answering together are all of it; each is counted once for the call."""
    model = served()
    call(model)
    call(model, rows=5)
    (message,) = await statistics(model)
    assert told(message) == {
        "success": (2, 20.0),
        "fail": (0, 0.0),
        "compute_input": (2, 2.0),
        "queue": (2, 4.0),
        "compute_infer": (2, 6.0),
        "compute_output": (2, 8.0),
        "cache_hit": (0, 0.0),
        "cache_miss": (0, 0.0),
    }
    assert sum(told(message)[stage][1] for stage in STAGES) == told(message)["success"][1]


async def test_rows_and_requests_are_counted_apart() -> None:
    """A call of five rows is one request and five inferences."""
    model = served()
    call(model, rows=5)
    call(model, rows=2)
    (message,) = await statistics(model)
    assert (message.inference_count, message.inference_stats.success.count) == (7, 2)


@pytest.mark.parametrize("code", [each for each in grpc.StatusCode if each is not grpc.StatusCode.OK])
async def test_failed_calls_count_as_failed_and_nothing_else(code: grpc.StatusCode) -> None:
    """However they fail, and however far they came."""
    model = served()
    call(model, code=code, rows=3)
    call(model, code=code, ran=False)
    (message,) = await statistics(model)
    assert told(message)["fail"] == (2, 20.0)
    assert not any(count for name, (count, _) in told(message).items() if name != "fail")
    assert message.inference_count == 0


async def test_calls_that_ask_for_no_inference_do_not_count() -> None:
    """Questions about a model, and texts to tokens."""
    model = served()
    call(model, rows=0)
    call(model, rows=0, code=grpc.StatusCode.INVALID_ARGUMENT)
    (message,) = await statistics(model)
    assert message.last_inference == 0
    assert not any(count for count, _ in told(message).values())


async def test_calls_of_no_model_do_not_count() -> None:
    """A call that was refused before its model was known is nobody's."""
    Crossing(Terms(1.0)).finish(METHOD, grpc.StatusCode.UNAVAILABLE, 2.0, Metrics())


async def test_remembered_call_is_a_hit_with_all_its_time() -> None:
    """It was answered, it did not wait, the model did not run: no row of it is an inference."""
    model = served()
    call(model, rows=3, ran=False, hits=3)
    (message,) = await statistics(model)
    counted = {name: value for name, value in told(message).items() if value != (0, 0.0)}
    assert counted == {"success": (1, 10.0), "queue": (1, 0.0), "cache_hit": (1, 10.0)}
    assert message.inference_count == 0


async def test_call_remembered_in_part_is_a_miss() -> None:
    """Its rows that ran are inferences; looking for them took from when they were tokens to when they waited."""
    model = served()
    call(model, rows=3, hits=2, misses=1)
    (message,) = await statistics(model)
    assert told(message)["cache_miss"] == (1, 0.5)
    assert told(message)["cache_hit"] == (0, 0.0)
    assert message.inference_count == 1


async def test_counts_of_the_stages_are_equal() -> None:
    """Tools divide one by another: of hits, misses and plain calls, the computed are those that ran."""
    model = served()
    call(model)
    call(model, rows=2, hits=1, misses=1)
    call(model, ran=False, hits=1)
    call(model, code=grpc.StatusCode.INTERNAL)
    (message,) = await statistics(model)
    counts = told(message)
    assert [counts[stage][0] for stage in ("compute_input", "compute_infer", "compute_output")] == [2, 2, 2]
    assert counts["queue"][0] == counts["success"][0] == 3


async def test_runs_are_told_by_their_rows() -> None:
    """Smallest first; together they are the executions."""
    model = served()
    for rows, seconds in ((4, 1.0), (1, 0.25), (4, 2.0)):
        model.counts.ran(rows, seconds)
    (message,) = await statistics(model)
    assert message.execution_count == 3
    shown = [(each.batch_size, each.compute_infer.count, each.compute_infer.ns) for each in message.batch_stats]
    assert shown == [(1, 1, 250_000_000), (4, 2, 3_000_000_000)]
    for each in message.batch_stats:
        assert each.compute_input.count == each.compute_output.count == each.compute_infer.count


async def test_last_inference_is_told_in_milliseconds_since_1970() -> None:
    """Of the last call, whether it was answered or not."""
    model = served()
    before = time.time()
    call(model, code=grpc.StatusCode.INTERNAL)
    (message,) = await statistics(model)
    assert before * 1e3 - 1 <= message.last_inference <= time.time() * 1e3 + 1


async def test_versions_are_counted_apart_and_asked_for_by_name_and_version() -> None:
    """Nothing named is everything; a name is all its versions; a version is those that have it."""
    models = [served("a", 1), served("a", 2), served("b", 2)]
    call(models[1])

    async def asked(name: str, version: str) -> list[tuple[str, str, int]]:
        found = await statistics(*models, name=name, version=version)
        return [(each.name, each.version, each.inference_count) for each in found]

    assert await asked("", "") == [("a", "1", 0), ("a", "2", 1), ("b", "2", 0)]
    assert await asked("a", "") == [("a", "1", 0), ("a", "2", 1)]
    assert await asked("a", "1") == [("a", "1", 0)]
    assert await asked("", "2") == [("a", "2", 1), ("b", "2", 0)]


async def test_what_is_not_there_is_told() -> None:
    """Unknown names and versions are NOT_FOUND, versions that are no numbers are the caller's mistake."""
    for name, version in (("n", ""), ("m", "2")):
        with pytest.raises(UnknownModelError):
            await statistics(served(), name=name, version=version)
    with pytest.raises(InvalidRequestError, match="version"):
        await statistics(served(), name="m", version="x")


async def test_model_that_is_loaded_again_begins_anew() -> None:
    """Counts belong to what was loaded, not to its name; late calls of what was replaced do not count for the new."""
    old, new = served(), served()
    call(old)
    (message,) = await statistics(new)
    assert message.inference_count == 0
    assert old.counts is not new.counts
