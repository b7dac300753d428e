"""The Open Inference Protocol over a real socket: the same answers as `headwaiter.v1`, and what only it has."""

from __future__ import annotations

import json
import math
import signal
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2, status_pb2
from headwaiter import Client
from headwaiter_proto.inference import grpc_service_pb2, grpc_service_pb2_grpc
from onnx import TensorProto, helper

from .process import ServerProcess, running_server

SERVICE = "inference.GRPCInferenceService"
CLOSE = 1e-5
TEXTS = ["the waiter walked to the table", "soup", "Ada Lovelace wrote the first notes of the engine.", "fire"]

Request = grpc_service_pb2.ModelInferRequest
Response = grpc_service_pb2.ModelInferResponse


def packed(texts: list[str]) -> bytes:
    """Elements of BYTES, as they travel."""
    encoded = [text.encode() for text in texts]
    return b"".join(struct.pack("<I", len(each)) + each for each in encoded)


def request_for(model: str, **inputs: list[str]) -> Request:
    request = Request(model_name=model, id="42")
    for name, texts in inputs.items():
        request.inputs.add(name=name, datatype="BYTES", shape=[len(texts), 1])
        request.raw_input_contents.append(packed(texts))
    return request


def numbers(response: Response, name: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    (index,) = [index for index, output in enumerate(response.outputs) if output.name == name]
    return np.frombuffer(response.raw_output_contents[index], np.float32).reshape(response.outputs[index].shape)


def texts_of(response: Response, name: str) -> list[str]:
    (index,) = [index for index, output in enumerate(response.outputs) if output.name == name]
    content, texts = response.raw_output_contents[index], []
    while content:
        (size,) = struct.unpack_from("<I", content)
        texts.append(content[4 : 4 + size].decode())
        content = content[4 + size :]
    assert len(texts) == math.prod(response.outputs[index].shape)
    return texts


def connect(target: str) -> Any:  # noqa: ANN401 - the stub has no types
    return grpc_service_pb2_grpc.GRPCInferenceServiceStub(grpc.insecure_channel(target))


@pytest.fixture
def stub(encoder_server: ServerProcess) -> Any:  # noqa: ANN401 - see above
    return connect(encoder_server.grpc)


@pytest.fixture
def client(encoder_server: ServerProcess) -> Iterator[Client]:
    with Client(encoder_server.grpc) as connected:
        yield connected


@pytest.mark.torch
def test_embedding_is_the_same(stub: Any, client: Client) -> None:  # noqa: ANN401 - see above
    """Vector i is that of text i, whichever service is asked, with each option."""
    request = request_for("embed", text=TEXTS)
    response = stub.ModelInfer(request)
    assert (response.model_name, response.model_version, response.id) == ("embed", "1", "42")
    np.testing.assert_allclose(numbers(response, "embedding"), client.embed(TEXTS, model="embed").vectors, atol=CLOSE)
    request.parameters["prompt"].string_param = "query"
    request.parameters["dimensions"].int64_param = 5
    expected = client.embed(TEXTS, model="embed", prompt="query", dimensions=5).vectors
    np.testing.assert_allclose(numbers(stub.ModelInfer(request), "embedding"), expected, atol=CLOSE)


@pytest.mark.torch
def test_classification_is_the_same(stub: Any, client: Client) -> None:  # noqa: ANN401 - see above
    """Scores and best labels, of texts and of pairs."""
    for pairs in ([], TEXTS[::-1]):
        request = request_for("classify", text=TEXTS, **({"text_pair": pairs} if pairs else {}))
        response, expected = stub.ModelInfer(request), client.classify(TEXTS, pairs, model="classify")
        scores = np.array([each.scores for each in expected.classifications])
        np.testing.assert_allclose(numbers(response, "scores"), scores, atol=CLOSE)
        assert texts_of(response, "label") == [expected.labels[index] for index in scores.argmax(axis=1)]


@pytest.mark.torch
def test_pairs_are_scored_as_they_rank(stub: Any, client: Client) -> None:  # noqa: ANN401 - see above
    """Queries of their own for each row, each row scored as a ranking scores it."""
    queries = ["soup", "water", "the table", "fire"]
    response = stub.ModelInfer(request_for("rerank", query=queries, text=TEXTS))
    expected = [client.rerank(query, text, model="rerank").ranking[0].score for query, text in zip(queries, TEXTS)]  # noqa: B905 - of one length
    np.testing.assert_allclose(numbers(response, "score").ravel(), expected, atol=CLOSE)


@pytest.mark.torch
def test_spans_are_the_same(stub: Any, client: Client) -> None:  # noqa: ANN401 - see above
    """As JSON, with and without putting tokens together."""
    request = request_for("tag", text=TEXTS)
    for aggregate in (True, False):
        request.parameters["aggregation"].string_param = "entities" if aggregate else "none"
        found = [json.loads(each) for each in texts_of(stub.ModelInfer(request), "spans")]
        expected = client.tag(TEXTS, model="tag", aggregate=aggregate).taggings
        assert [[(each["start"], each["end"], each["label"]) for each in spans] for spans in found] == [
            [(span.start, span.end, span.label) for span in tagging.spans] for tagging in expected
        ]
        scores = [each["score"] for spans in found for each in spans]
        np.testing.assert_allclose(scores, [span.score for tagging in expected for span in tagging.spans], atol=CLOSE)


def test_generation_is_the_same(server: ServerProcess) -> None:
    """Row i is what was generated from text i, up to the limit that was asked for."""
    words = ["cat", "waiter", "soup"]
    request = request_for("pronounce", text=words)
    with Client(server.grpc) as client:
        for limit in (0, 3):
            request.parameters["max_new_tokens"].int64_param = limit
            response = connect(server.grpc).ModelInfer(request)
            expected = client.generate(words, model="pronounce", max_new_tokens=limit)
            assert texts_of(response, "text") == [each.text for each in expected.generations]


@pytest.mark.torch
def test_errors_have_details(stub: Any) -> None:  # noqa: ANN401 - see above
    """What is wrong with a request is told as by the other service: status, field, and words."""
    request = request_for("embed", text=TEXTS)
    request.inputs[0].shape[0] = 9
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(request)
    error: Any = caught.value
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    status = status_pb2.Status.FromString(dict(error.trailing_metadata())["grpc-status-details-bin"])
    violations = error_details_pb2.BadRequest()
    assert status.details[0].Unpack(violations)
    assert violations.field_violations[0].field == "inputs[text]"
    request.parameters["sequence_id"].int64_param = 5
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(request)
    error = caught.value
    assert (error.code(), error.details()) == (
        grpc.StatusCode.UNIMPLEMENTED,
        "parameters[sequence_id]: asks for a sequence of requests, which no model here has",
    )


@pytest.mark.torch
def test_timeout_of_the_request_counts(stub: Any) -> None:  # noqa: ANN401 - see above
    """Where it is earlier than the call's own deadline."""
    request = request_for("embed", text=TEXTS * 50)
    request.parameters["timeout"].int64_param = 1
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(request, timeout=30)
    error: Any = caught.value
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.torch
def test_trailing_metadata_has_real_times(stub: Any) -> None:  # noqa: ANN401 - see above
    """The parts fit into the whole, and the run is one of these texts."""
    _, call = stub.ModelInfer.with_call(request_for("embed", text=TEXTS))
    told = dict(call.trailing_metadata())
    parts = [float(told[f"headwaiter-{name}-seconds"]) for name in ("tokenize", "queue", "inference")]
    assert 0 < sum(parts) <= float(told["headwaiter-total-seconds"]) + 3e-6
    assert 1 <= int(told["headwaiter-batch-size"]) <= len(TEXTS)
    assert int(told["headwaiter-batch-tokens"]) > int(told["headwaiter-batch-size"])
    assert int(told["headwaiter-batch-id"]) > 0


@pytest.mark.torch
def test_stream_answers_in_order(stub: Any, client: Client) -> None:  # noqa: ANN401 - see above
    """Two hundred messages to several models, some of them wrong: one answer each, in their order."""
    messages = []
    for index in range(200):
        model = ("embed", "classify", "nobody", "tag")[index % 4]
        message = request_for(model, text=TEXTS[: index % 3 + 1])
        message.id = str(index)
        messages.append(message)
    answers = list(stub.ModelStreamInfer(iter(messages)))
    assert [answer.infer_response.id for answer in answers] == [str(index) for index in range(200)]
    for index, answer in enumerate(answers):
        assert bool(answer.error_message) == (index % 4 == 2)
    expected = client.embed(TEXTS[:2], model="embed").vectors
    np.testing.assert_allclose(numbers(answers[4].infer_response, "embedding"), expected, atol=CLOSE)
    assert "no model 'nobody'" in answers[2].error_message


@pytest.fixture(scope="module")
def difference_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with a model of tensors: `difference` = `a` - `b`, and `same` = `a`."""
    axes: list[str | int | None] = ["rows", 3]
    graph = helper.make_graph(
        [helper.make_node("Sub", ["a", "b"], ["difference"]), helper.make_node("Identity", ["a"], ["same"])],
        "difference",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, axes) for name in ("a", "b")],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, axes) for name in ("difference", "same")],
    )
    folder = tmp_path_factory.mktemp("tensors")
    (folder / "difference" / "1").mkdir(parents=True)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    (folder / "difference" / "1" / "model.onnx").write_bytes(model.SerializeToString())
    with running_server("--models", str(folder), "--lame-duck-seconds", "0") as process:
        yield process


@pytest.mark.parametrize("typed", [False, True])
def test_tensors_pass_through(difference_server: ServerProcess, typed: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """Each input is what was sent under its name, in whichever order and form; outputs come in the order wanted."""
    generator = np.random.default_rng(0)
    arrays = {name: generator.standard_normal((5, 3)).astype(np.float32) for name in ("b", "a")}
    request = Request(model_name="difference")
    for name, array in arrays.items():
        tensor = request.inputs.add(name=name, datatype="FP32", shape=array.shape)
        if typed:
            tensor.contents.fp32_contents.extend(array.ravel().tolist())
        else:
            request.raw_input_contents.append(array.tobytes())
    stub = connect(difference_server.grpc)
    response = stub.ModelInfer(request)
    assert [output.name for output in response.outputs] == ["difference", "same"]
    np.testing.assert_array_equal(numbers(response, "difference"), arrays["a"] - arrays["b"])
    for name in ("same", "difference"):
        request.outputs.add(name=name)
    response = stub.ModelInfer(request)
    assert [output.name for output in response.outputs] == ["same", "difference"]
    np.testing.assert_array_equal(numbers(response, "same"), arrays["a"])
    request.parameters["truncate"].bool_param = True
    with pytest.raises(grpc.RpcError, match=r"parameters\[truncate\]: is not known: this model knows none"):
        stub.ModelInfer(request)


def test_server_that_ends_is_live_and_not_ready(models_dir: Path) -> None:
    """From the signal on, while calls are still taken."""
    with running_server("--models", str(models_dir), "--lame-duck-seconds", "30") as process:
        stub = connect(process.grpc)
        assert stub.ServerReady(grpc_service_pb2.ServerReadyRequest()).ready
        process.process.send_signal(signal.SIGTERM)
        give_up = time.monotonic() + 20
        while stub.ServerReady(grpc_service_pb2.ServerReadyRequest()).ready:
            assert time.monotonic() < give_up
        assert stub.ServerLive(grpc_service_pb2.ServerLiveRequest()).live
        assert texts_of(stub.ModelInfer(request_for("pronounce", text=["cat"])), "text")
