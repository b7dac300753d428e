"""Unary inference with the synchronous client: every task, options, and calls that go on beside each other."""

from __future__ import annotations

import json
import threading
from functools import partial

import numpy as np
from tritonclient.grpc import InferRequestedOutput, InferResult
from tritonclient.grpc.auth import BasicAuth
from tritonclient.utils import InferenceServerException

from .checks import (
    PATIENCE_SECONDS,
    Array,
    Server,
    connected,
    expect,
    outputs,
    refused,
    shows,
    slow,
    status,
    tensor,
    text,
)


def simple_inputs(rows: int = 2) -> tuple[Array, Array]:
    """What the model `simple` adds and subtracts."""
    left = np.arange(rows * 16, dtype=np.int32).reshape(rows, 16)
    return left, np.full_like(left, 7)


@shows("ModelInfer")
def check_embedding(server: Server) -> str:
    """Texts to vectors of length 1, each the same alone as with another; id, model and version come back."""
    with connected(server) as client:
        both = client.infer("minilm", [text("a soup of the day", "the bill, please")], request_id="id-7")
        alone = client.infer("minilm", [text("the bill, please")]).as_numpy("embedding")
    vectors = both.as_numpy("embedding")
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(vectors[1:], alone, atol=1e-5)
    answer = both.get_response(as_json=True)
    assert (answer["id"], answer["model_name"], answer["model_version"]) == ("id-7", "minilm", "1")
    return f"embedding FP32 {list(vectors.shape)}, id echoed"


@shows("ModelInfer")
def check_classification(server: Server) -> str:
    """Texts, and pairs of texts with the optional input, to labels and scores that add up to 1."""
    with connected(server) as client:
        single = client.infer("classify", [text("the soup is hot", "the soup is cold")])
        pair = client.infer("classify", [text("the soup"), text("is cold", name="text_pair")])
    scores = single.as_numpy("scores")
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-5)
    labels = np.array([b"negative", b"neutral", b"positive"])
    assert single.as_numpy("label").ravel().tolist() == labels[scores.argmax(axis=1)].tolist()
    assert pair.as_numpy("scores").shape == (1, 3)
    assert not np.allclose(pair.as_numpy("scores"), scores[:1])
    return f"label BYTES {list(single.as_numpy('label').shape)}, scores FP32 {list(scores.shape)}"


@shows("ModelInfer")
def check_reranking(server: Server) -> str:
    """Row i is the score of query i with text i."""
    with connected(server) as client:
        ask = partial(client.infer, "rerank")
        both = ask([text("soup", "bill", name="query"), text("a soup", "a bill")]).as_numpy("score")
        second = ask([text("bill", name="query"), text("a bill")]).as_numpy("score")
    np.testing.assert_allclose(both[1:], second, atol=1e-5)
    return f"score FP32 {list(both.shape)}"


@shows("ModelInfer")
def check_tagging(server: Server) -> str:
    """Spans as JSON, whose offsets lie within the text."""
    sentence = "ada lovelace walked to london"
    with connected(server) as client:
        parameters = {"aggregation": "none"}
        answer = client.infer("tag", [text(sentence)], parameters=parameters).as_numpy("spans")
    spans = json.loads(answer[0, 0])
    assert spans
    assert all(0 <= span["start"] < span["end"] <= len(sentence) for span in spans)
    assert all({"label", "score"} <= set(span) for span in spans)
    return f"spans BYTES {list(answer.shape)}, JSON of {len(spans)} spans"


@shows("ModelInfer")
def check_generation(server: Server) -> str:
    """Text to text; an option of the task goes as a parameter."""
    with connected(server) as client:
        whole = client.infer("pronounce", [text("waiter", "soup")]).as_numpy("text")
        begun = client.infer("pronounce", [text("waiter")], parameters={"max_new_tokens": 2}).as_numpy("text")
    assert whole[0, 0].startswith(begun[0, 0])
    assert len(begun[0, 0]) < len(whole[0, 0])
    return f"text BYTES {list(whole.shape)}: {whole[0, 0].decode()!r}"


@shows("ModelInfer")
def check_requested_outputs(server: Server) -> str:
    """Only the outputs that are asked for come back, in the order in which they were asked for."""
    left, right = simple_inputs()
    tensors = [tensor("INPUT0", left), tensor("INPUT1", right)]
    with connected(server) as client:
        everything = client.infer("simple", tensors)
        one = client.infer("simple", tensors, outputs=outputs("OUTPUT1"))
        turned = client.infer("simple", tensors, outputs=outputs("OUTPUT1", "OUTPUT0"))
    for answer in (everything, turned):
        np.testing.assert_array_equal(answer.as_numpy("OUTPUT0"), left + right)
        np.testing.assert_array_equal(answer.as_numpy("OUTPUT1"), left - right)
    assert one.as_numpy("OUTPUT0") is None
    assert [each.name for each in turned.get_response().outputs] == ["OUTPUT1", "OUTPUT0"]
    return "outputs as asked for"


@shows("ModelInfer", "classification")
def check_classes(server: Server) -> str:
    """In place of an output's numbers the best of them, with their places and, where there are any, labels."""
    values = np.array([[0.5, 2.0, -1.0], [3.0, 0.0, 1.0]], dtype=np.float32)
    with connected(server) as client:
        best = client.infer("times", [tensor("X", values)], outputs=[InferRequestedOutput("Y", class_count=2)])
        named = client.infer("classify", [text("soup")], outputs=[InferRequestedOutput("scores", class_count=1)])
    assert best.as_numpy("Y").tolist() == [[b"4.000000:1", b"1.000000:0"], [b"6.000000:0", b"2.000000:2"]]
    ((first,),) = named.as_numpy("scores")
    score, index, label = first.decode().split(":")
    assert ["negative", "neutral", "positive"][int(index)] == label
    assert 0 < float(score) < 1
    return f"class_count=2: {best.as_numpy('Y').tolist()[0]}; {first.decode()!r}"


