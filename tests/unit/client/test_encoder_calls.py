"""The calls to encoders: what goes out, what comes back, streams included."""

from __future__ import annotations

import struct
import threading
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from headwaiter import (
    AsyncClient,
    Classification,
    Client,
    DeadlineExceededError,
    HeadwaiterError,
    InternalServerError,
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
    RankedText,
    ServerUnreachableError,
    Span,
    codec,
)
from headwaiter.streaming import MESSAGES_IN_FLIGHT
from headwaiter_proto.v1 import inference_pb2
from unit.client.scripted_server import refuse, retry_info

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from unit.client.scripted_server import ScriptedServer


def embedded(request: inference_pb2.EmbedRequest) -> inference_pb2.EmbedResponse:
    """Each text's vector is its length and 1."""
    vectors = b"".join(struct.pack("<2f", len(text), 1.0) for text in request.texts)
    reading = inference_pb2.Reading(tokens=[len(text) for text in request.texts], truncated=[0])
    return inference_pb2.EmbedResponse(model="e", version=2, vectors=vectors, dimension=2, reading=reading)


SCRIPTS = {
    "Embed": lambda raw, context: embedded(inference_pb2.EmbedRequest.FromString(raw)).SerializeToString(),
    "Classify": lambda raw, context: inference_pb2.ClassifyResponse(
        labels=["no", "yes"], classifications=[inference_pb2.Classification(scores=[0.25, 0.75])]
    ).SerializeToString(),
    "Tag": lambda raw, context: inference_pb2.TagResponse(
        taggings=[inference_pb2.Tagging(spans=[inference_pb2.Span(start=0, end=3, label="PER", score=0.5)])]
    ).SerializeToString(),
    "Rerank": lambda raw, context: inference_pb2.RerankResponse(
        ranking=[inference_pb2.RankedText(index=1, score=0.5), inference_pb2.RankedText(index=0, score=0.25)]
    ).SerializeToString(),
    "Tokenize": lambda raw, context: inference_pb2.TokenizeResponse(
        tokenizations=[inference_pb2.Tokenization(ids=[1, 2], tokens=["[CLS]", "a"], starts=[0, 0], ends=[0, 1])]
    ).SerializeToString(),
}


async def test_both_clients_give_equal_results(serve: Callable[..., ScriptedServer]) -> None:
    """Each call carries what it was given, and gives what the server answered; asyncio the same."""
    server = serve(SCRIPTS)
    common: dict[str, Any] = {"model": "m", "version": 3}
    options: dict[str, Any] = {"truncate": True, "raw_scores": True, **common}
    with Client(server.target) as client:
        vectors = client.embed(["ab", "c"], truncate=True, prompt="", dimensions=2, normalize=False, **common)
        blocking = (
            client.classify("a", "b", **options),
            client.tag("Ada", aggregate=False, **options),
            client.rerank("q", ["a", "b"], top_n=2, **options),
            client.tokenize("a", **common),
        )
    seen = [(call.method, call.request) for call in server.calls]
    server.calls.clear()
    async with AsyncClient(server.target) as client_too:
        await client_too.embed(["ab", "c"], truncate=True, prompt="", dimensions=2, normalize=False, **common)
        awaited = (
            await client_too.classify("a", "b", **options),
            await client_too.tag("Ada", aggregate=False, **options),
            await client_too.rerank("q", ["a", "b"], top_n=2, **options),
            await client_too.tokenize("a", **common),
        )
    assert blocking == awaited
    assert [(call.method, call.request) for call in server.calls] == seen
    assert vectors.vectors.tolist() == [[2.0, 1.0], [1.0, 1.0]]
    assert (vectors.reading.tokens, vectors.reading.truncated) == ((2, 1), (0,))
    classified, tagged, ranked, tokenized = blocking
    assert (classified.labels, classified.classifications) == (("no", "yes"), (Classification((0.25, 0.75)),))
    assert tagged.taggings[0].spans == (Span(0, 3, "PER", 0.5),)
    assert ranked.ranking == (RankedText(1, 0.5), RankedText(0, 0.25))
    assert tokenized.tokenizations[0].tokens == ("[CLS]", "a")
    requests = [
        inference_pb2.EmbedRequest(
            texts=["ab", "c"], truncate=True, prompt="", dimensions=2, normalize=False, **common
        ),
        inference_pb2.ClassifyRequest(texts=["a"], second_texts=["b"], **options),
        inference_pb2.TagRequest(texts=["Ada"], aggregation=inference_pb2.AGGREGATION_NONE, **options),
        inference_pb2.RerankRequest(query="q", texts=["a", "b"], top_n=2, **options),
        inference_pb2.TokenizeRequest(texts=["a"], **common),
    ]
    assert [request.SerializeToString() for request in requests] == [raw for _, raw in seen]


