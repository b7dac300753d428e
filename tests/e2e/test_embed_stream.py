"""EmbedStream over a real socket: order, errors in the middle, slow readers, cancelling, and the server's end."""

from __future__ import annotations

import asyncio
import itertools
import queue
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path

import grpc
import numpy as np
import pytest
from headwaiter import AsyncClient, Client, InvalidRequestError, NotFoundError, OverloadedError
from headwaiter_proto.v1 import inference_pb2

from .bundle_answers import BundleAnswers
from .process import ServerProcess, running_server
from .raw import trailers

pytestmark = pytest.mark.torch

METHOD = "/headwaiter.v1.InferenceService/EmbedStream"
IN_FLIGHT = 'headwaiter_requests_in_flight{method="headwaiter.v1.InferenceService/EmbedStream"}'
ANSWERED = (
    'headwaiter_requests_total{code="OK",method="headwaiter.v1.InferenceService/EmbedStream",model="embed",version="1"}'
)
REFUSED = (
    'headwaiter_requests_total{code="INVALID_ARGUMENT",method="headwaiter.v1.InferenceService/EmbedStream",'
    'model="_other",version=""}'
)
CLOSE = 1e-5


def items(count: int) -> list[list[str]]:
    """Messages of one to five texts of other lengths."""
    return [
        [f"text {index} " + "read the note " * (each % 3) for each in range(index % 5 + 1)] for index in range(count)
    ]


@pytest.fixture(scope="module")
def alone(encoders_dir: Path) -> BundleAnswers:
    return BundleAnswers.of(encoders_dir / "embed" / "1")


def test_results_come_in_order(encoder_server: ServerProcess, alone: BundleAnswers) -> None:
    """More messages than either side holds come back complete, in their order, each with its own vectors."""
    sent = items(200)
    with Client(encoder_server.grpc) as client:
        results = list(client.embed_stream(iter(sent), model="embed"))
    assert [result.index for result in results] == list(range(len(sent)))
    for texts, result in list(zip(sent, results, strict=True))[::9]:
        expected = np.stack([alone.to(text, output="unit_embedding") for text in texts])
        np.testing.assert_allclose(result.get().vectors, expected, atol=CLOSE)


async def test_asyncio_gives_the_same(encoder_server: ServerProcess) -> None:
    """Both clients, and both kinds of input, give the same vectors."""
    sent = items(100)

    async def slowly() -> AsyncIterator[list[str]]:
        for each in sent:
            await asyncio.sleep(0)
            yield each

    with Client(encoder_server.grpc) as blocking:
        expected = [result.get().vectors for result in blocking.embed_stream(sent, model="embed", dimensions=5)]
    async with AsyncClient(encoder_server.grpc) as client:
        for given in (sent, slowly()):
            results = [each async for each in client.embed_stream(given, model="embed", dimensions=5)]
            assert [each.index for each in results] == list(range(len(sent)))
            for vectors, each in zip(expected, results, strict=True):
                np.testing.assert_allclose(each.get().vectors, vectors, atol=CLOSE)


def test_bad_messages_fail_alone(encoder_server: ServerProcess) -> None:
    """What is wrong with a message is its own result; all others are answered."""
    bad = {3: [""], 50: ["a", "read " * 100], 51: ["text"] * 1025, 80: []}
    sent = [bad.get(index, each) for index, each in enumerate(items(100))]
    with Client(encoder_server.grpc) as client:
        results = list(client.embed_stream(sent, model="embed"))
        assert {result.index for result in results if result.error is not None} == {*bad}
        errors = [results[index].error for index in bad]
        assert all(isinstance(error, InvalidRequestError) for error in errors)
        assert [error.field for error in errors if isinstance(error, InvalidRequestError)] == [
            *("texts[0]", "texts[1]", "texts", "texts")
        ]
        with pytest.raises(NotFoundError, match="nobody"):
            next(client.embed_stream(["a"], model="nobody")).get()


def test_a_conversation_does_not_wait_for_more_input(encoder_server: ServerProcess) -> None:
    """Each answer comes as soon as its message is answered, also while the sender says nothing."""
    typed: queue.Queue[str | None] = queue.Queue()
    with Client(encoder_server.grpc) as client:
        results = client.embed_stream(iter(typed.get, None), model="embed")
        for index in range(3):
            typed.put("soup")
            assert next(results).index == index
        typed.put(None)
        assert list(results) == []


def test_errors_of_the_input_come_after_its_results(encoder_server: ServerProcess) -> None:
    """An input that fails, or holds what cannot be sent, ends the stream once what was sent is answered."""

    def failing() -> Iterator[str]:
        yield from ("a", "b")
        raise LookupError("end of the tape")

    with Client(encoder_server.grpc) as client:
        for given, error in ((failing(), LookupError), (["a", "b", "\ud800"], InvalidRequestError)):
            results = client.embed_stream(given, model="embed")
            assert [next(results).index, next(results).index] == [0, 1]
            with pytest.raises(error):
                next(results)


def _streamed(*requests: inference_pb2.EmbedStreamRequest) -> Iterator[bytes]:
    return iter([request.SerializeToString() for request in requests])


def test_ids_are_the_senders(encoder_server: ServerProcess) -> None:
    """Answers carry the ids of their messages, whatever these are, also when a message is too much to parse."""
    request = inference_pb2.EmbedRequest(model="embed", texts=["a"])
    too_much = inference_pb2.EmbedRequest(model="embed", texts=["a"] * 2000)
    sent = _streamed(
        inference_pb2.EmbedStreamRequest(id=2**64 - 1, request=request),
        inference_pb2.EmbedStreamRequest(id=7, request=too_much),
        inference_pb2.EmbedStreamRequest(id=7, request=request),
        inference_pb2.EmbedStreamRequest(request=request),
    )
    with grpc.insecure_channel(encoder_server.grpc) as channel:
        call: grpc.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(METHOD)
        answers = [inference_pb2.EmbedStreamResponse.FromString(each) for each in call(sent, timeout=20)]
    assert sorted((each.id, each.WhichOneof("outcome")) for each in answers) == [
        *((0, "response"), (7, "error"), (7, "response"), (2**64 - 1, "response"))
    ]
    (error,) = [each.error for each in answers if each.HasField("error")]
    assert (error.code, error.message) == (3, "texts: has more than 1024 entries")


