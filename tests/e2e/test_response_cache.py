"""A server that remembers answers: the same ones again, for both services, and honestly told."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
from google.protobuf.message import Message
from headwaiter_proto.inference import grpc_service_pb2
from headwaiter_proto.v1 import inference_pb2
from unit.server.tensor_graphs import identity

from .process import ServerProcess, running_server

LIMIT = 10_000


@pytest.fixture(scope="module")
def remembering_server(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server that remembers some answers, with a model that generates and one of tensors."""
    folder = tmp_path_factory.mktemp("remembering")
    shutil.copytree(models_dir / "pronounce", folder / "pronounce")
    (folder / "echo" / "1").mkdir(parents=True)
    (folder / "echo" / "1" / "model.onnx").write_bytes(identity().SerializeToString())
    options = ("--calibration", "off", "--trial-loads", "off", "--lame-duck-seconds", "0")
    with running_server("--models", str(folder), "--cache-bytes", str(LIMIT), *options) as process:
        yield process


TEXTS = ["the first text", "another, longer text", "the first text"]
QUESTIONS: dict[str, tuple[Message, type[Message]]] = {
    "Embed": (inference_pb2.EmbedRequest(model="embed", texts=TEXTS), inference_pb2.EmbedResponse),
    "Classify": (inference_pb2.ClassifyRequest(model="classify", texts=TEXTS), inference_pb2.ClassifyResponse),
    "Tag": (inference_pb2.TagRequest(model="tag", texts=TEXTS), inference_pb2.TagResponse),
    "Rerank": (inference_pb2.RerankRequest(model="rerank", query="first", texts=TEXTS), inference_pb2.RerankResponse),
}


