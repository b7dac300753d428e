"""Models come, go and change while a real server serves: over a real socket, with bundles of small real encoders."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2
from headwaiter_proto.inference import grpc_service_pb2 as inference
from headwaiter_proto.inference.grpc_service_pb2_grpc import GRPCInferenceServiceStub
from headwaiter_proto.v1 import inference_pb2

from benchmarks.swaps_load import Caller, Golden, Seen
from benchmarks.turned_bundle import write_turned_bundle

from .process import ServerProcess, running_server

_EMBED = "/headwaiter.v1.InferenceService/Embed"
_ANSWERED = (
    'headwaiter_requests_total{{code="OK",method="headwaiter.v1.InferenceService/Embed",model="embed",version="{}"}}'
)
_SWAPS = 6
_CALLS_PER_SECOND = 60
_PATIENT_SECONDS = 60.0


@dataclass
class Client:
    """Whoever runs a server."""

    channel: grpc.Channel
    process: ServerProcess

    @property
    def stub(self) -> GRPCInferenceServiceStub:
        return GRPCInferenceServiceStub(self.channel)

    def load(self, *versions: int) -> None:
        """Load the model, as it is configured or in these versions."""
        request = inference.RepositoryModelLoadRequest(model_name="embed")
        if versions:
            policy = {"version_policy": {"specific": {"versions": versions}}}
            request.parameters["config"].string_param = json.dumps(policy)
        self.stub.RepositoryModelLoad(request, timeout=_PATIENT_SECONDS)

    def unload(self) -> None:
        request = inference.RepositoryModelUnloadRequest(model_name="embed")
        request.parameters["unload_dependents"].bool_param = True
        self.stub.RepositoryModelUnload(request, timeout=_PATIENT_SECONDS)

    def index(self, *, ready: bool = False) -> dict[str, tuple[str, str]]:
        """State and reason of each version."""
        response = self.stub.RepositoryIndex(inference.RepositoryIndexRequest(ready=ready))
        return {f"{each.name}:{each.version}": (each.state, each.reason) for each in response.models}

    def version(self, version: int = 0) -> int:
        """Of the model that answers."""
        request = inference_pb2.EmbedRequest(model="embed", version=version, texts=["the soup"])
        embed: grpc.UnaryUnaryMultiCallable[bytes, bytes] = self.channel.unary_unary(_EMBED)
        return inference_pb2.EmbedResponse.FromString(embed(request.SerializeToString(), timeout=20)).version

    def health(self) -> str:
        check: grpc.UnaryUnaryMultiCallable[bytes, bytes] = self.channel.unary_unary("/grpc.health.v1.Health/Check")
        data = check(health_pb2.HealthCheckRequest(service="embed").SerializeToString(), timeout=20)
        status = health_pb2.HealthCheckResponse.FromString(data).status
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(status))


@pytest.fixture
def repository(encoders_dir: Path, tmp_path: Path) -> Path:
    """Two versions of a model, whose answers nobody mistakes for one another."""
    shutil.copytree(encoders_dir / "embed" / "1", tmp_path / "models" / "embed" / "1")
    write_turned_bundle(encoders_dir / "embed" / "1", tmp_path / "models" / "embed" / "2")
    return tmp_path / "models"


@contextmanager
def client_of(repository: Path, *arguments: str) -> Iterator[Client]:
    settings = ("--calibration", "off", "--trial-loads", "off", "--lame-duck-seconds", "0", "--workers", "1")
    with (
        running_server("--models", str(repository), *settings, *arguments) as process,
        grpc.insecure_channel(process.grpc) as channel,
    ):
        yield Client(channel, process)


def until(condition: Callable[[], bool], seconds: float = 120) -> None:
    """Ask again and again."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline


async def swap_under_load(server: ServerProcess, golden: Golden) -> Seen:
    """Have the versions take turns while calls come in, each when the one before has answered some."""

    async def answered(version: int) -> float:
        scraped = await asyncio.to_thread(server.scrape)
        return scraped.get(_ANSWERED.format(version), 0.0)

    async with Caller(server.grpc, "embed", golden) as caller:
        over = asyncio.Event()
        calling = asyncio.create_task(caller.call_until(over, _CALLS_PER_SECOND, seed=1))
        for number in range(_SWAPS):
            version = 1 + number % 2
            before = await answered(version)
            await caller.swap(version)
            while await answered(version) == before:
                assert not calling.done(), calling
                await asyncio.sleep(0.01)
        over.set()
        return await calling