def test_what_is_not_said_is_not_sent() -> None:
    """Without a prompt and a wish about the length the model's own hold, which no value on the wire says."""
    arguments: dict[str, Any] = {"model": "", "version": 0, "truncate": False, "dimensions": 0}
    request = codec.embed_request("a", prompt=None, normalize=None, **arguments)
    assert not request.HasField("prompt")
    assert not request.HasField("normalize")
    request = codec.embed_request("a", prompt="", normalize=False, **arguments)
    assert request.HasField("prompt")
    assert request.HasField("normalize")


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda client: client.embed(["a", "\ud800"]), "texts[1]"),
        (lambda client: client.embed("a", prompt="\ud800"), "prompt"),
        (lambda client: client.embed("a", dimensions=-1), "dimensions"),
        (lambda client: client.classify("a", ["b", "\ud800"]), "second_texts[1]"),
        (lambda client: client.rerank("\ud800", ["a"]), "query"),
        (lambda client: client.rerank("a", ["a"], top_n=2**32), "top_n"),
        (lambda client: client.tag("a", version=-1), "version"),
        (lambda client: client.tokenize("a", model="\ud800"), "model"),
    ],
)
def test_what_has_no_wire_form_is_refused_by_name(call: Callable[[Client], object], field: str) -> None:
    """A value that cannot be written names its field before anything is sent."""
    with Client("127.0.0.1:1") as client, pytest.raises(InvalidRequestError) as caught:
        call(client)
    assert caught.value.field == field


