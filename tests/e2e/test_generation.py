"""Generation by the real command, with real models of both kinds: every option, streams, and mixed callers."""

from __future__ import annotations

import struct
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from headwaiter_proto.v1.inference_pb2 import (
    FINISH_REASON_END_OF_SEQUENCE,
    FINISH_REASON_LENGTH,
    FINISH_REASON_STOP,
    Generation,
    Hypothesis,
)

from .generating import (
    MODELS,
    OPTIONS,
    Generators,
    asked,
    put_together,
    texts_of_mixed_length,
    untimed,
    wait_until_nothing_is_held,
)
from .process import ServerProcess
from .tiny_generators import DECODER, TRANSLATOR

pytestmark = pytest.mark.torch

TEXTS = texts_of_mixed_length(6)


@pytest.mark.parametrize("model", MODELS)
def test_logprobs_are_of_the_likeliest_tokens_first(callers: Generators, model: str) -> None:
    """Greedy takes the likeliest token each time; what is told beside it is in order, and its probabilities below 1."""
    (found,) = callers.generate(model, TEXTS[0], logprobs=5, max_new_tokens=20)
    assert len(found.logprobs) == len(found.token_ids) == len(found.token_seconds)
    for token, told in zip(found.token_ids, found.logprobs, strict=True):
        assert token == told.top_token_ids[0]
        assert told.logprob == told.top_logprobs[0] < 0
        assert list(told.top_logprobs) == sorted(told.top_logprobs, reverse=True)
        assert len(set(told.top_token_ids)) == 5
    assert list(found.token_seconds) == sorted(found.token_seconds)


@pytest.mark.parametrize("model", MODELS)
def test_chance_begins_with_the_seed(callers: Generators, model: str) -> None:
    """The same seed gives the same text, also one that the server drew; cuts to one token leave no chance."""
    options = {"temperature": 1.2, "max_new_tokens": 20}
    drawn = [callers.generate(model, TEXTS[1], **options)[0] for _ in range(4)]
    assert len({each.seed for each in drawn}) == 4
    assert len({tuple(each.token_ids) for each in drawn}) > 1
    (again,) = callers.generate(model, TEXTS[1], seed=drawn[0].seed, **options)
    assert untimed(again) == untimed(drawn[0])
    (greedy,) = callers.generate(model, TEXTS[1], max_new_tokens=20)
    for cut in ({"top_k": 1}, {"top_p": 1e-6}):
        (found,) = callers.generate(model, TEXTS[1], seed=1, **options, **cut)
        assert found.token_ids == greedy.token_ids
    assert not greedy.HasField("seed")


@pytest.mark.parametrize("model", MODELS)
def test_beams_are_told_best_first(callers: Generators, model: str) -> None:
    """As many as were asked for, all different, each with its score and its text."""
    (best,) = callers.generate(model, TEXTS[2], num_beams=5, num_return_sequences=4, max_new_tokens=10)
    every: list[Generation | Hypothesis] = [best, *best.alternatives]
    assert len(every) == 4
    assert [each.score for each in every] == sorted((each.score for each in every), reverse=True)
    assert len({tuple(each.token_ids) for each in every}) == 4
    (alone,) = callers.generate(model, TEXTS[2], num_beams=5, max_new_tokens=10)
    assert (alone.token_ids, alone.score, len(alone.alternatives)) == (best.token_ids, best.score, 0)


@pytest.mark.parametrize("model", MODELS)
def test_stops_end_a_text(callers: Generators, model: str) -> None:
    """A stop string ends the text before it, a stop token as the model's own end does; each is named."""
    (free,) = callers.generate(model, TEXTS[3], max_new_tokens=40)
    middle = next(each for each in free.text[5:] if each.isascii() and each.isprintable())
    (found,) = callers.generate(model, TEXTS[3], max_new_tokens=40, stop=["never that", middle])
    assert found.text == free.text.partition(middle)[0]
    assert (found.finish_reason, found.stopped_by) == (FINISH_REASON_STOP, middle)
    assert list(found.token_ids) == list(free.token_ids)[: len(found.token_ids)]
    token = free.token_ids[4]
    (found,) = callers.generate(model, TEXTS[3], max_new_tokens=40, stop_token_ids=[token])
    assert list(found.token_ids) == list(free.token_ids)[: list(free.token_ids).index(token)]
    assert (found.finish_reason, found.stopped_by) == (FINISH_REASON_STOP, str(token))