def test_swaps_under_load_fail_nobody(repository: Path) -> None:
    """Every call is answered, and with the golden answer of the version that it names."""
    golden = Golden.of(repository / "embed")
    with client_of(repository) as client:
        seen = asyncio.run(swap_under_load(client.process, golden))
        scraped = client.process.scrape()
    assert seen.codes.keys() == {"OK"}
    assert seen.wrong == 0
    assert seen.versions.keys() == {1, 2}
    assert scraped['headwaiter_model_loads_total{model="embed",outcome="loaded"}'] == 1 + _SWAPS
    assert scraped['headwaiter_model_loads_total{model="embed",outcome="failed"}'] == 0


def test_versions_are_chosen_by_calls(repository: Path) -> None:
    """Back to the version before, both at once, none, and what the settings say again; each in one call."""
    with client_of(repository) as client:
        assert client.version() == 2
        client.load(1)
        assert client.version() == 1
        assert client.index(ready=True) == {"embed:1": ("READY", "")}
        client.load(1, 2)
        assert [client.version(number) for number in (0, 1, 2)] == [2, 1, 2]
        assert client.health() == "SERVING"
        client.unload()
        assert client.health() == "NOT_SERVING"
        assert client.index() == {"embed:1": ("UNAVAILABLE", "unloaded"), "embed:2": ("UNAVAILABLE", "unloaded")}
        with pytest.raises(grpc.RpcError) as refused:
            client.version()
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND
        client.load()
        assert client.version() == 2
        assert client.health() == "SERVING"


def test_failed_load_leaves_the_old_one_serving(repository: Path) -> None:
    """Whoever loads it, the index and the metrics are told why; a version that is mended takes over."""
    broken = repository / "embed" / "3"
    shutil.copytree(repository / "embed" / "1", broken)
    graph = broken / "model.onnx"
    whole = graph.read_bytes()
    with client_of(repository, "--version-policy", "embed=specific:2") as client:
        graph.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(grpc.RpcError) as refused:
            client.load(3)
        assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert "model.onnx was altered" in (refused.value.details() or "")
        assert client.version() == 2
        assert "model.onnx was altered" in client.index()["embed:3"][1]
        scraped = client.process.scrape()
        assert scraped['headwaiter_model_loads_total{model="embed",outcome="failed"}'] == 1
        assert scraped['headwaiter_model_load_failing{model="embed"}'] == 1
        graph.write_bytes(whole)
        client.load(3)
        assert client.version() == 3
        assert client.index()["embed:3"] == ("READY", "")


def test_repository_is_watched(repository: Path, tmp_path: Path) -> None:
    """With poll, what is put there serves, what is taken away gives way; callers cannot load anything then."""
    aside = (repository / "embed" / "2").rename(tmp_path / "2")
    with client_of(repository, "--model-control", "poll", "--poll-seconds", "0.1") as client:
        assert client.version() == 1
        aside.rename(repository / "embed" / "2")
        until(lambda: client.version() == 2)
        shutil.rmtree(repository / "embed" / "2")
        until(lambda: client.version() == 1)
        for operation in (client.load, client.unload):
            with pytest.raises(grpc.RpcError) as refused:
                operation()
            assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
            assert "--model-control is poll" in (refused.value.details() or "")


def test_nothing_is_loaded_by_whoever_comes_along(repository: Path) -> None:
    """Without control callers are told so; the index is there for them all the same."""
    with client_of(repository, "--model-control", "none") as client:
        with pytest.raises(grpc.RpcError) as refused:
            client.load(1)
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert client.index() == {"embed:1": ("UNAVAILABLE", ""), "embed:2": ("READY", "")}


def test_start_without_models(repository: Path) -> None:
    """As Triton's explicit control begins: callers load what they want."""
    with client_of(repository, "--load-models", "") as client:
        assert client.process.models == ""
        assert client.index(ready=True) == {}
        client.load()
        assert client.version() == 2
        assert client.process.terminate() == 0
