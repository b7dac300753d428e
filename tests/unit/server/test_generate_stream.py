"""`GenerateStream`: what is generated is told as it comes, and a reader may be slow, or go."""

from __future__ import annotations

import asyncio
import tracemalloc

import grpc
import pytest
from headwaiter_proto.v1 import inference_pb2
from headwaiter_server.errors import DrainingError, EngineError, HeadwaiterError
from headwaiter_server.generation.beams import Hypothesis
from headwaiter_server.generation.sequence import FinishReason
from headwaiter_server.pipeline import GenerationPiece
from headwaiter_server.rpc import generation

from .generating import SMALL_WINDOW, Message, Script, Served, StreamCall, fill, serving

WAITING_PIECES = 10_000


async def rest(call: StreamCall) -> list[Message]:
    """The messages that are still to come."""
    messages: list[Message] = []
    async with asyncio.timeout(20):
        while isinstance(message := await call.read(), Message):
            messages.append(message)
    return messages


async def piece(call: StreamCall) -> Message:
    """The next message."""
    async with asyncio.timeout(10):
        message = await call.read()
    assert isinstance(message, Message)
    return message


async def test_pieces_come_one_by_one_and_add_up() -> None:
    """Each is there before the next token is; the first says who answers, the last how it ended."""
    async with serving() as it:
        call = it.stream("3 4 5")
        script = await it.lane.script()
        pieces = []
        for number, text in enumerate(("He", "", "llo"), 10):
            script.say(text, number)
            pieces.append(await piece(call))
        script.end("!", 13, finish_reason=FinishReason.END_OF_SEQUENCE)
        pieces += await rest(call)
        assert [(each.model, each.version, each.variant) for each in pieces] == [("m", 1, "fp32"), *[("", 0, "")] * 3]
        assert [each.text for each in pieces] == ["He", "", "llo", "!"]
        assert [list(each.token_ids) for each in pieces] == [[10], [11], [12], [13]]
        seconds = [each.token_seconds[0] for each in pieces]
        assert seconds == sorted(seconds)
        assert seconds[0] > 0
        assert [each.HasField("finished") for each in pieces] == [False, False, False, True]
        finished = pieces[-1].finished
        assert (finished.finish_reason, finished.source_tokens) == (inference_pb2.FINISH_REASON_END_OF_SEQUENCE, 3)
        assert (finished.text, list(finished.token_ids), list(finished.token_seconds)) == ("", [], [])
        assert [each.HasField("timings") for each in pieces] == [False, False, False, True]
        timings = pieces[-1].timings
        assert (timings.queue_seconds, timings.batch_id, timings.batch_size) == (0.25, 5, 3)
        assert timings.total_seconds > seconds[-1]
        trailers = {key: value for key, value in await call.trailing_metadata() if key.startswith("headwaiter-")}
        assert list(trailers) == ["headwaiter-first-token-seconds"]
        assert 0 < float(trailers["headwaiter-first-token-seconds"]) <= timings.total_seconds
        await it.over()
        assert it.calls("OK") == 1
        counts = it.counts
        assert (counts.computed, counts.rows, counts.success.count) == (1, 1, 1)
        # The last part of the answer was there before it was out, and after the first piece.
        assert counts.output_seconds > 0
        assert counts.infer_seconds > seconds[2] - seconds[0]


async def test_texts_of_a_call_are_told_apart() -> None:
    """Their pieces come as they are generated, and each ends when it does, however long the others take."""
    async with serving() as it:
        call = it.stream("3", "4", "5")
        first, second, third = [await it.lane.script(index) for index in range(3)]
        told = []
        for script, text in ((second, "b"), (first, "a"), (second, "B")):
            script.say(text, 20)
            told.append(await piece(call))
        second.end()
        told.append(await piece(call))
        assert [(each.index, each.text) for each in told] == [(1, "b"), (0, "a"), (1, "B"), (1, "")]
        assert told[-1].finished.source_tokens == 1
        assert not told[-1].HasField("timings")
        third.end("c", 21)
        first.end("A", 22)
        last = await rest(call)
        assert [(each.index, each.text, each.HasField("timings")) for each in last] == [(2, "c", False), (0, "A", True)]
        assert all(each.HasField("finished") for each in last)


async def test_tokens_that_come_at_once_are_one_piece() -> None:
    """What several iterations gave before the writer's turn is joined: texts, tokens, times and log-probabilities."""
    async with serving() as it:
        call = it.stream(logprobs=1)
        script = await it.lane.script()
        script.say("a", 10)
        script.say("b", 11)
        script.end("c", 12)
        (only,) = await rest(call)
        assert (only.text, list(only.token_ids), len(only.token_seconds)) == ("abc", [10, 11, 12], 3)
        assert [each.token for each in only.logprobs] == ["<10>", "<11>", "<12>"]
        assert list(only.logprobs[0].top_token_ids) == [7]
        assert list(only.logprobs[0].top_tokens) == ["<7>"]
        assert only.HasField("finished")


