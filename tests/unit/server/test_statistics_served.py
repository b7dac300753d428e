"""What a whole server tells of a model that it has loaded, warmed up and answered with; in the test's own process."""

from __future__ import annotations

import shutil
from pathlib import Path

import grpc
from headwaiter_proto.inference import grpc_service_pb2
from headwaiter_proto.v1 import inference_pb2

from .served import ask, serving


async def statistics(channel: grpc.aio.Channel) -> dict[str, grpc_service_pb2.ModelStatistics]:
    """Of the versions of its only model."""
    answer = await ask(channel, "ModelStatistics", grpc_service_pb2.ModelStatisticsRequest())
    return {each.version: each for each in grpc_service_pb2.ModelStatisticsResponse.FromString(answer).model_stats}


async def embed(channel: grpc.aio.Channel, *texts: str, version: int = 0) -> None:
    request = inference_pb2.EmbedRequest(texts=texts, version=version)
    await ask(channel, "Embed", request, service="headwaiter.v1.InferenceService")


async def test_loading_calibrating_and_warming_up_count_as_nothing(tmp_path: Path) -> None:
    """Before the first call there was no request, no inference, no run."""
    async with serving(tmp_path) as channel:
        told = (await statistics(channel))["1"]
        assert told.name == "small"
        assert (told.inference_count, told.execution_count, len(told.batch_stats)) == (0, 0, 0)
        assert all(stage.count == stage.ns == 0 for _, stage in told.inference_stats.ListFields())


async def test_rows_requests_and_runs_of_one_caller(tmp_path: Path) -> None:
    """Three calls of five texts in all: three requests, five inferences, three runs."""
    async with serving(tmp_path) as channel:
        for texts in (("w1",), ("w1 w2", "w3"), ("w2", "w4")):
            await embed(channel, *texts)
        told = (await statistics(channel))["1"]
        assert told.inference_stats.success.count == 3
        assert told.inference_count == 5
        assert told.execution_count == 3
        assert {each.batch_size: each.compute_infer.count for each in told.batch_stats} == {1: 1, 2: 2}


async def test_remembered_rows_are_no_inferences(tmp_path: Path) -> None:
    """A call of known texts is a hit, one with a new text is a miss and an inference of that text alone."""
    async with serving(tmp_path, cache_bytes=1 << 20) as channel:
        for texts in (("w1", "w2"), ("w2", "w1"), ("w1", "w3")):
            await embed(channel, *texts)
        told = (await statistics(channel))["1"]
        stages = told.inference_stats
        assert (stages.success.count, stages.cache_hit.count, stages.cache_miss.count) == (3, 1, 2)
        assert (stages.compute_infer.count, stages.queue.count) == (2, 3)
        assert told.inference_count == 3
        assert {each.batch_size: each.compute_infer.count for each in told.batch_stats} == {2: 1, 1: 1}
        assert stages.cache_hit.ns > 0


async def test_versions_are_counted_apart(tmp_path: Path) -> None:
    """Two versions serve: each has its own calls and its own runs, and without a version the highest has them."""
    async with serving(tmp_path, versions=(1, 2), version_policy="all") as channel:
        for version in (1, 1, 2, 0):
            await embed(channel, "w1", "w2", version=version)
        told = await statistics(channel)
        assert {version: each.inference_count for version, each in told.items()} == {"1": 4, "2": 4}
        assert {version: each.execution_count for version, each in told.items()} == {"1": 2, "2": 2}


async def test_what_takes_over_begins_anew(tmp_path: Path) -> None:
    """A version that was swapped in has done nothing yet, and of the one that went nothing is told."""
    async with serving(tmp_path) as channel:
        await embed(channel, "w1")
        small = tmp_path / "models" / "small"
        shutil.copytree(small / "1", small / ".2")
        (small / ".2").rename(small / "2")
        request = grpc_service_pb2.RepositoryModelLoadRequest(model_name="small")
        await ask(channel, "RepositoryModelLoad", request)
        told = await statistics(channel)
        assert {version: each.inference_count for version, each in told.items()} == {"2": 0}
        await embed(channel, "w1")
        told = await statistics(channel)
        assert {version: each.inference_count for version, each in told.items()} == {"2": 1}
