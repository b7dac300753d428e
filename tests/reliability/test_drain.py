"""Servers that end under load, and calls and streams that they hold, or that find another one."""

from __future__ import annotations

import queue
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path

import grpc
from e2e.process import running_server
from headwaiter import Client
from headwaiter_proto.v1 import inference_pb2

from .drain import among
from .sleeping_server import ONE_BY_ONE, TEXT, running_sleeping_server
from .ways import ALL

EMBED_STREAM = "/headwaiter.v1.InferenceService/EmbedStream"
MESSAGES = 40


def test_sigterm_loses_no_call_by_any_way() -> None:
    """Two of three servers end under load, behind a burst: every call is answered, also those after the signal."""
    seen = among(3, ALL, 2, restart=False)
    assert [ending.code for ending in seen.endings] == [0, 0]
    for way in ALL:
        assert seen.of(way, retries=True)
        assert not seen.failed(way, retries=True)
        assert all(ending.after[way] > 0 for ending in seen.endings)


def test_a_stream_of_messages_ends_with_the_answers_to_those_that_were_taken() -> None:
    """After SIGTERM each message that the server has read is answered; then the stream ends as one to try again."""
    in_flight = 'headwaiter_requests_in_flight{method="headwaiter.v1.InferenceService/EmbedStream"}'
    with (
        # Long enough that some are still to be answered when the server is looked at.
        running_sleeping_server(*ONE_BY_ONE, "--lame-duck-seconds", "0", run_seconds=0.06) as server,
        grpc.insecure_channel(server.grpc) as channel,
    ):
        outgoing: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        for number in range(MESSAGES):
            outgoing.put(number)
        stream: grpc.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(EMBED_STREAM)
        # A twelfth of it may be waited for: more than all of them take, or some would be let in later.
        answers = stream(_messages(outgoing), timeout=240)
        while not (taken := server.scrape().get(in_flight, 0)):
            pass
        server.process.send_signal(signal.SIGTERM)
        answered, code = _read(answers)
        outgoing.put(None)
        assert code is grpc.StatusCode.UNAVAILABLE
        assert all(answer.WhichOneof("outcome") == "response" for answer in answered)
        assert len({answer.id for answer in answered}) >= taken
        assert server.process.wait(30) == 0


def _read(answers: Iterable[bytes]) -> tuple[list[inference_pb2.EmbedStreamResponse], grpc.StatusCode]:
    """All answers of a stream, and how it ended."""
    read = []
    try:
        for answer in answers:
            read.append(inference_pb2.EmbedStreamResponse.FromString(answer))  # noqa: PERF401 - those before the error count
    except grpc.RpcError as error:
        return read, error.code()
    return read, grpc.StatusCode.OK


def _messages(outgoing: queue.SimpleQueue[int | None]) -> Iterator[bytes]:
    while (number := outgoing.get()) is not None:
        request = inference_pb2.EmbedRequest(texts=[TEXT])
        yield inference_pb2.EmbedStreamRequest(id=number, request=request).SerializeToString()


def test_generation_that_has_begun_is_told_to_its_end(models_dir: Path) -> None:
    """After SIGTERM a stream of generation goes on to its last piece."""
    with (
        running_server("--models", str(models_dir), "--lame-duck-seconds", "0") as server,
        Client(server.grpc) as client,
    ):
        expected = client.generate("onomatopoeia" * 3).generations[0].text
        with client.generate_stream("onomatopoeia" * 3) as stream:
            pieces = [next(stream).text]
            server.process.send_signal(signal.SIGTERM)
            pieces += [piece.text for piece in stream]
        assert "".join(pieces) == expected
        assert server.process.wait(30) == 0
