"""`ModelStatistics` over a real socket, held to what the callers themselves have counted and timed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest
from google.protobuf.message import Message
from headwaiter_proto.inference import grpc_service_pb2
from headwaiter_proto.v1 import inference_pb2

from .process import ServerProcess, running_server

pytestmark = pytest.mark.torch

STAGES = ("compute_input", "queue", "compute_infer", "compute_output")
COUNTED = ("compute_input", "compute_infer", "compute_output", "queue", "success")
MODELS = ("classify", "embed", "rerank", "tag")
# Nanoseconds that rounding each sum may cost.
ROUNDED = len(STAGES)


@dataclass
class Figures:
    """What one version of a model has done, or has done since."""

    requests: int
    failures: int
    rows: int
    runs: int
    batches: dict[int, int]
    counts: dict[str, int]
    nanoseconds: dict[str, int]
    last_inference: int

    def since(self, earlier: Figures) -> Figures:
        """The same, of what came after."""
        batches = {rows: count - earlier.batches.get(rows, 0) for rows, count in self.batches.items()}
        return Figures(
            self.requests - earlier.requests,
            self.failures - earlier.failures,
            self.rows - earlier.rows,
            self.runs - earlier.runs,
            {rows: count for rows, count in batches.items() if count},
            {name: count - earlier.counts[name] for name, count in self.counts.items()},
            {name: spent - earlier.nanoseconds[name] for name, spent in self.nanoseconds.items()},
            self.last_inference,
        )


@dataclass
class Caller:
    """Calls both services, and keeps count.

    Attributes:
        seconds: What the calls that were answered took, as the caller sees it.
        told_seconds: The same by the server, up to when the answer was being written.
        replies: The answers of `Embed`.
    """

    channel: grpc.Channel
    seconds: float = 0.0
    told_seconds: float = 0.0
    replies: list[inference_pb2.EmbedResponse] = field(default_factory=list)

    def ask(self, method: str, request: Message, timeout: float | None = None) -> bytes:
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = self.channel.unary_unary(method)
        began = time.monotonic()
        answer = call(request.SerializeToString(), timeout=timeout)
        self.seconds += time.monotonic() - began
        return answer

    def embed(self, *texts: str, model: str = "embed") -> None:
        """A call of `headwaiter.v1`."""
        request = inference_pb2.EmbedRequest(model=model, texts=texts)
        reply = inference_pb2.EmbedResponse.FromString(self.ask("/headwaiter.v1.InferenceService/Embed", request))
        self.told_seconds += reply.timings.total_seconds
        self.replies.append(reply)

    def infer(self, *texts: str, timeout_microseconds: int = 0) -> None:
        """A call of the Open Inference Protocol."""
        request = grpc_service_pb2.ModelInferRequest(model_name="embed")
        request.inputs.add(name="text", datatype="BYTES", shape=[len(texts), 1])
        encoded = [text.encode() for text in texts]
        request.raw_input_contents.append(b"".join(len(each).to_bytes(4, "little") + each for each in encoded))
        request.parameters["timeout"].int64_param = timeout_microseconds
        self.ask("/inference.GRPCInferenceService/ModelInfer", request)

    def statistics(self, name: str = "", version: str = "") -> dict[tuple[str, str], Figures]:
        """What the server has counted."""
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = self.channel.unary_unary(
            "/inference.GRPCInferenceService/ModelStatistics"
        )
        request = grpc_service_pb2.ModelStatisticsRequest(name=name, version=version)
        answer = grpc_service_pb2.ModelStatisticsResponse.FromString(call(request.SerializeToString()))
        return {(each.name, each.version): figures(each) for each in answer.model_stats}

    def counted(self, act: Callable[[Caller], None], model: str = "embed") -> Figures:
        """What an act has added."""
        before = self.statistics(model)[model, "1"]
        act(self)
        return self.statistics(model)[model, "1"].since(before)


def figures(message: grpc_service_pb2.ModelStatistics) -> Figures:
    stages = {
        each.name: getattr(message.inference_stats, each.name) for each in message.inference_stats.DESCRIPTOR.fields
    }
    for each in message.batch_stats:
        assert each.compute_input.count == each.compute_infer.count == each.compute_output.count
    return Figures(
        requests=message.inference_stats.success.count,
        failures=message.inference_stats.fail.count,
        rows=message.inference_count,
        runs=message.execution_count,
        batches={each.batch_size: each.compute_infer.count for each in message.batch_stats},
        counts={name: stage.count for name, stage in stages.items()},
        nanoseconds={name: stage.ns for name, stage in stages.items()},
        last_inference=message.last_inference,
    )


@pytest.fixture(scope="module")
def server(encoders_dir: Path) -> Iterator[ServerProcess]:
    """A server that nobody has called before."""
    with running_server("--models", str(encoders_dir), "--workers", "1", "--lame-duck-seconds", "0") as process:
        yield process


@pytest.fixture(scope="module")
def at_start(server: ServerProcess) -> dict[tuple[str, str], Figures]:
    """What it tells before the first call."""
    with grpc.insecure_channel(server.grpc) as channel:
        return Caller(channel).statistics()


@pytest.fixture
def caller(server: ServerProcess, at_start: object) -> Iterator[Caller]:
    with grpc.insecure_channel(server.grpc) as channel:
        yield Caller(channel)


def test_loading_counts_as_nothing(at_start: dict[tuple[str, str], Figures]) -> None:
    """Golden checks, calibration and warm-up are no inferences, no requests and no runs."""
    assert set(at_start) == {(model, "1") for model in MODELS}
    for each in at_start.values():
        assert (each.requests, each.failures, each.rows, each.runs, each.batches) == (0, 0, 0, 0, {})
        assert each.last_inference == 0
        assert set(each.nanoseconds.values()) == {0}


def test_counts_are_those_of_the_callers(caller: Caller) -> None:
    """Requests, rows and runs of both services together, each of them once."""

    def act(caller: Caller) -> None:
        for _ in range(3):
            caller.embed("soup", "the table", "ada walked")
            caller.infer("soup", "the waiter")
            caller.infer("soup")

    counted = caller.counted(act)
    assert (counted.requests, counted.failures, counted.rows) == (9, 0, 18)
    assert {name: counted.counts[name] for name in COUNTED} == dict.fromkeys(COUNTED, 9)
    assert counted.counts["cache_hit"] == counted.counts["cache_miss"] == 0
    # One caller, who waits for each answer: every call is a run.
    assert counted.batches == {3: 3, 2: 3, 1: 3}
    assert counted.runs == 9


def test_runs_and_rows_of_many_callers_add_up(caller: Caller, server: ServerProcess) -> None:
    """However calls were put together: the runs by their rows are all runs, their rows all rows; as metrics have it."""

    def act(caller: Caller) -> None:
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = caller.channel.unary_unary(
            "/headwaiter.v1.InferenceService/Embed"
        )
        request = inference_pb2.EmbedRequest(model="embed", texts=["soup", "the waiter walked"]).SerializeToString()
        for each in [call.future(request) for _ in range(100)]:
            each.result()

    size = 'headwaiter_batch_size_{}{{model="embed"}}'
    before = server.scrape()
    counted = caller.counted(act)
    after = server.scrape()
    assert (counted.requests, counted.rows) == (100, 200)
    assert sum(counted.batches.values()) == counted.runs < 200
    assert sum(rows * count for rows, count in counted.batches.items()) == counted.rows
    for part, expected in (("count", counted.runs), ("sum", counted.rows)):
        assert after[size.format(part)] - before.get(size.format(part), 0.0) == expected


def test_time_is_shared_out_whole(caller: Caller) -> None:
    """The stages are all of the time that the server has, and that lies within what callers wait.

    Of calls of one text, waiting and running are what their own answers said.
    """

    def act(caller: Caller) -> None:
        for _ in range(30):
            caller.embed("the waiter walked to the table and read the note")

    counted = caller.counted(act)
    spent = counted.nanoseconds
    assert abs(sum(spent[stage] for stage in STAGES) - spent["success"]) <= ROUNDED
    assert caller.told_seconds * 1e9 - ROUNDED <= spent["success"] <= caller.seconds * 1e9
    timings = [reply.timings for reply in caller.replies]
    assert spent["queue"] == pytest.approx(sum(each.queue_seconds for each in timings) * 1e9, rel=1e-6)
    assert spent["compute_infer"] >= sum(each.inference_seconds for each in timings) * 1e9
    assert spent["compute_input"] >= sum(each.tokenize_seconds for each in timings) * 1e9
    assert spent["compute_output"] > 0


def test_time_of_calls_of_several_runs_is_counted_once(caller: Caller) -> None:
    """A call that is too large for a run waits for some of its texts while others run: its time is not doubled."""

    def act(caller: Caller) -> None:
        caller.embed(*["ada lovelace wrote the first note of the engine"] * 1000)

    counted = caller.counted(act)
    assert counted.runs > 1
    assert counted.counts["success"] == counted.counts["compute_infer"] == 1
    spent = counted.nanoseconds
    assert abs(sum(spent[stage] for stage in STAGES) - spent["success"]) <= ROUNDED
    assert spent["success"] <= caller.seconds * 1e9


def test_failures_are_counted_by_themselves(caller: Caller) -> None:
    """Requests that cannot be answered fail, each once, and are no inferences; questions are neither."""

    def fails(caller: Caller, code: grpc.StatusCode, *texts: str, timeout_microseconds: int = 0) -> None:
        with pytest.raises(grpc.RpcError) as raised:
            caller.infer(*texts, timeout_microseconds=timeout_microseconds)
        assert raised.value.code() is code

    def act(caller: Caller) -> None:
        for _ in range(2):
            fails(caller, grpc.StatusCode.INVALID_ARGUMENT, "soup", "word " * 200)
        fails(caller, grpc.StatusCode.DEADLINE_EXCEEDED, "soup", timeout_microseconds=1)
        with pytest.raises(grpc.RpcError):
            caller.embed("word " * 200)
        with pytest.raises(grpc.RpcError):
            caller.embed("soup", model="nobody")
        caller.ask(
            "/headwaiter.v1.InferenceService/Tokenize", inference_pb2.TokenizeRequest(model="embed", texts=["soup"])
        )
        caller.ask("/headwaiter.v1.InferenceService/GetModel", inference_pb2.GetModelRequest(model="embed"))
        for method in ("ModelMetadata", "ModelConfig", "ModelReady"):
            request = getattr(grpc_service_pb2, f"{method}Request")(name="embed")
            caller.ask(f"/inference.GRPCInferenceService/{method}", request)

    counted = caller.counted(act)
    assert (counted.requests, counted.failures, counted.rows, counted.runs) == (0, 4, 0, 0)
    assert set(counted.counts.values()) == {0, 4}
    assert counted.nanoseconds["fail"] > 0


def test_models_are_counted_apart(caller: Caller) -> None:
    """What one model does leaves the others as they were, and names and versions choose what is told."""
    before = caller.statistics()
    caller.embed("soup")
    after = caller.statistics()
    assert {key for key in after if after[key] != before[key]} == {("embed", "1")}
    assert set(caller.statistics("tag")) == set(caller.statistics("tag", "1")) == {("tag", "1")}
    with pytest.raises(grpc.RpcError) as raised:
        caller.statistics("tag", "2")
    assert raised.value.code() is grpc.StatusCode.NOT_FOUND


def test_last_inference_is_when_it_was(caller: Caller) -> None:
    """In milliseconds since 1970."""
    before = time.time()
    caller.embed("soup")
    assert before * 1e3 - 1 <= caller.statistics("embed")["embed", "1"].last_inference <= time.time() * 1e3 + 1
