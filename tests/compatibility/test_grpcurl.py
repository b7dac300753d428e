"""grpcurl knows nothing of this server but what reflection tells it."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from e2e.process import ServerProcess
from headwaiter_proto.inference import grpc_service_pb2

from .environments import clean_environment, tool
from .record import Record, Seen

SERVICE = "inference.GRPCInferenceService"
QUESTIONS = (
    "ServerLive",
    "ServerReady",
    "ModelReady",
    "ServerMetadata",
    "ModelMetadata",
    "ModelConfig",
    "ModelStatistics",
    "RepositoryIndex",
)
METHODS = sorted(method.name for method in grpc_service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods)


def grpcurl(server: ServerProcess, *arguments: str, data: str = "") -> subprocess.CompletedProcess[str]:
    """Run it in clear text, whatever comes of it."""
    given = ["-d", "@"] if data else []
    return subprocess.run(
        [tool("grpcurl"), "-plaintext", *given, server.grpc, *arguments],
        env=clean_environment(),
        input=data,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def ask(server: ServerProcess, method: str, *messages: object) -> list[dict[str, Any]]:
    """Call a method of the service with messages; its answers."""
    done = grpcurl(server, f"{SERVICE}/{method}", data="\n".join(json.dumps(each) for each in messages))
    assert done.returncode == 0, done.stderr
    return answers_of(done.stdout)


def answers_of(printed: str) -> list[dict[str, Any]]:
    """The messages that were printed, one after the other."""
    decoder, answers, rest = json.JSONDecoder(), list[dict[str, Any]](), printed.strip()
    while rest:
        answer, end = decoder.raw_decode(rest)
        answers.append(answer)
        rest = rest[end:].lstrip()
    return answers


Note = Callable[..., None]


@pytest.fixture
def note(record: Record) -> Note:
    """Writes down what was asked."""

    def write(said: str, arguments: str, what: str, *shows: str) -> None:
        record.seen.append(Seen(shows, "grpcurl 1.8.6", f"grpcurl {arguments}", what, said))

    return write


def test_it_lists_and_describes(served: ServerProcess, note: Note) -> None:
    """Both services are listed, and every method of the protocol is described."""
    services = grpcurl(served, "list").stdout.split()
    assert {SERVICE, "headwaiter.v1.InferenceService", "grpc.health.v1.Health"} <= set(services)
    listed = grpcurl(served, "list", SERVICE).stdout.split()
    assert listed == [f"{SERVICE}.{method}" for method in METHODS]
    described = grpcurl(served, "describe", SERVICE).stdout
    assert "rpc ModelStreamInfer ( stream .inference.ModelInferRequest )" in described
    assert "raw_input_contents" in grpcurl(served, "describe", "inference.ModelInferRequest").stdout
    note(", ".join(services), "list", "Services by reflection", "reflection")
    note(f"{len(listed)} methods", f"list {SERVICE}", "Methods by reflection", "reflection")


def test_it_asks_what_there_is(served: ServerProcess, note: Note) -> None:
    """Health, metadata, configuration, statistics and the index as JSON."""
    assert ask(served, "ServerLive", {}) == [{"live": True}]
    assert ask(served, "ServerReady", {}) == [{"ready": True}]
    assert ask(served, "ModelReady", {"name": "simple"}) == [{"ready": True}]
    (server,) = ask(served, "ServerMetadata", {})
    assert server["name"] == "headwaiter"
    (metadata,) = ask(served, "ModelMetadata", {"name": "simple"})
    assert [each["name"] for each in metadata["inputs"]] == ["INPUT0", "INPUT1"]
    (config,) = ask(served, "ModelConfig", {"name": "simple"})
    assert config["config"]["max_batch_size"] == 8
    (statistics,) = ask(served, "ModelStatistics", {"name": "simple"})
    assert statistics["model_stats"][0]["name"] == "simple"
    (index,) = ask(served, "RepositoryIndex", {})
    assert {"simple", "minilm"} <= {each["name"] for each in index["models"]}
    said = f"live, ready; {server['name']} {server['version']}; {len(index['models'])} versions of models"
    note(said, f"{SERVICE}/...", "What there is, as JSON", *QUESTIONS)


def test_it_infers_with_typed_contents(served: ServerProcess, note: Note) -> None:
    """JSON goes in as typed contents; answers are raw, in base64."""
    values = {"contents": {"int_contents": [*range(16)]}, "datatype": "INT32", "shape": [1, 16]}
    inputs = [{"name": name, **values} for name in ("INPUT0", "INPUT1")]
    (answer,) = ask(served, "ModelInfer", {"model_name": "simple", "id": "c", "inputs": inputs})
    assert answer["id"] == "c"
    total, difference = (base64.b64decode(raw) for raw in answer["raw_output_contents"])
    assert total == b"".join((2 * number).to_bytes(4, "little") for number in range(16))
    assert difference == bytes(64)
    note("raw_output_contents as they should be", f"{SERVICE}/ModelInfer", "Typed contents as JSON", "ModelInfer")


def test_it_streams_texts(served: ServerProcess, note: Note) -> None:
    """Several messages of one stream, an error among them."""
    contents = {"bytes_contents": [base64.b64encode(b"soup").decode()]}
    text = {"name": "text", "datatype": "BYTES", "shape": [1, 1], "contents": contents}
    good = {"model_name": "minilm", "inputs": [text]}
    answers = ask(served, "ModelStreamInfer", good, {**good, "model_name": "nobody"}, {**good, "id": "last"})
    assert [("error_message" in each) for each in answers] == [False, True, False]
    assert answers[2]["infer_response"]["id"] == "last"
    assert "nobody" in answers[1]["error_message"]
    note(answers[1]["error_message"], f"{SERVICE}/ModelStreamInfer", "Two texts, an error between", "ModelStreamInfer")


def test_it_streams_generated_texts(served: ServerProcess, note: Note) -> None:
    """Pieces of one text, as they come, of this server's own service and of the protocol's."""
    method = "headwaiter.v1.InferenceService/GenerateStream"
    done = grpcurl(served, method, data=json.dumps({"model": "pronounce", "texts": ["onomatopoeia"]}))
    assert done.returncode == 0, done.stderr
    pieces = answers_of(done.stdout)
    assert len(pieces) > 3
    assert pieces[-1]["finished"]["finish_reason"] == "FINISH_REASON_END_OF_SEQUENCE"
    whole = "".join(piece.get("text", "") for piece in pieces)
    note(f"{len(pieces)} messages: {whole!r}", method, "A generated text in pieces", "GenerateStream")
    contents = {"bytes_contents": [base64.b64encode(b"onomatopoeia").decode()]}
    text = {"name": "text", "datatype": "BYTES", "shape": [1, 1], "contents": contents}
    answers = ask(served, "ModelStreamInfer", {"model_name": "pronounce", "inputs": [text]})
    rows = [base64.b64decode(raw)[4:] for each in answers for raw in each["infer_response"]["raw_output_contents"]]
    assert b"".join(rows).decode() == whole


def test_it_shows_errors(served: ServerProcess) -> None:
    """The status has its name, and its details are readable by reflection."""
    done = grpcurl(served, f"{SERVICE}/ModelInfer", data=json.dumps({"model_name": "simple"}))
    assert done.returncode != 0
    assert "Code: InvalidArgument" in done.stderr
    assert "INPUT0" in done.stderr
