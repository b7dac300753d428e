"""Streams of generation over real sockets: pieces, wholes, errors, and calls that end when nobody reads on."""

from __future__ import annotations

import asyncio
import gc
import threading
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from headwaiter import (
    AsyncClient,
    CallCancelledError,
    Client,
    DeadlineExceededError,
    GenerationPiece,
    InternalServerError,
    InvalidRequestError,
    LikelyToken,
    OverloadedError,
    ServerUnreachableError,
)
from headwaiter_proto.v1 import inference_pb2
from unit.client.scripted_generation import (
    Endless,
    finished,
    piece,
    stream_of,
    upper_case_messages,
    upper_case_stream,
)
from unit.client.scripted_server import bad_request, refuse, retry_info

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from unit.client.scripted_server import ScriptedServer

Serve = Any  # what the fixture `serve` gives
WAIT_SECONDS = 20


@pytest.fixture
def server(serve: Callable[..., ScriptedServer]) -> ScriptedServer:
    """A server that generates upper case, piece by piece."""
    return serve(answer_streams={"GenerateStream": upper_case_stream})


async def both(server: ScriptedServer, texts: str | list[str], **options: Any) -> list[list[GenerationPiece]]:  # noqa: ANN401
    """The pieces that each kind of client gets."""
    with Client(server.target) as client:
        blocking = list(client.generate_stream(texts, **options))
    async with AsyncClient(server.target) as client_too:
        awaited = [each async for each in client_too.generate_stream(texts, **options)]
    return [blocking, awaited]


async def test_pieces_come_as_they_are_told(server: ScriptedServer) -> None:
    """Pieces of several texts interleave; each says whose it is, its tokens and their times; the last has the whole."""
    for pieces in await both(server, ["abc", "x"], logprobs=2):
        assert [(each.index, each.text) for each in pieces] == [(0, "A"), (1, "X"), (0, "B"), (0, "C")]
        assert [each.token_seconds for each in pieces] == [(0.125,), (0.125,), (0.25,), (0.375,)]
        assert pieces[2].logprobs[0].logprob == -66.0
        assert pieces[2].logprobs[0].top == (LikelyToken(0, "", 0.0), LikelyToken(1, "", 1.0))
        assert [each.finished is not None for each in pieces] == [False, True, False, True]
        whole = pieces[3].finished
        assert whole is not None
        assert (whole.text, whole.token_ids, whole.token_seconds) == ("ABC", (65, 66, 67), (0.125, 0.25, 0.375))
        assert [each.logprob for each in whole.logprobs] == [-65.0, -66.0, -67.0]
        assert (whole.finish_reason, whole.source_tokens, whole.seed) == ("end_of_sequence", 3, 7)


async def test_a_stream_gives_the_reply_of_a_call(server: ScriptedServer) -> None:
    """`reply()` reads what is left, and has every text, also what had been read before; it can be asked again."""
    with Client(server.target) as client, client.generate_stream(["ab", "cd"], seed=9) as stream:
        assert next(stream).text == "A"
        reply = stream.reply()
        assert stream.reply() == reply
        assert list(stream) == []
    assert (reply.model, reply.version, reply.variant) == ("shout", 3, "fp32")
    assert [each.text for each in reply.generations] == ["AB", "CD"]
    assert [each.seed for each in reply.generations] == [9, 9]
    assert (reply.timings.total_seconds, reply.timings.batch_id) == (0.5, 41)
    async with AsyncClient(server.target) as client_too, client_too.generate_stream(["ab", "cd"], seed=9) as stream_too:
        assert (await anext(stream_too)).text == "A"
        assert await stream_too.reply() == reply


async def test_timings_may_come_alone(serve: Serve) -> None:
    """A message that has nothing of a text is no piece."""
    server = serve(
        answer_streams={"GenerateStream": stream_of(finished(piece(0, "A")), inference_pb2.GenerateStreamResponse())}
    )
    for pieces in await both(server, "a"):
        assert [each.text for each in pieces] == ["A"]


