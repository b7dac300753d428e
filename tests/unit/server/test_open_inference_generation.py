"""Models that generate, over the Open Inference Protocol: whole answers of calls, and pieces on streams."""

from __future__ import annotations

import asyncio
import json
import math
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from fakes import BOS
from headwaiter_proto.inference import grpc_service_pb2
from headwaiter_proto.v1 import bundle_pb2
from headwaiter_server.batching.task import EncodingEntry, RunAnswer
from headwaiter_server.generation.beams import Hypothesis
from headwaiter_server.generation.sequence import FinishReason
from headwaiter_server.lifecycle.catalog import ServedModel
from headwaiter_server.lifecycle.signature import signature_of
from headwaiter_server.rpc.open_inference.elements import split_bytes
from headwaiter_server.shared_memory import Regions

from .generating import MAX_TEXTS, SMALL_WINDOW, WordTokenizer, fill, serving
from .open_inference import open_generation_request as request

Answer = grpc_service_pb2.ModelInferResponse
Streamed = grpc_service_pb2.ModelStreamInferResponse
Stream = grpc.aio.StreamStreamCall[Any, Streamed]


def strings(answer: Answer, name: str = "text") -> list[str]:
    """The rows of an output of BYTES."""
    names = [output.name for output in answer.outputs]
    output, raw = answer.outputs[names.index(name)], answer.raw_output_contents[names.index(name)]
    assert (output.datatype, list(output.shape)[1:]) == ("BYTES", [1])
    return [bytes(each).decode() for each in split_bytes(name, output.shape[0], raw, 0, len(raw))]


async def next_of(stream: Stream) -> Streamed:
    """The next message of a stream."""
    async with asyncio.timeout(10):
        message = await stream.read()
    assert isinstance(message, Streamed)
    return message


async def answer_of(stream: Stream) -> tuple[Answer, bool]:
    """The next answer, and whether it is its request's last."""
    message = await next_of(stream)
    assert message.error_message == ""
    return message.infer_response, message.infer_response.parameters["triton_final_response"].bool_param


async def test_call_is_answered_whole() -> None:
    """With the text alone; what else there is comes where it is named."""
    async with serving() as it:
        task = asyncio.create_task(it.infer(request("3", "4")))
        for index, text in enumerate(("Hello", "Salut")):
            (await it.lane.script(index)).end(text, 10)
        answer = await task
        assert [output.name for output in answer.outputs] == ["text"]
        assert strings(answer) == [" 10", " 10"]
        assert not answer.parameters
        outputs = ("finish_reason", "token_ids", "logprobs")
        task = asyncio.create_task(it.infer(request("3", outputs=outputs, logprobs=2, stop="x")))
        script = await it.lane.script(2)
        script.say("Hel", 10)
        script.end("lo", 11, finish_reason=FinishReason.STOP)
        answer = await task
        assert [output.name for output in answer.outputs] == list(outputs)
        assert strings(answer, "finish_reason") == ["stop"]
        assert json.loads(strings(answer, "token_ids")[0]) == [10, 11]
        first, second = json.loads(strings(answer, "logprobs")[0])
        assert first == {
            "token": "<10>",
            "logprob": -0.5,
            "top": [
                {"token_id": 7, "token": "<7>", "logprob": -0.5},
                {"token_id": 8, "token": "<8>", "logprob": -1.5},
            ],
        }
        assert (second["logprob"], second["top"]) == (-0.5, [])


async def test_candidates_of_beam_search_are_told_where_they_are_named() -> None:
    """The best one's score as a number, and the others with theirs."""
    async with serving() as it:
        task = asyncio.create_task(
            it.infer(request("3", outputs=("text", "score", "alternatives"), num_beams=2, num_return_sequences=2))
        )
        best, other = Hypothesis([10], -0.25, 2), Hypothesis([12, 13], -0.5, None)
        (await it.lane.script()).end("", 10, score=-0.25, hypotheses=(best, other))
        answer = await task
        assert strings(answer) == [" 10"]
        assert np.frombuffer(answer.raw_output_contents[1], np.float32).tolist() == [-0.25]
        assert json.loads(strings(answer, "alternatives")[0]) == [
            {"text": " 12 13", "token_ids": [12, 13], "score": -0.5, "finish_reason": "length"}
        ]