@pytest.mark.parametrize("model", MODELS)
def test_lengths_and_penalties(callers: Generators, model: str) -> None:
    """Texts end at their limit or by themselves; a penalty makes them other texts."""
    found = [callers.generate(model, text, max_new_tokens=50)[0] for text in texts_of_mixed_length(12, seed=1)]
    assert {each.finish_reason for each in found} == {FINISH_REASON_LENGTH, FINISH_REASON_END_OF_SEQUENCE}
    assert {len(each.token_ids) == 50 for each in found if each.finish_reason == FINISH_REASON_LENGTH} == {True}
    other = [
        callers.generate(model, text, max_new_tokens=50, repetition_penalty=2.0)[0]
        for text in texts_of_mixed_length(12, seed=1)
    ]
    distinct = [sum(len(set(each.token_ids)) / max(1, len(each.token_ids)) for each in one) for one in (found, other)]
    assert distinct[0] < distinct[1]


def test_attention_is_told_of_models_that_have_it(callers: Generators) -> None:
    """Weights of each token over the source sum to 1; a model without an encoder has none, and says so."""
    (found,) = callers.generate(TRANSLATOR, TEXTS[0], attention=True, max_new_tokens=9)
    told = found.attention
    assert (len(told.tokens), len(told.source_tokens)) == (len(found.token_ids), found.source_tokens)
    weights = struct.unpack(f"<{len(told.weights) // 4}f", told.weights)
    row = len(told.source_tokens)
    assert len(weights) == len(told.tokens) * told.layers * told.heads * row
    for start in range(0, len(weights), row):
        assert sum(weights[start : start + row]) == pytest.approx(1.0, abs=1e-5)
    with pytest.raises(grpc.RpcError) as refused:
        callers.generate(DECODER, TEXTS[0], attention=True)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "attention" in (refused.value.details() or "")


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("options", OPTIONS, ids=lambda each: ",".join(each) or "greedy")
def test_pieces_add_up_to_the_answer(callers: Generators, model: str, options: dict[str, Any]) -> None:
    """Whatever is asked for, a stream tells what `Generate` answers: who answers first, the timings last."""
    whole = callers.generate(model, *TEXTS, **options)
    pieces = list(callers.stream(asked(model, *TEXTS, **options)))
    assert [untimed(each) for _, each in sorted(put_together(pieces).items())] == list(map(untimed, whole))
    assert (pieces[0].model, pieces[0].version, pieces[0].variant) == (model, 1, "fp32")
    assert not any(piece.model for piece in pieces[1:])
    assert [piece.HasField("timings") for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    if "num_beams" in options:
        assert len(pieces) == len(TEXTS)
    else:
        assert len(pieces) > len(TEXTS), "all came at once"


def test_pronounce_streams(callers: Generators) -> None:
    """The example's pieces are its phonemes, one by one."""
    (whole,) = callers.generate("pronounce", "onomatopoeia")
    stream = callers.stream(asked("pronounce", "onomatopoeia"))
    pieces = list(stream)
    assert "".join(piece.text for piece in pieces) == whole.text
    assert len(whole.text.split()) > 5
    assert len(pieces) > 3
    told = {name: float(value) for name, value in stream.trailing_metadata() if name.startswith("headwaiter-first")}
    assert told["headwaiter-first-token-seconds"] == pytest.approx(pieces[0].token_seconds[0], abs=0.5)


def test_callers_together_get_what_they_get_alone(served: ServerProcess, callers: Generators) -> None:
    """64 callers with texts and options of all kinds, unary and streamed: to the last bit what each is told alone."""
    requests = [
        asked(MODELS[number % 2], text, *TEXTS[: number % 3], **OPTIONS[number % len(OPTIONS)])
        for number, text in enumerate(texts_of_mixed_length(64, longest_words=22, seed=2))
    ]

    def answer(number: int) -> list[Generation]:
        request = requests[number]
        if number % 3:
            return [each for _, each in sorted(put_together(callers.stream(request)).items())]
        return callers.generate(request.model, *request.texts, **OPTIONS[number % len(OPTIONS)])

    alone = [answer(number) for number in range(len(requests))]
    with ThreadPoolExecutor(len(requests)) as pool:
        together = list(pool.map(answer, range(len(requests))))
    for one, other in zip(alone, together, strict=True):
        assert list(map(untimed, one)) == list(map(untimed, other))
    wait_until_nothing_is_held(served, *MODELS)
