"""Options of generation: what reaches the model, and how wrong ones are refused, over both protocols."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Coroutine
from typing import Any, cast

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2, status_pb2
from headwaiter_proto.v1 import inference_pb2
from headwaiter_server.generation.decoding import Decoding
from headwaiter_server.rpc import generation

from .generating import MAX_CALL_BYTES, MAX_NEW_TOKENS, MAX_TOTAL_TOKENS, Served, WordTokenizer, serving
from .open_inference import open_generation_request as open_request

Options = dict[str, Any]


def violation(error: grpc.aio.AioRpcError) -> error_details_pb2.BadRequest.FieldViolation:
    """What the refusal of a request says."""
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, error.details()
    trailers = cast("Any", error.trailing_metadata())
    status = status_pb2.Status.FromString(dict(trailers)["grpc-status-details-bin"])
    bad = error_details_pb2.BadRequest()
    assert status.details[0].Unpack(bad)
    return bad.field_violations[0]


async def reached(it: Served, call: Coroutine[Any, Any, Any]) -> Decoding:
    """How the model was asked for the text of a call, which is then answered."""
    task = asyncio.create_task(call)
    script = await it.lane.script(len(it.lane.scripts))
    script.end("", 1)
    await task
    return script.decoding


async def refused(call: Coroutine[Any, Any, Any]) -> tuple[str, str]:
    """The field and the description that a call is refused with."""
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    found = violation(error.value)
    return found.field, found.description


ALL: Options = {
    "max_new_tokens": 9,
    "temperature": 0.7,
    "top_k": 5,
    "top_p": 0.9,
    "repetition_penalty": 1.5,
    "seed": 11,
    "stop": ["a", "b"],
    "stop_token_ids": [3, 4],
}
BEAMS: Options = {"num_beams": 4, "num_return_sequences": 2, "length_penalty": -0.5}


async def test_options_reach_the_model_alike_over_both_protocols() -> None:
    """Numbers, also of one precision, and lists; as integers, doubles or strings where parameters have them so."""
    async with serving() as it:
        typed = await reached(it, it.generate(**ALL))
        listed = ALL | {"stop": json.dumps(ALL["stop"]), "stop_token_ids": json.dumps(ALL["stop_token_ids"])}
        assert await reached(it, it.infer(open_request(**listed))) == typed
        strings = {name: str(value) for name, value in listed.items()}
        assert await reached(it, it.infer(open_request(**strings))) == typed
        assert typed == Decoding(
            max_new_tokens=9,
            temperature=float(np.float32(0.7)),
            top_k=5,
            top_p=float(np.float32(0.9)),
            repetition_penalty=1.5,
            seed=11,
            stop=("a", "b"),
            stop_token_ids=frozenset({3, 4}),
        )
        beams = await reached(it, it.generate(**BEAMS))
        assert (beams.num_beams, beams.num_return_sequences, beams.length_penalty) == (4, 2, -0.5)
        assert await reached(it, it.infer(open_request(outputs=("alternatives",), **BEAMS))) == beams
        one = await reached(it, it.infer(open_request(temperature=1, stop="x", stop_token_ids=3)))
        assert one == await reached(it, it.generate(temperature=1, stop=["x"], stop_token_ids=[3], seed=one.seed))


async def test_without_options_the_likeliest_tokens_are_generated_as_far_as_there_is_room() -> None:
    """Nothing given, and zeros where they mean nothing: one limit of the model, or what the text leaves of another."""
    async with serving() as it:
        plain = Decoding(max_new_tokens=MAX_NEW_TOKENS)
        assert await reached(it, it.generate()) == plain
        assert await reached(it, it.infer(open_request())) == plain
        zeros = inference_pb2.GenerateRequest(max_new_tokens=0, num_beams=0, num_return_sequences=0)
        assert await reached(it, it.generate(**{field.name: value for field, value in zeros.ListFields()})) == plain
        long = " ".join(["3"] * (MAX_TOTAL_TOKENS - 10))
        assert (await reached(it, it.generate(long))).max_new_tokens == 10
        field, description = await refused(it.generate(long, max_new_tokens=11))
        assert field == "max_new_tokens"
        assert description.startswith(f"is 11, but texts[0] has {MAX_TOTAL_TOKENS - 10} tokens")
        assert description.endswith(f"the limit is {MAX_TOTAL_TOKENS}")
        field, description = await refused(it.generate("3", f"{long} {long}"))
        assert (field, str(MAX_TOTAL_TOKENS) in description) == ("texts[1]", True)


@pytest.mark.parametrize(
    ("options", "field", "limit"),
    [
        ({"max_new_tokens": MAX_NEW_TOKENS + 1}, "max_new_tokens", str(MAX_NEW_TOKENS)),
        ({"temperature": -0.5}, "temperature", "between 0"),
        ({"temperature": float("nan")}, "temperature", "between 0"),
        ({"temperature": 101.0}, "temperature", "100"),
        ({"temperature": 1.0, "top_p": 0.0}, "top_p", "above 0"),
        ({"temperature": 1.0, "top_p": 1.5}, "top_p", "at most 1"),
        ({"repetition_penalty": 0.0}, "repetition_penalty", "0.01"),
        ({"repetition_penalty": float("inf")}, "repetition_penalty", "100"),
        ({"num_beams": 17}, "num_beams", "16"),
        ({"num_beams": 2, "temperature": 1.0}, "temperature", "num_beams"),
        ({"num_beams": 2, "stop": ["x"]}, "stop", "num_beams"),
        ({"length_penalty": 2.0}, "length_penalty", "num_beams"),
        ({"num_return_sequences": 2}, "num_return_sequences", "num_beams"),
        ({"num_beams": 2, "num_return_sequences": 3}, "num_return_sequences", "num_beams"),
        ({"logprobs": 21}, "logprobs", "20"),
        ({"stop": ["x", ""]}, "stop[1]", "is empty"),
        ({"stop": ["x" * 257]}, "stop[0]", "256"),
        ({"stop": ["x"] * 17}, "stop", "16"),
        ({"stop_token_ids": list(range(65))}, "stop_token_ids", "64"),
        ({"stop_token_ids": [100]}, "stop_token_ids", "99"),
    ],
    ids=str,
)
async def test_wrong_options_name_their_field_and_its_limit(options: Options, field: str, limit: str) -> None:
    """Over each protocol by its own path; nothing of such a call reaches the model."""
    async with serving() as it:
        stream = it.stream(**options)
        for call in (it.generate(**options), cast("Coroutine[Any, Any, Any]", stream.read())):
            named, description = await refused(call)
            assert named == field
            assert limit in description
        texts = {name: json.dumps(value) if isinstance(value, list) else value for name, value in options.items()}
        named, description = await refused(
            it.infer(open_request(outputs=("text", "logprobs", "alternatives"), **texts))
        )
        name, bracket, index = field.partition("[")
        assert named == f"parameters[{name}]{bracket}{index}"
        assert limit in description
        assert not it.lane.scripts


@pytest.mark.parametrize(
    ("options", "field", "says"),
    [
        ({"temperature": True}, "temperature", "is a bool, expected a double"),
        ({"temperature": "warm"}, "temperature", "is 'warm', expected a number"),
        ({"top_k": 0.5}, "top_k", "is a double, expected an integer"),
        ({"temperature": "9" * 5000}, "temperature", "99', expected a number"),
        ({"top_k": "9" * 5000}, "top_k", "99', expected a whole number"),
        ({"seed": "1.5"}, "seed", "is '1.5', expected a whole number"),
        ({"seed": -1}, "seed", "between 0"),
        ({"max_new_tokens": -1}, "max_new_tokens", "at least 1"),
        ({"stop": 1}, "stop", "is an integer"),
        ({"stop": "[1]"}, "stop", "JSON list of strings"),
        ({"stop": "[" * 20_000}, "stop", "JSON list of strings"),
        ({"stop": "[" + " " * 100_000}, "stop", "65536"),
        ({"stop_token_ids": '["3"]'}, "stop_token_ids", "JSON list of whole numbers"),
        ({"stop_token_ids": "[true]"}, "stop_token_ids", "JSON list of whole numbers"),
        ({"stop_token_ids": "[-1]"}, "stop_token_ids", "numbered from 0"),
        ({"logprobs": 2}, "logprobs", "takes output 'logprobs'"),
        ({"num_beams": 2, "num_return_sequences": 2}, "num_return_sequences", "takes output 'alternatives'"),
        ({"attention": True}, "attention", "is not known"),
        ({"top_q": 1}, "top_q", "is not known"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_parameters_of_a_wrong_kind_or_in_vain_are_refused(options: Options, field: str, says: str) -> None:
    """Also what would be without effect, as nothing that the request wants tells of it."""
    async with serving() as it:
        named, description = await refused(it.infer(open_request(**options)))
        assert named == f"parameters[{field}]"
        assert says in description
        assert not it.lane.scripts


async def test_score_is_told_of_beam_search_only() -> None:
    """An output that could not be filled is refused by its name."""
    async with serving() as it:
        assert (await refused(it.infer(open_request(outputs=("score",)))))[0] == "outputs[score]"


async def test_attention_takes_an_encoder() -> None:
    """A model that goes on with its text has nothing to attend to besides."""
    async with serving(start_id=None) as it:
        assert (await refused(it.generate(attention=True)))[0] == "attention"
    async with serving() as it:
        assert (await reached(it, it.generate(attention=True))).attention


@pytest.mark.parametrize(
    ("field", "entries"), [("stop", ["x"] * 20_000), ("stop_token_ids", [2**31] * 20_000)], ids=["stop", "tokens"]
)
async def test_long_lists_are_refused_before_they_are_parsed(
    field: str, entries: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message is looked through up to its limit only."""

    def parse(*_: object) -> None:
        raise AssertionError("it was parsed")

    async with serving() as it:
        monkeypatch.setattr("headwaiter_server.rpc.inference.parse", parse)
        named, description = await refused(it.generate(**{field: entries}))
        assert (named, "has more than" in description) == (field, True)