async def test_no_texts_are_no_pieces(server: ScriptedServer) -> None:
    """A call without texts, should a server take it, has an empty stream."""
    assert await both(server, []) == [[], []]


def test_breaking_out_ends_the_call(serve: Serve) -> None:
    """A plain loop that is left early lets go of the stream, and the server hears of it."""
    endless = Endless()
    server = serve(answer_streams={"GenerateStream": endless})
    endless.say("A")
    with Client(server.target) as client:
        for each in client.generate_stream("a"):
            assert each.text == "A"
            break
        assert endless.gone.wait(WAIT_SECONDS)


async def test_breaking_out_ends_an_awaited_call(serve: Serve) -> None:
    """The same with asyncio."""
    endless = Endless()
    server = serve(answer_streams={"GenerateStream": endless})
    endless.say("A")
    async with AsyncClient(server.target) as client:
        async for each in client.generate_stream("a"):
            assert each.text == "A"
            break
        assert await asyncio.to_thread(endless.gone.wait, WAIT_SECONDS)


def test_leaving_the_block_ends_the_call(serve: Serve) -> None:
    """Of a stream that is still held, leaving `with` ends the call; reading on says so."""
    endless = Endless()
    server = serve(answer_streams={"GenerateStream": endless})
    endless.say("A")
    with Client(server.target) as client:
        with client.generate_stream("a") as stream:
            assert next(stream).text == "A"
            assert not endless.gone.is_set()
        assert endless.gone.wait(WAIT_SECONDS)
        with pytest.raises(CallCancelledError, match=r"^the stream was closed before its end$"):
            next(stream)
        with pytest.raises(CallCancelledError, match=r"^the stream was closed before its end$"):
            stream.reply()


async def test_leaving_the_block_ends_an_awaited_call(serve: Serve) -> None:
    """The same with asyncio; nobody sees a cancellation of a task that nobody cancelled."""
    endless = Endless()
    server = serve(answer_streams={"GenerateStream": endless})
    endless.say("A")
    async with AsyncClient(server.target) as client:
        async with client.generate_stream("a") as stream:
            assert (await anext(stream)).text == "A"
            assert not endless.gone.is_set()
        assert await asyncio.to_thread(endless.gone.wait, WAIT_SECONDS)
        with pytest.raises(CallCancelledError):
            await anext(stream)
        with pytest.raises(CallCancelledError):
            await stream.reply()


async def test_a_cancelled_task_ends_its_call(serve: Serve) -> None:
    """A task that is cancelled while it waits for a piece sees that, and its call ends."""
    endless = Endless()
    server = serve(answer_streams={"GenerateStream": endless})
    async with AsyncClient(server.target) as client:
        stream = client.generate_stream("a")
        endless.say("A")
        assert (await anext(stream)).text == "A"
        waiting = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert await asyncio.to_thread(endless.gone.wait, WAIT_SECONDS)


def test_garbage_of_another_thread_ends_the_call(serve: Serve) -> None:
    """A stream that a cycle kept alive ends its call when it is collected, by any thread, loop or no loop."""
    endless = Endless()
    server = serve(answer_streams={"GenerateStream": endless})
    endless.say("A")

    async def run() -> None:
        async with AsyncClient(server.target) as client:
            cycle: list[Any] = [client.generate_stream("a")]
            cycle.append(cycle)
            assert (await anext(cycle[0])).text == "A"
            del cycle
            collector = threading.Thread(target=gc.collect)
            collector.start()
            await asyncio.to_thread(collector.join)
            assert await asyncio.to_thread(endless.gone.wait, WAIT_SECONDS)

    asyncio.run(run())


async def test_closing_the_client_ends_its_streams(serve: Serve) -> None:
    """Whoever reads a stream of a closed client is told so, from both."""
    for kind in (Client, AsyncClient):
        endless = Endless()
        client: Any = kind(serve(answer_streams={"GenerateStream": endless}).target)
        stream = client.generate_stream("a")
        endless.say("A")
        if isinstance(client, AsyncClient):
            assert (await anext(stream)).text == "A"
            await client.close()
            with pytest.raises(CallCancelledError):
                await anext(stream)
        else:
            assert next(stream).text == "A"
            client.close()
            with pytest.raises(CallCancelledError):
                next(stream)
        assert await asyncio.to_thread(endless.gone.wait, WAIT_SECONDS)