def streaming(answer: Any) -> Callable[[Iterator[bytes], grpc.ServicerContext], Iterator[bytes]]:  # noqa: ANN401
    """A script for a stream, on messages."""

    def script(raw: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        for response in answer(inference_pb2.EmbedStreamRequest.FromString(each) for each in raw):
            yield response.SerializeToString()

    return script


def response_to(request: inference_pb2.EmbedStreamRequest) -> inference_pb2.EmbedStreamResponse:
    return inference_pb2.EmbedStreamResponse(id=request.id, response=embedded(request.request))


def backwards(requests: Iterator[inference_pb2.EmbedStreamRequest]) -> Iterator[inference_pb2.EmbedStreamResponse]:
    """Answers in groups of four, the last first."""
    held: list[inference_pb2.EmbedStreamRequest] = []
    for request in requests:
        held.append(request)
        if len(held) == 4:
            yield from map(response_to, reversed(held))
            held.clear()
    yield from map(response_to, reversed(held))


async def test_answers_are_put_in_order(serve: Callable[..., ScriptedServer]) -> None:
    """However the server answers, results come in the order of the items, from both clients."""
    server = serve(streams={"EmbedStream": streaming(backwards)})
    items: list[str | list[str]] = ["x" * (index % 7) for index in range(150)]
    items[3] = ["a", "bc"]
    with Client(server.target) as client:
        blocking = list(client.embed_stream(items))
    async with AsyncClient(server.target) as client_too:
        awaited = [each async for each in client_too.embed_stream(items)]
    for results in (blocking, awaited):
        assert [each.index for each in results] == list(range(150))
        assert results[3].get().vectors.tolist() == [[1.0, 1.0], [2.0, 1.0]]
        assert results[149].get().vectors.tolist() == [[float(len(items[149])), 1.0]]


async def test_only_so_many_messages_are_ahead(serve: Callable[..., ScriptedServer]) -> None:
    """The input is read only as results are taken, plus a few: an input of any length costs little."""
    server = serve(streams={"EmbedStream": streaming(lambda requests: map(response_to, requests))})
    read = 0

    def endless() -> Iterator[str]:
        nonlocal read
        while True:
            read += 1
            yield "a"

    with Client(server.target) as client:
        results = client.embed_stream(endless())
        for taken in range(1, 4):
            next(results)
            assert read <= taken + MESSAGES_IN_FLIGHT
        results.close()
    read = 0
    async with AsyncClient(server.target) as client_too, aclosing(client_too.embed_stream(endless())) as awaited:
        async for each in awaited:
            assert read <= each.index + 1 + MESSAGES_IN_FLIGHT
            if each.index == 3:
                break


ERRORS = [
    (3, "texts[2]: is empty", 0.0, InvalidRequestError),
    (3, "bad", 0.0, InvalidRequestError),
    (5, "no such model", 0.0, NotFoundError),
    (14, "busy", 0.5, OverloadedError),
    (4, "too late", 0.0, DeadlineExceededError),
    (13, "internal error 12ab", 0.0, InternalServerError),
    (99, "news", 0.0, HeadwaiterError),
    (9, "", 0.0, HeadwaiterError),
]


def test_errors_of_messages_are_exceptions(serve: Callable[..., ScriptedServer]) -> None:
    """A refused message has the exception that a refused call would have raised; the others have their vectors."""

    def answer(requests: Iterator[inference_pb2.EmbedStreamRequest]) -> Iterator[inference_pb2.EmbedStreamResponse]:
        for request, (code, message, seconds, _) in zip(requests, ERRORS, strict=False):
            error = inference_pb2.StreamError(code=code, message=message, retry_seconds=seconds)
            yield inference_pb2.EmbedStreamResponse(id=request.id, error=error)
        yield from map(response_to, requests)

    server = serve(streams={"EmbedStream": streaming(answer)})
    with Client(server.target) as client:
        results = list(client.embed_stream(["a"] * len(ERRORS)))
    assert [type(each.error) for each in results] == [kind for *_, kind in ERRORS]
    first, busy = results[0].error, results[3].error
    assert isinstance(first, InvalidRequestError)
    assert (first.field, first.description) == ("texts[2]", "is empty")
    assert isinstance(busy, OverloadedError)
    assert busy.retry_after_seconds == 0.5
    with pytest.raises(NotFoundError):
        results[2].get()


async def test_a_stream_that_is_refused_raises(serve: Callable[..., ScriptedServer]) -> None:
    """The status of the stream is the exception of its iteration, after the results that had come."""

    def script(raw: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        yield response_to(inference_pb2.EmbedStreamRequest.FromString(next(raw))).SerializeToString()
        # Read before the status comes, which may overtake it.
        assert read.wait(20)
        refuse(context, grpc.StatusCode.UNAVAILABLE, "leaving", detail=retry_info(0.25), pushback="250")

    server = serve(streams={"EmbedStream": script})
    read = threading.Event()
    with Client(server.target) as client:
        results = client.embed_stream(["a", "b"])
        assert next(results).index == 0
        read.set()
        with pytest.raises(OverloadedError, match="leaving") as caught:
            next(results)
    assert caught.value.retry_after_seconds == 0.25
    read = threading.Event()
    async with AsyncClient(server.target) as client_too:
        awaited = client_too.embed_stream(["a", "b"])
        assert (await anext(awaited)).index == 0
        read.set()
        with pytest.raises(OverloadedError, match="leaving"):
            await anext(awaited)


async def test_a_missing_answer_is_noticed(serve: Callable[..., ScriptedServer]) -> None:
    """A server that ends the stream without an answer to each message has failed."""
    server = serve(
        streams={"EmbedStream": streaming(lambda requests: (response_to(each) for each in list(requests)[1:]))}
    )
    with Client(server.target) as client, pytest.raises(InternalServerError, match="message 0 of 2"):
        list(client.embed_stream(["a", "b"]))
    async with AsyncClient(server.target) as client_too:
        with pytest.raises(InternalServerError, match="message 0 of 2"):
            [each async for each in client_too.embed_stream(["a", "b"])]


async def test_a_stream_has_no_deadline_of_its_own(serve: Callable[..., ScriptedServer]) -> None:
    """A stream lasts as long as its input, unless it is given a deadline."""

    def script(raw: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        ended = threading.Event()  # one for each call: an earlier call may end here after a later one began
        if context.add_callback(ended.set):
            ended.wait()
        yield from ()

    server = serve(streams={"EmbedStream": script})
    with Client(server.target) as client, pytest.raises(DeadlineExceededError):
        list(client.embed_stream(["a"], timeout_seconds=0.05))
    async with AsyncClient(server.target) as client_too:
        with pytest.raises(DeadlineExceededError):
            [each async for each in client_too.embed_stream(["a"], timeout_seconds=0.05)]
        with pytest.raises(ValueError, match="timeout_seconds"):
            [each async for each in client_too.embed_stream(["a"], timeout_seconds=0)]


def test_streams_of_closed_clients_and_missing_servers(serve: Callable[..., ScriptedServer]) -> None:
    """A stream fails as a call does where there is nobody to talk to."""
    server = serve()
    client = Client(server.target, retries=False)
    client.close()
    with pytest.raises(RuntimeError, match="closed"):
        next(client.embed_stream(["a"]))
    server.stop()
    with Client(server.target, retries=False) as client, pytest.raises(ServerUnreachableError):
        next(client.embed_stream(["a"]))