class Client:
    """A caller of both services."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel

    def call(self, method: str, request: Message) -> tuple[bytes, dict[str, str]]:
        """The answer, and its trailing metadata."""
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(method)
        answer, done = call.with_call(request.SerializeToString(), timeout=20)
        return answer, {key: str(value) for key, value in done.trailing_metadata() or ()}

    def pronounce(self, *words: str, limit: int = 0) -> tuple[inference_pb2.GenerateResponse, dict[str, str]]:
        request = inference_pb2.GenerateRequest(model="pronounce", texts=words, max_new_tokens=limit)
        answer, metadata = self.call("/headwaiter.v1.InferenceService/Generate", request)
        return inference_pb2.GenerateResponse.FromString(answer), metadata

    def echo(self, *numbers: float) -> tuple[grpc_service_pb2.ModelInferResponse, dict[str, str]]:
        request = grpc_service_pb2.ModelInferRequest(model_name="echo")
        request.inputs.add(name="x", datatype="FP32", shape=[1, 4])
        request.raw_input_contents.append(np.array(numbers, np.float32).tobytes())
        answer, metadata = self.call("/inference.GRPCInferenceService/ModelInfer", request)
        return grpc_service_pb2.ModelInferResponse.FromString(answer), metadata

    def statistics(self, model: str) -> grpc_service_pb2.ModelStatistics:
        request = grpc_service_pb2.ModelStatisticsRequest(name=model)
        answer, _ = self.call("/inference.GRPCInferenceService/ModelStatistics", request)
        (statistics,) = grpc_service_pb2.ModelStatisticsResponse.FromString(answer).model_stats
        return statistics


@pytest.fixture
def client(remembering_server: ServerProcess) -> Iterator[Client]:
    with grpc.insecure_channel(remembering_server.grpc) as channel:
        yield Client(channel)


def test_text_is_answered_again_without_a_run(client: Client, remembering_server: ServerProcess) -> None:
    """The second answer is the first, took no time of the model, and says that it was remembered."""
    name = 'headwaiter_cache_requests_total{model="pronounce",result="%s"}'
    runs = 'headwaiter_batch_size_count{model="pronounce"}'
    first, told_first = client.pronounce("remember", "answer", "remember")
    before = remembering_server.scrape()
    second, told_second = client.pronounce("answer", "remember")
    after = remembering_server.scrape()
    assert [each.text for each in second.generations] == [first.generations[1].text, first.generations[0].text]
    assert first.generations[0] == first.generations[2]
    assert told_first["headwaiter-cache-hits"] == "1"
    assert told_second["headwaiter-cache-hits"] == "2"
    times = second.timings
    assert (times.queue_seconds, times.inference_seconds, times.batch_size, times.batch_id) == (0, 0, 0, 0)
    assert after[runs] == before[runs]
    assert after[name % "hit"] == before[name % "hit"] + 2
    assert after[name % "miss"] == before[name % "miss"]
    assert after["headwaiter_cache_limit_bytes"] == LIMIT
    assert 0 < after["headwaiter_cache_bytes"] <= LIMIT
    assert after["headwaiter_cache_entries"] >= 2


def test_other_limits_are_other_questions(client: Client) -> None:
    """A text generated up to another limit is not taken for the one that is remembered."""
    whole, _ = client.pronounce("elephant")
    short, metadata = client.pronounce("elephant", limit=2)
    again, _ = client.pronounce("elephant")
    assert "headwaiter-cache-hits" not in metadata
    assert len(short.generations[0].token_ids) == 2
    (first,), (remembered,) = whole.generations, again.generations
    assert len(first.token_seconds) == len(first.token_ids)
    assert not remembered.token_seconds  # nothing came that could have a time
    first.ClearField("token_seconds")
    assert remembered == first


def test_tensors_are_remembered_by_their_elements(client: Client) -> None:
    """The same tensors are answered from memory, others are not; statistics tell hits from misses."""
    before = client.statistics("echo").inference_stats
    for numbers, hit in (((1, 2, 3, 4), False), ((1, 2, 3, 4), True), ((1, 2, 3, 5), False), ((1, 2, 3, 4), True)):
        answer, metadata = client.echo(*numbers)
        assert np.frombuffer(answer.raw_output_contents[0], np.float32).tolist() == list(numbers)
        assert metadata.get("headwaiter-cache-hits") == ("1" if hit else None)
        assert (metadata["headwaiter-batch-id"] == "0") is hit
    after = client.statistics("echo").inference_stats
    assert after.success.count - before.success.count == 4
    assert after.cache_hit.count - before.cache_hit.count == 2
    assert after.cache_miss.count - before.cache_miss.count == 2
    assert after.compute_infer.count - before.compute_infer.count == 2


def test_memory_stays_within_its_bound(client: Client, remembering_server: ServerProcess) -> None:
    """Many different answers push out the oldest; every answer is right all the same."""
    evicted = remembering_server.scrape()["headwaiter_cache_evictions_total"]

    def ask(number: int) -> None:
        answer, _ = client.echo(number, 0, 0, 1)
        assert np.frombuffer(answer.raw_output_contents[0], np.float32).tolist() == [number, 0, 0, 1]

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(ask, [number % 150 for number in range(450)]))
    figures = remembering_server.scrape()
    assert figures["headwaiter_cache_bytes"] <= LIMIT
    assert figures["headwaiter_cache_evictions_total"] > evicted


def test_without_a_cache_nothing_is_said_of_it(server: ServerProcess) -> None:
    """By default nothing is remembered."""
    with grpc.insecure_channel(server.grpc) as channel:
        for _ in range(2):
            reply, metadata = Client(channel).pronounce("remember")
            assert "headwaiter-cache-hits" not in metadata
            assert reply.timings.batch_id > 0
    assert not any("cache_entries" in name for name in server.scrape())


@pytest.mark.torch
def test_encoders_answer_the_same_with_and_without(encoders_dir: Path, encoder_server: ServerProcess) -> None:
    """Every task's answers are the model's own, the first time and the second, also where a text is asked for twice."""

    def answers(client: Client, name: str) -> tuple[Message, dict[str, str]]:
        request, kind = QUESTIONS[name]
        data, metadata = client.call(f"/headwaiter.v1.InferenceService/{name}", request)
        answer = kind.FromString(data)
        answer.ClearField("timings")
        return answer, metadata

    with (
        running_server("--models", str(encoders_dir), "--cache-bytes", "1000000", "--calibration", "off") as process,
        grpc.insecure_channel(process.grpc) as channel,
        grpc.insecure_channel(encoder_server.grpc) as plain,
    ):
        for name in QUESTIONS:
            expected, told = answers(Client(plain), name)
            first, told_first = answers(Client(channel), name)
            second, told_second = answers(Client(channel), name)
            assert second == first
            assert close(first, expected)
            hits = [each.get("headwaiter-cache-hits") for each in (told, told_first, told_second)]
            assert hits == [None, "1", "3"], name


def close(one: Message, other: Message) -> bool:
    """Whether two answers are the same but for the last digits of their numbers."""
    if isinstance(one, inference_pb2.EmbedResponse) and isinstance(other, inference_pb2.EmbedResponse):
        return np.allclose(np.frombuffer(one.vectors, np.float32), np.frombuffer(other.vectors, np.float32), atol=1e-5)
    # Of texts that are the same, either may be ranked first.
    lines = [
        sorted(re.sub(r"\d+\.\d+(e-\d+)?", lambda found: f"{float(found[0]):.4f}", str(each)).splitlines())
        for each in (one, other)
    ]
    return lines[0] == lines[1]