def failing_at_first(times: int) -> tuple[list[bytes], Any]:
    """A script that refuses so many attempts before their first piece."""
    seen: list[bytes] = []

    def answer(raw: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        seen.append(raw)
        if len(seen) <= times:
            refuse(context, grpc.StatusCode.UNAVAILABLE, "busy", detail=retry_info(0.25))
        yield from upper_case_stream(raw, context)

    return seen, answer


async def test_what_is_refused_before_the_first_piece_is_tried_again(serve: Serve) -> None:
    """Two refusals are invisible to both clients; the fourth is final and says when to come back."""
    seen, answer = failing_at_first(2)
    server = serve(answer_streams={"GenerateStream": answer})
    with Client(server.target) as client:
        assert [each.text for each in client.generate_stream("ab")] == ["A", "B"]
    assert len(seen) == 3
    seen.clear()
    async with AsyncClient(server.target) as client_too:
        assert [each.text async for each in client_too.generate_stream("ab")] == ["A", "B"]
    assert len(seen) == 3
    seen, answer = failing_at_first(99)
    with (
        Client(serve(answer_streams={"GenerateStream": answer}).target) as client,
        pytest.raises(OverloadedError, match="busy") as caught,
    ):
        next(client.generate_stream("a"))
    assert caught.value.retry_after_seconds == 0.25
    assert len(seen) == 4


async def test_what_fails_after_the_first_piece_is_not_tried_again(serve: Serve) -> None:
    """Pieces that had come stay good; then the error is raised, once and for all."""
    seen = []

    def answer(raw: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        seen.append(raw)
        yield piece(0, "A").SerializeToString()
        # Read before the status comes, which may overtake it.
        assert read.wait(WAIT_SECONDS)
        refuse(context, grpc.StatusCode.UNAVAILABLE, "leaving", detail=retry_info(0.25))

    server = serve(answer_streams={"GenerateStream": answer})
    read = threading.Event()
    with Client(server.target) as client:
        stream = client.generate_stream("a")
        assert next(stream).text == "A"
        read.set()
        for _ in range(2):
            with pytest.raises(OverloadedError, match="leaving"):
                next(stream)
    assert len(seen) == 1
    read = threading.Event()
    async with AsyncClient(server.target) as client_too:
        awaited = client_too.generate_stream("a")
        assert (await anext(awaited)).text == "A"
        read.set()
        for _ in range(2):
            with pytest.raises(OverloadedError, match="leaving"):
                await anext(awaited)
    assert len(seen) == 2


async def test_a_refused_text_is_named(serve: Serve) -> None:
    """Details of a status are those of other calls."""

    def answer(raw: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        detail = bad_request("texts[1]", "is too long")
        refuse(context, grpc.StatusCode.INVALID_ARGUMENT, "texts[1] is too long", detail=detail)
        yield b""

    server = serve(answer_streams={"GenerateStream": answer})
    with Client(server.target) as client, pytest.raises(InvalidRequestError) as caught:
        client.generate_stream(["a", "b"]).reply()
    assert (caught.value.field, caught.value.description) == ("texts[1]", "is too long")


async def test_a_stream_has_a_deadline_only_if_it_is_given_one(serve: Serve) -> None:
    """The client's own deadline is for calls with one answer; a stream's covers all of it."""

    def silent(raw: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        # One for each call: an earlier call may end here after a later one began.
        yield from Endless()(raw, context)

    server = serve(answer_streams={"GenerateStream": silent})
    with Client(server.target, timeout_seconds=0.001) as client:
        with pytest.raises(DeadlineExceededError):
            next(client.generate_stream("a", timeout_seconds=0.05))
        with pytest.raises(ValueError, match="timeout_seconds"):
            client.generate_stream("a", timeout_seconds=0)
    async with AsyncClient(server.target) as client_too:
        with pytest.raises(DeadlineExceededError):
            await anext(client_too.generate_stream("a", timeout_seconds=0.05))
    free = serve(answer_streams={"GenerateStream": upper_case_stream})
    with Client(free.target, timeout_seconds=0.5) as client:
        client.generate_stream("a").reply()
    assert free.calls[0].time_remaining > 3600


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([], "before text 0 of 2"),
        ([finished(piece(0, "A")), piece(1, "B")], "before text 1 of 2"),
        ([piece(2, "C")], "a piece of text 2"),
        ([finished(piece(0, "A")), piece(0, "B")], "a piece of text 0"),
    ],
)
async def test_a_stream_that_makes_no_sense_is_an_error(serve: Serve, messages: list[Any], words: str) -> None:
    """Texts without an end, texts that nobody sent, texts that go on after their end: all are the server's failure."""
    server = serve(answer_streams={"GenerateStream": stream_of(*messages)})
    with Client(server.target) as client, pytest.raises(InternalServerError, match=words):
        list(client.generate_stream(["a", "b"]))
    async with AsyncClient(server.target) as client_too:
        with pytest.raises(InternalServerError, match=words):
            await client_too.generate_stream(["a", "b"]).reply()


async def test_a_stream_that_makes_no_sense_is_ended(serve: Serve) -> None:
    """The server works no longer on what nobody can read, also while the error or the stream is held."""
    endless = [Endless(), Endless()]
    for each in endless:
        each.say("A")
    with Client(serve(answer_streams={"GenerateStream": endless[0]}).target) as client:
        stream = client.generate_stream([])
        with pytest.raises(InternalServerError, match="a piece of text 0"):
            next(stream)
        assert endless[0].gone.wait(WAIT_SECONDS)
        with pytest.raises(CallCancelledError):
            next(stream)
    async with AsyncClient(serve(answer_streams={"GenerateStream": endless[1]}).target) as client_too:
        stream_too = client_too.generate_stream([])
        with pytest.raises(InternalServerError, match="a piece of text 0"):
            await anext(stream_too)
        assert await asyncio.to_thread(endless[1].gone.wait, WAIT_SECONDS)
        with pytest.raises(CallCancelledError):
            await anext(stream_too)


def test_a_stream_is_closed_by_another_thread(serve: Serve) -> None:
    """A thread that waits for a piece is told that there will be none."""
    endless = Endless()
    server = serve(answer_streams={"GenerateStream": endless})
    with Client(server.target) as client:
        stream = client.generate_stream("a")

        def close() -> None:
            assert endless.called.wait(WAIT_SECONDS)
            stream.close()

        closing = threading.Thread(target=close)
        closing.start()
        with pytest.raises(CallCancelledError):
            next(stream)
        closing.join()
        assert endless.gone.wait(WAIT_SECONDS)


def test_a_stream_of_asyncio_takes_a_running_loop(server: ScriptedServer) -> None:
    """Outside of one no call begins that nobody could end."""
    client = AsyncClient(server.target)
    with pytest.raises(RuntimeError, match="no running event loop"):
        client.generate_stream("a")
    gc.collect()  # a warning would be an error
    assert server.calls == []


async def test_streams_of_closed_clients_and_missing_servers(serve: Serve) -> None:
    """A stream fails as a call does where there is nobody to talk to, or where a value cannot be written."""
    server = serve()
    client, client_too = Client(server.target, retries=False), AsyncClient(server.target, retries=False)
    with pytest.raises(InvalidRequestError):
        client.generate_stream("\udcff")
    client.close()
    await client_too.close()
    for closed in (client, client_too):
        with pytest.raises(RuntimeError, match="closed"):
            closed.generate_stream("a")
    server.stop()
    with Client(server.target, retries=False) as client, pytest.raises(ServerUnreachableError):
        next(client.generate_stream("a"))


def test_messages_make_up_what_a_call_answers() -> None:
    """The script of these tests is a good one: pieces add up to the texts."""
    request = inference_pb2.GenerateRequest(texts=["hello", "you"])
    messages = list(upper_case_messages(request))
    assert "".join(each.text for each in messages if each.index == 1) == "YOU"