async def test_seeds_are_drawn_told_and_taken() -> None:
    """Without one, each text gets its own, and it is told; one that is given is each text's, and is told as well."""
    async with serving() as it:
        task = asyncio.create_task(it.generate("3", "3", temperature=1.0))
        scripts = [await it.lane.script(index) for index in range(2)]
        for script in scripts:
            script.end("", 1)
        seeds = [each.seed for each in (await task).generations]
        assert seeds == [script.decoding.seed for script in scripts]
        assert len(set(seeds)) == 2
        stream = it.stream("3", temperature=1.0, seed=2**64 - 1)
        script = await it.lane.script(2)
        script.end("", 1)
        told = await stream.read()
        assert isinstance(told, inference_pb2.GenerateStreamResponse)
        assert told.finished.seed == script.decoding.seed == 2**64 - 1
        greedy = asyncio.create_task(it.generate("3", seed=5))
        (await it.lane.script(3)).end("", 1)
        assert not (await greedy).generations[0].HasField("seed")


async def test_what_is_always_the_same_is_remembered() -> None:
    """The likeliest tokens, and those drawn with a given seed; not those of chance that nobody chose, nor attention."""
    async with serving(cache_bytes=1 << 20) as it:

        async def runs(**options: Any) -> int:  # noqa: ANN401 - fields of the request
            """How many of two equal calls reach the model."""
            before = len(it.lane.scripts)
            for _ in range(2):
                task = asyncio.create_task(it.generate("3 4", **options))
                while not task.done():
                    await asyncio.sleep(0)
                    for script in it.lane.scripts[before:]:
                        if not script.unwanted():
                            script.end("", 1)
                await task
            return len(it.lane.scripts) - before

        assert await runs() == 1
        assert await runs() == 0
        assert await runs(max_new_tokens=9) == 1
        assert await runs(stop=["x"]) == 1
        assert await runs(logprobs=0) == 1
        assert await runs(temperature=1.0, seed=5) == 1
        assert await runs(temperature=1.0, seed=6) == 1
        assert await runs(seed=6) == 0
        assert it.cache is not None
        kept = it.cache.entries
        assert await runs(temperature=1.0) == 2
        assert await runs(attention=True) == 2
        assert it.cache.entries == kept