async def test_stream_answers_in_pieces_that_add_up() -> None:
    """Each has all rows, empty where there is nothing new, and the request's id; the last says that it is the last."""
    async with serving() as it:
        stream = it.open_stream()
        await stream.write(request("3", "4", outputs=("text", "token_ids", "finish_reason"), id="17"))
        first, second = [await it.lane.script(index) for index in range(2)]
        pieces = []
        first.say("He", 10)
        pieces.append(await answer_of(stream))
        second.end("Salut", 20, finish_reason=FinishReason.END_OF_SEQUENCE)
        pieces.append(await answer_of(stream))
        first.say("llo", 11)
        pieces.append(await answer_of(stream))
        first.end()
        pieces.append(await answer_of(stream))
        answers = [answer for answer, _ in pieces]
        assert [final for _, final in pieces] == [False, False, False, True]
        assert all("triton_final_response" in answer.parameters for answer in answers)
        assert {(answer.id, answer.model_name, answer.model_version) for answer in answers} == {("17", "m", "1")}
        assert [strings(answer) for answer in answers] == [["He", ""], ["", "Salut"], ["llo", ""], ["", ""]]
        assert [strings(answer, "token_ids") for answer in answers] == [
            ["[10]", "[]"],
            ["[]", "[20]"],
            ["[11]", "[]"],
            ["[]", "[]"],
        ]
        assert [strings(answer, "finish_reason") for answer in answers] == [
            ["", ""],
            ["", "end_of_sequence"],
            ["", ""],
            ["length", ""],
        ]
        await stream.done_writing()
        assert await stream.read() is grpc.aio.EOF
        assert await stream.code() is grpc.StatusCode.OK
        assert it.calls("OK", "inference.GRPCInferenceService/ModelStreamInfer") == 1
        assert (it.counts.computed, it.counts.rows, it.counts.cache_hit.count) == (1, 2, 0)


async def test_answers_to_several_requests_come_between_one_another() -> None:
    """A long answer holds up no other one of its stream; ids tell them apart, and errors leave the stream as it is."""
    async with serving() as it:
        stream = it.open_stream()
        await stream.write(request("3", id="long"))
        await stream.write(request("4", id="short"))
        long, short = [await it.lane.script(index) for index in range(2)]
        long.say("a", 10)
        told = [await answer_of(stream)]
        short.end("b", 11)
        told.append(await answer_of(stream))
        await stream.write(request("4", id="bad", temperature=-1.0))
        refusal = await next_of(stream)
        assert "temperature" in refusal.error_message
        assert refusal.infer_response.id == "bad"
        long.say("c", 12)
        told.append(await answer_of(stream))
        long.end()
        told.append(await answer_of(stream))
        assert [(answer.id, strings(answer)[0], final) for answer, final in told] == [
            ("long", "a", False),
            ("short", "b", True),
            ("long", "c", False),
            ("long", "", True),
        ]
        await stream.done_writing()
        assert await stream.read() is grpc.aio.EOF


class GatedLane:
    """The lane of an encoder that answers when the test says so."""

    def __init__(self) -> None:
        self.entries: list[EncodingEntry] = []

    def foresee(self, _terms: object, _texts: int) -> None:
        pass

    def submit(self, entries: list[EncodingEntry]) -> None:
        self.entries += entries

    def answer(self, index: int) -> None:
        self.entries[index].resolve(RunAnswer(np.array([float(index)], np.float32), 0.001, 0.002, 1, 2, 3))


def embedder(lane: GatedLane) -> ServedModel:
    manifest = bundle_pb2.Manifest(
        task=bundle_pb2.TASK_EMBED, embedding=bundle_pb2.Embedding(dimension=1, normalized=True)
    )
    tokenizer: Any = WordTokenizer()
    serving_lane: Any = lane
    return ServedModel("e", 1, "fp32", manifest, tokenizer, serving_lane, signature=signature_of(manifest, MAX_TEXTS))


async def test_pieces_come_between_answers_that_stay_in_order() -> None:
    """Models with one answer keep the order of their requests, and neither wait for those that generate nor these."""
    lane = GatedLane()
    async with serving(more=[embedder(lane)]) as it:
        stream = it.open_stream()
        for name, model in (("e1", "e"), ("g", "m"), ("e2", "e"), ("e3", "e")):
            await stream.write(request("3", id=name, model=model))
        script = await it.lane.script()
        async with asyncio.timeout(10):
            while len(lane.entries) < 3:
                await asyncio.sleep(0)
        lane.answer(1)
        script.say("a", 10)
        told = [(await answer_of(stream))[0].id]
        lane.answer(0)
        told += [(await answer_of(stream))[0].id for _ in range(2)]
        lane.answer(2)
        told.append((await answer_of(stream))[0].id)
        script.end()
        told.append((await answer_of(stream))[0].id)
        assert told == ["g", "e1", "e2", "e3", "g"]


async def test_score_of_a_row_that_goes_on_is_not_a_number_yet() -> None:
    """Rows of one request end one after the other; a number for each row stands in every piece."""
    async with serving() as it:
        stream = it.open_stream()
        await stream.write(request("3", "4", outputs=("score",), num_beams=2))
        first, second = [await it.lane.script(index) for index in range(2)]
        second.end("", 10, score=-0.25, hypotheses=(Hypothesis([10], -0.25, 2),))
        piece, _ = await answer_of(stream)
        first.end("", 11, score=-0.5, hypotheses=(Hypothesis([11], -0.5, 2),))
        last, final = await answer_of(stream)
        scores = [np.frombuffer(each.raw_output_contents[0], np.float32).tolist() for each in (piece, last)]
        assert math.isnan(scores[0][0])
        assert math.isnan(scores[1][1])
        assert (scores[0][1], scores[1][0], final) == (-0.25, -0.5, True)