@pytest.mark.parametrize(
    ("last", "metadata", "answered", "words"),
    [
        (b"\xff\xff\xff", (), 1, "is no headwaiter.v1.EmbedStreamRequest"),
        (b"", (("headwaiter-priority", "99"),), 0, "from 1 (first) to 16"),
    ],
    ids=["bytes", "metadata"],
)
def test_what_no_message_can_answer_for_ends_the_stream(
    encoder_server: ServerProcess, last: bytes, metadata: tuple[tuple[str, str], ...], answered: int, words: str
) -> None:
    """Bytes without an id and wrong metadata are answered with the stream's status, which is recorded once."""
    before = encoder_server.scrape().get(REFUSED, 0.0)
    request = inference_pb2.EmbedRequest(model="embed", texts=["a"])
    (good,) = _streamed(inference_pb2.EmbedStreamRequest(id=5, request=request))
    with grpc.insecure_channel(encoder_server.grpc) as channel:
        call: grpc.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(METHOD)
        answers = call(iter([good, last]), timeout=20, metadata=metadata)
        for _ in range(answered):
            assert inference_pb2.EmbedStreamResponse.FromString(next(answers)).id == 5
        with pytest.raises(grpc.RpcError) as caught:
            next(answers)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert words in str(caught.value.details())
    assert encoder_server.scrape()[REFUSED] - before == 1


async def _nothing_in_flight(server: ServerProcess) -> None:
    async with asyncio.timeout(20):
        while server.scrape().get(IN_FLIGHT, 0.0):
            await asyncio.sleep(0.01)


async def test_leaving_early_leaves_nothing_behind(encoder_server: ServerProcess) -> None:
    """A caller that stops in the middle, or vanishes, costs the server nothing more, and others are served."""
    endless = itertools.repeat(["text and text"] * 64)
    with Client(encoder_server.grpc) as client:
        results = client.embed_stream(endless, model="embed")
        assert next(results).index == 0
        results.close()
    async with AsyncClient(encoder_server.grpc) as other:
        async with aclosing(other.embed_stream(endless, model="embed")) as some:
            async for _ in some:
                break
        await _nothing_in_flight(encoder_server)
        assert len((await other.embed("soup", model="embed")).vectors) == 1


async def test_slow_reader_is_not_read_ahead_for(encoder_server: ServerProcess) -> None:
    """Who takes no answers is soon not listened to any more, while others are served; nothing gets lost."""
    count, texts = 3000, 1000
    message = inference_pb2.EmbedRequest(model="embed", texts=["soup"] * texts)
    written = 0
    async with (
        grpc.aio.insecure_channel(encoder_server.grpc) as channel,
        AsyncClient(encoder_server.grpc, timeout_seconds=60) as other,
    ):
        start: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(METHOD)
        call: grpc.aio.StreamStreamCall[bytes, bytes] = start()

        async def write() -> None:
            nonlocal written
            for number in range(count):
                data = inference_pb2.EmbedStreamRequest(id=number, request=message).SerializeToString()
                await call.write(data)
                written += 1

        before = encoder_server.scrape().get(ANSWERED, 0.0)
        writing = asyncio.create_task(write())
        await call.read()
        seen = -1
        # Until no further message is taken in the time of some other calls.
        while seen != written:
            seen = written
            for _ in range(50):
                await other.embed("soup", model="embed")
        answered = encoder_server.scrape()[ANSWERED] - before
        # What gRPC itself buffers are a few megabytes; the messages are 18, and their answers 384.
        assert answered < count / 10
        assert written < count
        call.cancel()
        await asyncio.gather(writing, return_exceptions=True)
    await _nothing_in_flight(encoder_server)


def test_messages_are_recorded_as_calls(encoder_server: ServerProcess) -> None:
    """Each message counts as a call of the stream's method, with its model and its status."""
    before = encoder_server.scrape().get(ANSWERED, 0.0)
    with Client(encoder_server.grpc) as client:
        assert len(list(client.embed_stream(items(10), model="embed"))) == 10
    assert encoder_server.scrape()[ANSWERED] - before == 10


def test_server_that_ends_answers_what_it_holds(encoders_dir: Path) -> None:
    """On SIGTERM a stream is served for the lame-duck time, then ended as retryable; the server ends with 0."""
    typed: queue.Queue[str | None] = queue.Queue()
    # In the lame-duck time a message goes there and its answer comes back, however busy the machine is.
    arguments = ("--models", str(encoders_dir), "--lame-duck-seconds", "5")
    with running_server(*arguments) as server, Client(server.grpc) as client:
        results = client.embed_stream(iter(typed.get, None), model="embed")
        typed.put("soup")
        assert next(results).get().dimension == 32
        server.process.terminate()
        typed.put("soup")
        assert next(results).get().dimension == 32
        with pytest.raises(OverloadedError, match="shutting down") as caught:
            next(results)
        assert caught.value.retry_after_seconds == pytest.approx(0.1)
        assert isinstance(caught.value.__cause__, grpc.RpcError)
        assert trailers(caught.value.__cause__)["grpc-retry-pushback-ms"] == "100"
        typed.put(None)
        assert server.process.wait(30) == 0