@pytest.mark.parametrize(
    ("options", "field", "held_tokens", "further_tokens"),
    [({"attention": True}, "attention", 1200, 1200), ({"logprobs": 20}, "logprobs", 4000, 2000)],
    ids=["attention", "logprobs"],
)
async def test_what_is_told_of_tokens_counts_among_the_bytes_that_are_held(
    options: Options, field: str, held_tokens: int, further_tokens: int
) -> None:
    """By the most that it may be: what is more than all there is is refused, what is more than is free comes later."""
    async with serving() as it:
        named, description = await refused(it.generate(*["3"] * 7, "4 " * 200, **options))
        assert named == field
        assert f"the limit is {MAX_CALL_BYTES} for all calls together (--max-call-bytes)" in description
        assert description.endswith("; fewer texts, or a smaller max_new_tokens, take less")
        held = it.stream("3 " * 100, max_new_tokens=held_tokens, **options)
        script = await it.lane.script()
        with pytest.raises(grpc.aio.AioRpcError) as full:
            await it.generate("3 " * 100, max_new_tokens=further_tokens, **options)
        assert full.value.code() is grpc.StatusCode.UNAVAILABLE
        script.end("", 1)
        await held.read()
        await it.over()
        assert (await reached(it, it.generate("3", max_new_tokens=9, **options))).max_new_tokens == 9


