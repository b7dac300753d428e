"""Inference over a stream with callbacks, as the synchronous client has it."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
from tritonclient.grpc import InferenceServerClient, InferInput, InferResult
from tritonclient.utils import InferenceServerException

from .checks import PATIENCE_SECONDS, Server, connected, shows, slow, status, tensor, text

Answer = tuple[InferResult | None, InferenceServerException | None]


class Answers:
    """What a stream's callback was told, in order."""

    def __init__(self) -> None:
        self._waiting: queue.Queue[Answer] = queue.Queue()

    def note(self, result: InferResult | None, error: InferenceServerException | None) -> None:
        """Take an answer; the stream's callback."""
        self._waiting.put((result, error))

    def result(self) -> InferResult:
        """The next answer, which must be a good one."""
        result, error = self._waiting.get(timeout=PATIENCE_SECONDS)
        assert error is None, error
        return result

    def error(self) -> InferenceServerException:
        """The next answer, which must be an error."""
        result, error = self._waiting.get(timeout=PATIENCE_SECONDS)
        assert error is not None, result
        return error

    def last_error(self) -> InferenceServerException:
        """The error that ended the stream, after whatever came before."""
        while True:
            _, error = self._waiting.get(timeout=PATIENCE_SECONDS)
            if error is not None:
                return error

    def none_left(self) -> bool:
        """Whether there was nothing else."""
        return self._waiting.empty()


@contextmanager
def streaming(server: Server, **options: object) -> Iterator[tuple[InferenceServerClient, Answers]]:
    """A client with a stream."""
    with connected(server) as client:
        answers = Answers()
        client.start_stream(answers.note, **options)
        try:
            yield client, answers
        finally:
            client.stop_stream(cancel_requests=True)


def floats(number: float) -> InferInput:
    """An input of the model `times`."""
    return tensor("X", np.array([[number]], dtype=np.float32))


def is_final(result: InferResult) -> bool:
    """Whether an answer says that it is the last one of its request."""
    parameters = result.get_response().parameters
    return "triton_final_response" in parameters and bool(parameters["triton_final_response"].bool_param)


@shows("ModelStreamInfer")
def check_order(server: Server) -> str:
    """200 requests over one stream are answered in their order, each with its id."""
    count = 200
    with streaming(server) as (client, answers):
        for number in range(count):
            client.async_stream_infer("times", [floats(number)], request_id=f"r{number}")
        for number in range(count):
            result = answers.result()
            assert result.get_response().id == f"r{number}"
            assert result.as_numpy("Y")[0, 0] == 2 * number
        client.stop_stream()
        assert answers.none_left()
    return f"{count} of {count} answers in order, ids echoed"


@shows("ModelStreamInfer")
def check_models_in_turn(server: Server) -> str:
    """One stream asks several models; each message may name its outputs and priority."""
    with streaming(server) as (client, answers):
        client.async_stream_infer("minilm", [text("soup")], request_id="text")
        client.async_stream_infer("times", [floats(4)], request_id="tensor", priority=2)
        assert answers.result().as_numpy("embedding").shape == (1, 384)
        assert answers.result().as_numpy("Y").tolist() == [[8.0]]
    return "text and tensors over one stream"


@shows("ModelStreamInfer", "errors")
def check_errors_inside(server: Server) -> str:
    """A request that is refused is told so in its place; the stream goes on."""
    with streaming(server) as (client, answers):
        client.async_stream_infer("times", [floats(1)])
        client.async_stream_infer("nobody", [floats(2)], request_id="bad")
        client.async_stream_infer("times", [tensor("Z", np.ones((1, 1), dtype=np.float32))])
        client.async_stream_infer("minilm", [text("waiter " * 2000)])
        client.async_stream_infer("times", [floats(3)])
        assert answers.result().as_numpy("Y").tolist() == [[2.0]]
        unknown = answers.error().message()
        assert "nobody" in unknown
        assert "Z" in answers.error().message()
        assert "text" in answers.error().message()
        assert answers.result().as_numpy("Y").tolist() == [[6.0]]
    return f"error_message: {unknown}"


@shows("ModelStreamInfer")
def check_generation(server: Server) -> str:
    """The pieces of a generated text add up to what a unary call gives; the last one says so."""
    with streaming(server) as (client, answers):
        client.async_stream_infer("pronounce", [text("onomatopoeia")], request_id="g", enable_empty_final_response=True)
        pieces, last = list[bytes](), False
        while not last:
            result = answers.result()
            last = is_final(result)
            if result.get_response().outputs:
                pieces.append(result.as_numpy("text")[0, 0])
        assert answers.none_left()
        whole = client.infer("pronounce", [text("onomatopoeia")]).as_numpy("text")[0, 0]
    assert b"".join(pieces) == whole
    return f"{whole.decode()!r} in {len(pieces)} answers, triton_final_response on the last"


@shows("ModelStreamInfer", "request parameters")
def check_final_response(server: Server) -> str:
    """With `triton_enable_empty_final_response` every request's only answer says that it is the final one."""
    with streaming(server) as (client, answers):
        client.async_stream_infer("times", [floats(1)], enable_empty_final_response=True)
        result = answers.result()
    assert is_final(result)
    assert result.as_numpy("Y").tolist() == [[2.0]]
    return "triton_final_response: true"


@shows("ModelStreamInfer", "timeout")
def check_timeout(server: Server) -> str:
    """A request's own `timeout` ends it and leaves the stream alone."""
    with streaming(server) as (client, answers):
        client.async_stream_infer("slow", slow(), timeout=300_000)
        client.async_stream_infer("times", [floats(1)])
        message = answers.error().message()
        assert answers.result().as_numpy("Y").tolist() == [[2.0]]
    return f"error_message: {message}"


@shows("ModelStreamInfer", "cancellation")
def check_cancellation(server: Server) -> str:
    """A stream that is cancelled ends its requests on the server as well."""
    count = partial(server.metric, "headwaiter_requests_total", model="slow", code="CANCELLED")
    before = count()
    with streaming(server) as (client, answers):
        client.async_stream_infer("slow", slow())
        server.wait_for_metric(0, "headwaiter_calls_held")
        client.stop_stream(cancel_requests=True)
        code = status(answers.error())
        after = server.wait_for_metric(before, "headwaiter_requests_total", model="slow", code="CANCELLED")
        assert client.infer("slow", slow(10)).as_numpy("sum") == 256
    assert code == "CANCELLED"
    return f"CANCELLED; headwaiter_requests_total{{code=CANCELLED}} +{after - before:.0f}"


@shows("ModelStreamInfer", "timeout")
def check_stream_timeout(server: Server) -> str:
    """A stream's own deadline ends it, with what it holds."""
    with streaming(server, stream_timeout=0.5) as (client, answers):
        client.async_stream_infer("slow", slow())
        code = status(_last_error(answers.error))
    assert code == "DEADLINE_EXCEEDED"
    return code


@shows("ModelStreamInfer", "compression")
def check_compression(server: Server) -> str:
    """A stream whose messages are compressed."""
    with streaming(server, compression_algorithm="gzip") as (client, answers):
        client.async_stream_infer("times", [floats(5)])
        assert answers.result().as_numpy("Y").tolist() == [[10.0]]
    return "gzip"


def _last_error(error: Callable[[], InferenceServerException]) -> InferenceServerException:
    """The error that ended a stream: what its requests were told before has no status."""
    while (found := error()).status() is None:
        pass
    return found