@shows("ModelInfer")
def check_large_tensors(server: Server) -> str:
    """4 MB there and back."""
    values = np.random.default_rng(5).random((4, 1 << 18), dtype=np.float32)
    with connected(server) as client:
        answer = client.infer("times", [tensor("X", values)]).as_numpy("Y")
    np.testing.assert_array_equal(answer, values * 2)
    return f"FP32 {list(values.shape)}, {values.nbytes} bytes each way"


@shows("ModelInfer", "compression")
def check_compression(server: Server) -> str:
    """Calls that the client compresses with gzip and with deflate."""
    left, right = simple_inputs(8)
    with connected(server) as client:
        for algorithm in ("gzip", "deflate"):
            tensors = [tensor("INPUT0", left), tensor("INPUT1", right)]
            answer = client.infer("simple", tensors, compression_algorithm=algorithm)
            np.testing.assert_array_equal(answer.as_numpy("OUTPUT0"), left + right)
    return "gzip, deflate"


@shows("ModelInfer", "request parameters")
def check_parameters(server: Server) -> str:
    """A text over the limit is refused, and cut with the parameter `truncate`; priorities are taken."""
    long = text("waiter " * 2000)
    with connected(server) as client:
        error = refused(client.infer, "minilm", [long])
        cut = client.infer("minilm", [long], parameters={"truncate": True}, priority=1)
        short = client.infer("minilm", [text("soup")], parameters={"dimensions": 8}, headers={"x-user": "ada"})
    assert cut.as_numpy("embedding").shape == (1, 384)
    assert short.as_numpy("embedding").shape == (1, 8)
    return expect(error, "INVALID_ARGUMENT", "text")


@shows("ModelInfer", "timeout")
def check_timeout(server: Server) -> str:
    """The earlier of the parameter `timeout` and the call's own deadline ends a run that is under way."""
    with connected(server) as client:
        left, right = simple_inputs()
        enough = client.infer("simple", [tensor("INPUT0", left), tensor("INPUT1", right)], timeout=30_000_000)
        assert enough.as_numpy("OUTPUT0") is not None
        parameter = refused(client.infer, "slow", slow(), timeout=300_000, client_timeout=PATIENCE_SECONDS)
        deadline = refused(client.infer, "slow", slow(), client_timeout=0.3)
    expect(deadline, "DEADLINE_EXCEEDED")
    return "timeout=300000: " + expect(parameter, "DEADLINE_EXCEEDED")


@shows("ModelInfer")
def check_plugin(server: Server) -> str:
    """The plugin for credentials, which a server without credentials has no use for."""
    with connected(server) as client:
        client.register_plugin(BasicAuth("ada", "secret"))
        answer = client.infer("minilm", [text("soup")]).as_numpy("embedding")
    assert answer.shape == (1, 384)
    return "BasicAuth header harmless"


@shows("ModelInfer")
def check_asynchronous_calls(server: Server) -> str:
    """100 calls at once, each answered through its callback, each with its own answer."""
    count, done, answers = 100, threading.Event(), dict[int, InferResult]()
    problems: list[InferenceServerException] = []

    def note(number: int, result: InferResult | None, error: InferenceServerException | None) -> None:
        if error is None:
            answers[number] = result
        else:
            problems.append(error)
        if len(answers) + len(problems) == count:
            done.set()

    with connected(server) as client:
        for number in range(count):
            values = np.full((1 + number % 3, 2), number, dtype=np.float32)
            client.async_infer("times", [tensor("X", values)], partial(note, number), request_id=str(number))
        assert done.wait(PATIENCE_SECONDS)
    assert problems == []
    for number, answer in answers.items():
        np.testing.assert_array_equal(answer.as_numpy("Y"), np.full((1 + number % 3, 2), 2.0 * number))
        assert answer.get_response().id == str(number)
    return f"{count} of {count} calls answered by their callbacks"


@shows("ModelInfer", "cancellation")
def check_cancellation(server: Server) -> str:
    """A call that is cancelled ends on the server as well: its metric says so, and the worker is free again."""
    labels = {"method": "inference.GRPCInferenceService/ModelInfer", "model": "slow"}
    called_off = partial(server.metric, "headwaiter_requests_total", **labels, code="CANCELLED")
    before, ended, errors = called_off(), threading.Event(), []

    def note(result: InferResult | None, error: InferenceServerException | None) -> None:
        errors.append(error)
        ended.set()

    with connected(server) as client:
        call = client.async_infer("slow", slow(), note)
        server.wait_for_metric(0, "headwaiter_calls_held")
        call.cancel()
        assert ended.wait(PATIENCE_SECONDS)
        after = server.wait_for_metric(before, "headwaiter_requests_total", **labels, code="CANCELLED")
        still = client.infer("slow", slow(10)).as_numpy("sum")
    assert errors[0] is not None
    assert status(errors[0]) == "CANCELLED"
    assert still == 256
    return f"CANCELLED; headwaiter_requests_total{{code=CANCELLED}} +{after - before:.0f}"