async def test_a_whole_answer_counts_as_often_as_it_is_held() -> None:
    """As it was generated, as a message and as bytes; pieces that were sent are gone, but beams have none."""
    async with serving() as it:
        options: Options = {"logprobs": 20, "max_new_tokens": 4000}
        named, _ = await refused(it.generate("3 " * 100, **options))
        assert named == "logprobs"
        stream = it.stream("3 " * 100, **options)
        (await it.lane.script()).end("", 1)
        await stream.read()
        beams = it.stream("3 " * 100, num_beams=2, **options)
        with pytest.raises(grpc.aio.AioRpcError, match="logprobs"):
            await beams.read()


@pytest.mark.parametrize(("tokens", "aside"), [(3, False), (300, True)], ids=["little", "much"])
async def test_much_that_is_told_of_tokens_is_written_beside_the_event_loop(
    monkeypatch: pytest.MonkeyPatch,
    tokens: int,
    aside: bool,  # noqa: FBT001 - of the table
) -> None:
    """Thousands of log-probabilities take longer than one call may hold up all others, over both protocols."""
    threads: list[set[int]] = []
    word, write, dump = WordTokenizer.written, generation.write_reply, json.dumps

    def noting(done: Any) -> Any:  # noqa: ANN401 - any of the three
        def note(*given: Any, **named: Any) -> Any:  # noqa: ANN401 - see above
            threads[-1].add(threading.get_ident())
            return done(*given, **named)

        return note

    monkeypatch.setattr(WordTokenizer, "written", noting(word))
    monkeypatch.setattr(generation, "write_reply", noting(write))
    monkeypatch.setattr(json, "dumps", noting(dump))
    async with serving() as it:
        for index, call in enumerate(
            (
                it.generate("3", max_new_tokens=300, logprobs=20),
                it.infer(open_request("3", outputs=("logprobs",), max_new_tokens=300, logprobs=20)),
            )
        ):
            threads.append(set())
            task = asyncio.create_task(call)
            script = await it.lane.script(index)
            script.say("a" * tokens, *range(tokens))
            script.end()
            await task
            assert (threading.get_ident() not in threads[-1]) is aside
            assert threads[-1]