async def test_failure_in_the_middle_is_told_after_the_pieces() -> None:
    """In the place of the last answer, under the request's id; the stream goes on, as do the others on it."""
    async with serving() as it:
        stream = it.open_stream()
        await stream.write(request("3", id="1", timeout=3_000_000))
        script = await it.lane.script()
        script.say("a", 10)
        assert strings((await answer_of(stream))[0]) == ["a"]
        late = await next_of(stream)
        assert "deadline" in late.error_message
        assert late.infer_response.id == "1"
        assert script.unwanted()
        await stream.write(request("3", id="2"))
        (await it.lane.script(1)).end("b", 11)
        assert await answer_of(stream) is not None


async def test_deadline_of_a_slow_reader_ends_its_request_alone() -> None:
    """It passes while a piece is on its way, which arrives whole, before the refusal; the stream goes on."""
    async with serving() as it, grpc.aio.insecure_channel(it.address, options=SMALL_WINDOW) as narrow:
        stream = it.open_stream(narrow)
        await stream.write(request("3", id="late", timeout=3_000_000))
        script = await it.lane.script()
        told = await fill(script, 500)
        await it.over()
        assert script.unwanted()
        await stream.write(request("3", id="next"))
        (await it.lane.script(1)).end("", 10)
        pieces, message = "", await next_of(stream)
        while not message.error_message:
            assert (message.infer_response.id, len(message.infer_response.outputs)) == ("late", 1)
            pieces += strings(message.infer_response)[0]
            message = await next_of(stream)
        assert "deadline" in message.error_message
        assert message.infer_response.id == "late"
        assert pieces
        assert told.startswith(pieces)
        answer, final = await answer_of(stream)
        assert (answer.id, final) == ("next", True)


async def test_caller_that_goes_frees_all_texts_of_its_stream() -> None:
    """Cancelling the stream leaves nobody who waits for them."""
    async with serving() as it:
        stream = it.open_stream()
        for name in ("1", "2"):
            await stream.write(request("3", id=name))
        scripts = [await it.lane.script(index) for index in range(2)]
        scripts[0].say("a", 10)
        await answer_of(stream)
        stream.cancel()
        await it.over()
        assert all(script.unwanted() for script in scripts)


async def test_request_for_an_empty_last_answer_gets_the_last_one() -> None:
    """The last answer has contents: nothing more comes after it, whether the caller would take an empty one or not."""
    async with serving() as it:
        stream = it.open_stream()
        await stream.write(request("3", triton_enable_empty_final_response=True))
        (await it.lane.script()).end("a", 10)
        answer, final = await answer_of(stream)
        assert (strings(answer), final) == (["a"], True)
        await stream.done_writing()
        assert await stream.read() is grpc.aio.EOF


async def test_pieces_cannot_go_into_shared_memory(tmp_path: Path) -> None:
    """A piece would be overwritten before it is read; a call's whole answer may."""
    (tmp_path / "object").write_bytes(bytes(100))
    regions = Regions(tmp_path)
    regions.register("r", "/object", 0, 100)
    wanted = request("3", outputs=("text",))
    wanted.outputs[0].parameters["shared_memory_region"].string_param = "r"
    wanted.outputs[0].parameters["shared_memory_byte_size"].int64_param = 100
    async with serving(regions=regions) as it:
        stream = it.open_stream()
        await stream.write(wanted)
        refusal = (await next_of(stream)).error_message
        assert refusal.startswith("outputs[text]: cannot go into shared memory in pieces")
        task = asyncio.create_task(it.infer(wanted))
        (await it.lane.script()).end("", 10)
        assert (await task).raw_output_contents == [b""]
        assert (tmp_path / "object").read_bytes().startswith(b"\x03\0\0\0 10\0")


def test_what_is_said_of_a_model_that_generates() -> None:
    """One output unasked, those more that are given where they are named, and any number of answers."""
    signature = signature_of(bundle_pb2.Manifest(task=bundle_pb2.TASK_GENERATE), MAX_TEXTS)
    assert [each.name for each in signature.outputs] == ["text"]
    assert [each.name for each in signature.more_outputs] == [
        "token_ids",
        "logprobs",
        "finish_reason",
        "alternatives",
        "score",
    ]
    assert signature.decoupled


@pytest.mark.parametrize("start_id", [BOS, None], ids=["encoder-decoder", "decoder-only"])
async def test_both_kinds_of_models_stream(start_id: int | None) -> None:
    """With an encoder or without."""
    async with serving(start_id=start_id) as it:
        stream = it.open_stream()
        await stream.write(request("3"))
        (await it.lane.script()).end("a", 10)
        assert (await answer_of(stream))[1]
