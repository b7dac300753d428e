"""Messages get the outcomes that are theirs, over calls and over streams, also when a stream breaks."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import grpc
import pytest
from headwaiter_load.endpoint import Endpoint, open_channels
from headwaiter_load.outcome import OK, Outcome
from headwaiter_load.requests import Exchange
from headwaiter_load.senders import Sender, make_sender
from headwaiter_proto.v1 import inference_pb2
from unit.client.scripted_server import ScriptedServer, refuse
from unit.load import targets

EMBED = "/headwaiter.v1.InferenceService/Embed"
EMBED_STREAM = "/headwaiter.v1.InferenceService/EmbedStream"
INFER_STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"


@pytest.fixture
def serve() -> Iterator[Callable[..., ScriptedServer]]:
    servers: list[ScriptedServer] = []

    def start(**scripts: object) -> ScriptedServer:
        servers.append(ScriptedServer(**scripts).start())  # type: ignore[arg-type]  # as of `ScriptedServer`
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@asynccontextmanager
async def sending(server: ScriptedServer, exchange: Exchange, path: str, **endpoint: object) -> AsyncIterator[Sender]:
    """A sender to a server, closed in the end."""
    channels, metadata = open_channels(Endpoint(server.target, **endpoint))  # type: ignore[arg-type]  # as of `Endpoint`
    sender = make_sender(exchange, channels, path, metadata)
    try:
        yield sender
    finally:
        await sender.close()
        for channel in channels:
            await channel.close()


def embed_request(*texts: str) -> bytes:
    """A request of the task embed."""
    return inference_pb2.EmbedRequest(texts=texts).SerializeToString()


async def test_a_call_has_the_servers_status(serve: Callable[..., ScriptedServer]) -> None:
    """Codes and messages are the server's; a refused call is not tried again; metadata and deadline travel."""

    def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
        return b"12345" if request == b"good" else refuse(context, grpc.StatusCode.UNAVAILABLE, "full", pushback="1")

    server = serve(scripts={"Embed": answer})
    async with sending(server, "unary", EMBED, metadata=(("x-team", "red"),), connections=2) as sender:
        assert await sender.send(b"good", 5.0) == Outcome(OK, "", 5)
        assert await sender.send(b"bad", None) == Outcome("UNAVAILABLE", "full")
    assert len(server.calls) == 2
    assert server.calls[0].metadata["x-team"] == "red"
    # gRPC rounds a deadline up on its way, by a hundredth at most.
    assert 0 < server.calls[0].time_remaining <= 5.05


async def test_a_deadline_ends_a_call(serve: Callable[..., ScriptedServer]) -> None:
    """It is the server's deadline too."""
    server = serve(scripts={"Embed": targets.Stall(0.0, 30.0)})
    async with sending(server, "unary", EMBED) as sender:
        assert (await sender.send(b"", 0.05)).code == "DEADLINE_EXCEEDED"


async def test_answers_of_a_stream_find_their_messages(serve: Callable[..., ScriptedServer]) -> None:
    """Answers come in another order, one of them an error; each goes to whom it belongs."""
    server = serve(streams={"EmbedStream": targets.embed_stream})
    async with sending(server, "embed-stream", EMBED_STREAM) as sender:
        texts = ["a", "bad", "c", "d"]
        outcomes = await asyncio.gather(*(sender.send(embed_request(text), 20.0) for text in texts))
    assert [each.code for each in outcomes] == [OK, "INVALID_ARGUMENT", OK, OK]
    assert outcomes[1].message == "bad text"
    assert all(each.received_bytes for each in outcomes)


async def test_a_late_message_fails_alone(serve: Callable[..., ScriptedServer]) -> None:
    """A message that nobody answers is late by its own deadline; its stream goes on."""
    server = serve(streams={"EmbedStream": targets.embed_stream})
    async with sending(server, "embed-stream", EMBED_STREAM) as sender:
        assert (await sender.send(embed_request("a"), 0.05)).code == "DEADLINE_EXCEEDED"
        assert (await sender.send(embed_request("b"), 20.0)).code == OK


async def test_what_is_late_before_it_can_be_sent_is_not_sent(serve: Callable[..., ScriptedServer]) -> None:
    """While a server takes nothing in, what nobody waits for any more goes nowhere, and is not held either."""
    taken, texts = threading.Event(), []

    def read_later(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        assert taken.wait(20)
        for raw in requests:
            message = inference_pb2.EmbedStreamRequest.FromString(raw)
            texts.append(message.request.texts[0][:5])
            yield inference_pb2.EmbedStreamResponse(id=message.id).SerializeToString()

    server = serve(streams={"EmbedStream": read_later})
    async with sending(server, "embed-stream", EMBED_STREAM) as sender:
        # More than HTTP/2 lets through unread.
        large = [asyncio.create_task(sender.send(embed_request("large" + "x" * 2**21), 20.0)) for _ in range(8)]
        await asyncio.sleep(0)
        assert (await sender.send(embed_request("late"), 0.2)).code == "DEADLINE_EXCEEDED"
        taken.set()
        assert {outcome.code for outcome in await asyncio.gather(*large)} == {OK}
        assert (await sender.send(embed_request("last"), 20.0)).code == OK
    assert texts == ["large"] * 8 + ["last"]


async def test_a_broken_stream_fails_what_waits_and_is_opened_again(serve: Callable[..., ScriptedServer]) -> None:
    """The status of the stream is that of each message on it."""
    streams = 0

    def break_once(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        nonlocal streams
        streams += 1
        if streams == 1:
            # Both: of a stream that ends while a message is being written, grpc.aio does not tell the status.
            next(requests), next(requests)
            context.abort(grpc.StatusCode.UNAVAILABLE, "going down")
        yield from targets.embed_stream(requests, context)

    server = serve(streams={"EmbedStream": break_once})
    async with sending(server, "embed-stream", EMBED_STREAM) as sender:
        broken = await asyncio.gather(*(sender.send(embed_request(text), 20.0) for text in "ab"))
        again = await asyncio.gather(*(sender.send(embed_request(text), 20.0) for text in "cd"))
    assert broken == [Outcome("UNAVAILABLE", "going down")] * 2
    assert [each.code for each in again] == [OK, OK]


async def test_a_stream_of_inferences_is_matched_by_id(serve: Callable[..., ScriptedServer]) -> None:
    """Errors stand in the answers; of several answers to one message the final one counts."""
    server = serve(streams={"ModelStreamInfer": targets.model_stream_infer})
    async with sending(server, "infer-stream", INFER_STREAM) as sender:
        outcomes = [await sender.send(b"", 20.0) for _ in range(6)]
    assert [each.code for each in outcomes] == [OK] * 4 + ["UNKNOWN", OK]
    assert outcomes[4].message == "no luck"