async def test_beams_are_one_piece_with_what_came_second() -> None:
    """Nobody watches a text of beam search; it is told at its end, with the candidates after the best."""
    async with serving() as it:
        call = it.stream(num_beams=2, num_return_sequences=2, stop_token_ids=[9])
        script = await it.lane.script()
        assert script.entry.payload.watch is None
        assert script.entry.payload.text is None
        best, second = Hypothesis([10, 11], -0.25, 2), Hypothesis([12], -0.5, 9)
        script.end("", 10, 11, score=-0.25, hypotheses=(best, second))
        (only,) = await rest(call)
        assert (only.text, list(only.token_ids), list(only.token_seconds)) == (" 10 11", [10, 11], [])
        assert only.finished.score == -0.25
        (other,) = only.finished.alternatives
        assert (other.text, list(other.token_ids), other.score) == (" 12", [12], -0.5)
        assert other.finish_reason == inference_pb2.FINISH_REASON_STOP


async def test_slow_reader_gets_longer_pieces_and_holds_up_nobody() -> None:
    """While nothing is read, all that comes is one piece; meanwhile others are answered, and it keeps its place."""
    async with serving() as it, grpc.aio.insecure_channel(it.address, options=SMALL_WINDOW) as narrow:
        slow = it.stream(channel=narrow)
        script = await it.lane.script()
        told = await fill(script, 1000)
        # As much again: if the window had not been full by now, it would be.
        told += await fill(script, 1000, start=1000)
        quick = it.stream("5")
        (await it.lane.script(1)).end("quick", 1)
        assert [each.text for each in await rest(quick)] == ["quick"]
        assert it.admission.calls == 1
        script.end("", finish_reason=FinishReason.END_OF_SEQUENCE)
        await asyncio.sleep(0)
        assert it.admission.calls == 1
        pieces = await rest(slow)
        assert "".join(each.text for each in pieces) == told
        assert [each for piece in pieces for each in piece.token_ids] == [number % 90 for number in range(2000)]
        # What the window held came in small pieces; the rest in one, with the end.
        assert len(pieces) < 1000
        assert max(len(each.text) for each in pieces) > 1000 * 1024
        assert pieces[-1].HasField("finished")
        await it.over()
        assert it.calls("OK") == 2


async def test_what_waits_for_a_slow_reader_is_little_more_than_its_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond a message without room nothing is written, and thousands of pieces take the memory of what they say."""
    written: list[GenerationPiece] = []
    write = generation.write_piece

    def counted(piece: GenerationPiece) -> Message:
        written.append(piece)
        return write(piece)

    monkeypatch.setattr(generation, "write_piece", counted)
    async with serving() as it, grpc.aio.insecure_channel(it.address, options=SMALL_WINDOW) as narrow:
        call = it.stream(channel=narrow)
        script = await it.lane.script()
        script.say("x" * (1 << 20), 1)
        while not written:
            await asyncio.sleep(0)
        tracemalloc.start()
        try:
            for number in range(WAITING_PIECES):
                script.say(f"{number % 10}", number % 90)
                await asyncio.sleep(0)
            taken = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, "*/headwaiter_server/*")])
        finally:
            tracemalloc.stop()
        assert len(written) == 1
        # Of each token its character, a place for its number, one for its time, the time, and room to grow.
        held = sum(each.size for each in taken.statistics("filename"))
        assert WAITING_PIECES < held < 64 * WAITING_PIECES
        script.end()
        assert [len(each.token_ids) for each in await rest(call)] == [1, WAITING_PIECES]


async def test_slow_reader_of_several_texts_gets_each_whole() -> None:
    """What is joined is joined to the same text."""
    async with serving() as it, grpc.aio.insecure_channel(it.address, options=SMALL_WINDOW) as narrow:
        call = it.stream("3", "4", channel=narrow)
        scripts = [await it.lane.script(index) for index in range(2)]
        told = ["", ""]
        for turn in range(0, 200, 10):
            for index, script in enumerate(scripts):
                told[index] += await fill(script, 10, start=turn + 1000 * index)
        for script in scripts:
            script.end()
        pieces = await rest(call)
        assert ["".join(each.text for each in pieces if each.index == index) for index in range(2)] == told
        assert len(pieces) < 400


@pytest.mark.parametrize("reads", [True, False], ids=["a reader", "a reader that had stopped"])
async def test_caller_that_goes_frees_what_it_held(reads: bool) -> None:  # noqa: FBT001 - of the table
    """Breaking out cancels the call: nobody wants its texts any more, in the same moment."""
    async with serving() as it, grpc.aio.insecure_channel(it.address, options=SMALL_WINDOW) as narrow:
        call = it.stream("3", "4", channel=narrow)
        script = await it.lane.script()
        if reads:
            script.say("a", 10)
            await piece(call)
        else:
            await fill(script, 500)
        assert not script.unwanted()
        call.cancel()
        await it.over()
        assert script.unwanted()
        script.say("b", 11)
        script.end("c", 12)
        assert it.calls("CANCELLED") == 1


async def test_deadline_in_the_middle_leaves_what_was_told() -> None:
    """The call ends with its status, after all that was written."""
    async with serving() as it:
        call = it.stream(timeout=5.0)
        script = await it.lane.script()
        script.say("a", 10)
        assert (await piece(call)).text == "a"
        with pytest.raises(grpc.aio.AioRpcError) as late:
            await rest(call)
        assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await it.over()
        assert script.unwanted()
        assert it.calls("DEADLINE_EXCEEDED") == 1


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (EngineError("secret"), grpc.StatusCode.INTERNAL),
        (DrainingError("the server has shut down", 0.1), grpc.StatusCode.UNAVAILABLE),
    ],
)
async def test_failure_in_the_middle_comes_after_what_was_told(error: HeadwaiterError, code: grpc.StatusCode) -> None:
    """It has the status that a unary call would have, and says when the first piece was there."""
    async with serving() as it:
        call = it.stream()
        script = await it.lane.script()
        script.say("a", 10)
        assert (await piece(call)).text == "a"
        script.entry.fail(error)
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await rest(call)
        assert failed.value.code() is code
        assert "secret" not in (failed.value.details() or "")
        assert "headwaiter-first-token-seconds" in dict(failed.value.trailing_metadata())
        await it.over()
        assert it.calls(code.name) == 1


async def test_piece_that_cannot_be_written_ends_its_call_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the writer raises: the caller gets a status, and what the call held is free."""
    async with serving() as it:
        call, other = it.stream("3", "4"), it.stream("5")
        scripts = [await it.lane.script(index) for index in range(3)]
        (rest_of,) = [script for script in scripts if script.entry.payload.source.ids == [5]]
        write = generation.write_piece

        def fail_at(piece: GenerationPiece) -> Message:
            if piece.text == "broken":
                raise ValueError("secret")
            return write(piece)

        monkeypatch.setattr(generation, "write_piece", fail_at)
        next(script for script in scripts if script.entry.payload.source.ids == [3]).say("broken", 10)
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await rest(call)
        assert failed.value.code() is grpc.StatusCode.INTERNAL
        assert "secret" not in (failed.value.details() or "")
        assert [script.unwanted() for script in scripts if script is not rest_of] == [True, True]
        rest_of.end("whole", 11)
        assert [each.text for each in await rest(other)] == ["whole"]
        await it.over()
        assert (it.calls("INTERNAL"), it.calls("OK")) == (1, 1)


async def test_stream_of_a_full_server_is_refused_like_a_call() -> None:
    """By admission, before anything is read, with when to try again."""
    async with serving() as it:
        it.admission.close()
        call = it.stream()
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await rest(call)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "grpc-retry-pushback-ms" in dict(refused.value.trailing_metadata())
        assert not it.lane.scripts


async def test_running_streams_are_let_finish_when_the_server_leaves() -> None:
    """Who was let in is answered whole, and only then the server is empty."""
    async with serving() as it:
        call = it.stream()
        script = await it.lane.script()
        script.say("a", 10)
        await piece(call)
        it.admission.close()
        drained = asyncio.create_task(it.over())
        script.say("b", 11)
        assert (await piece(call)).text == "b"
        assert not drained.done()
        script.end("c", 12)
        assert [each.text for each in await rest(call)] == ["c"]
        await drained


async def streamed(it: Served, *texts: str) -> tuple[StreamCall, list[Script]]:
    """A call whose texts have been submitted."""
    before = len(it.lane.scripts)
    call = it.stream(*texts)
    return call, [await it.lane.script(before + index) for index in range(len(texts))]


async def test_remembered_answer_is_one_piece() -> None:
    """What was generated before is told at once, without times that it did not take; pieces are never waited for."""
    async with serving(cache_bytes=1 << 20) as it:
        call, (first,) = await streamed(it, "3 4")
        # The same text, twice: each is watched, so each runs; the first to be done answers all.
        both, (second, third) = await streamed(it, "3 4", "3 4")
        second.say("He", 10)
        assert (await piece(both)).text == "He"
        first.end("Hello", 10, 11)
        assert [each.text for each in await rest(call)] == ["Hello"]
        assert [(each.index, each.text) for each in await rest(both)] == [(0, "llo"), (1, "Hello")]
        third.say("late", 10)
        again = it.stream("3 4")
        (only,) = await rest(again)
        assert (only.text, list(only.token_ids), list(only.token_seconds)) == ("Hello", [10, 11], [])
        assert dict(await again.trailing_metadata())["headwaiter-cache-hits"] == "1"
        unary = await it.generate("3 4")
        assert (unary.generations[0].text, list(unary.generations[0].token_seconds)) == ("Hello", [])
        assert len(it.lane.scripts) == 3
