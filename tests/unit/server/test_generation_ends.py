"""What ends a text, and what is told of it: pieces, stops, attention, hypotheses, times."""

from __future__ import annotations

import numpy as np
import pytest
from fakes import EchoModel, FakeClock, dice
from headwaiter_server.generation.decoding import Decoding
from headwaiter_server.generation.sequence import FinishReason, Generated, Progress
from headwaiter_server.generation.texts import TextStream

from .scheduler import Scheduler, scheduler

A = 10


def decode(ids: list[int]) -> str:
    """Tokens from 10 on are letters."""
    return "".join(chr(ord("a") + token - A) for token in ids)


def ids(text: str) -> list[int]:
    return [ord(letter) - ord("a") + A for letter in text]


async def told(parts: Scheduler, source: str, decoding: Decoding) -> tuple[Generated, list[Progress]]:
    """The answer to a text, and what was told meanwhile."""
    progress: list[Progress] = []
    stream = TextStream(decode, decoding.stop)
    (generated,) = await parts.submit(ids(source), decoding=decoding, text=stream, watch=progress.append).future
    assert "".join(each.text for each in progress) == generated.text
    assert [token.token_id for each in progress for token in each.tokens] == generated.token_ids
    assert len(generated.token_times) == len(generated.token_ids)
    return generated, progress


async def test_text_that_ends_by_itself() -> None:
    """The token that ends it is none of it, and in nothing that is told."""
    async with scheduler() as parts:
        generated, progress = await told(parts, "waiter", Decoding(20))
    assert (generated.text, generated.finish_reason) == ("waiter", FinishReason.END_OF_SEQUENCE)
    assert (decode(generated.token_ids), generated.stopped_by) == ("waiter", None)
    assert [each.text for each in progress] == list("waiter")


async def test_limit_ends_a_text_with_the_token_that_reaches_it() -> None:
    """The last token is told with the end; no step is run after it."""
    async with scheduler() as parts:
        generated, progress = await told(parts, "waiter", Decoding(3))
        assert (generated.text, generated.finish_reason) == ("wai", FinishReason.LENGTH)
        assert len(progress) == len(parts.model.steps) == 3


async def test_stop_string_ends_a_text_before_it() -> None:
    """Tokens go on up to it, text ends before it, and what may begin it is held back."""
    async with scheduler() as parts:
        generated, progress = await told(parts, "headwaiters", Decoding(20, stop=("xyz", "waiter", "ait")))
        assert (generated.text, generated.stopped_by) == ("headw", "ait")
        assert (decode(generated.token_ids), generated.finish_reason) == ("headwait", FinishReason.STOP)
        assert len(parts.model.steps) == 8
    assert [each.text for each in progress] == ["h", "e", "", "ad", "", "", "", "w"]


async def test_text_that_was_held_back_is_told_at_the_end() -> None:
    """What looked like the beginning of a stop string, and was none, comes with the end."""
    async with scheduler() as parts:
        generated, progress = await told(parts, "headwai", Decoding(20, stop=("waiter",)))
    assert (generated.text, generated.finish_reason) == ("headwai", FinishReason.END_OF_SEQUENCE)
    assert [each.text for each in progress] == ["h", "e", "a", "d", "", "", "", "wai"]
    assert progress[-1].tokens == ()


async def test_stop_string_that_is_found_at_the_end_counts() -> None:
    """Where text is certain only once there are no more tokens, it is stopped then, whatever has ended the tokens."""
    async with scheduler() as parts:
        stream = TextStream(decode, ("ait",), left_to_right=False)
        (generated,) = await parts.submit(ids("waiter"), text=stream).future
    assert (generated.text, generated.stopped_by, generated.finish_reason) == ("w", "ait", FinishReason.STOP)


async def test_stop_token_ends_a_text_and_is_none_of_it() -> None:
    """It is named, which the model's own end is not."""
    async with scheduler() as parts:
        (stop,) = ids("i")
        generated, _ = await told(parts, "waiter", Decoding(20, stop_token_ids=frozenset({stop, 97})))
    assert (generated.text, generated.stopped_by, generated.finish_reason) == ("wa", stop, FinishReason.STOP)


async def test_attention_is_that_of_the_step_that_gave_the_token() -> None:
    """Of each token, not of the end; the echo looks at the token that it repeats."""
    async with scheduler() as parts:
        mate = parts.submit(ids("soup"))
        (generated,) = await parts.submit(ids("waiter"), decoding=Decoding(20, attention=True)).future
        await mate.future
    assert generated.attention is not None
    assert generated.attention.shape == (6, 1, 1, 6)
    np.testing.assert_array_equal(generated.attention[:, 0, 0], np.eye(6))
    assert generated.tokens is None


async def test_log_probabilities_are_those_of_each_token() -> None:
    """One for each token of the answer, and only where they were asked for."""
    async with scheduler() as parts:
        (generated,) = await parts.submit(ids("soup"), decoding=Decoding(20, logprobs=2)).future
    assert generated.tokens is not None
    assert [each.token_id for each in generated.tokens] == generated.token_ids
    assert all(len(each.top) >= 2 and each.top[0][0] == each.token_id for each in generated.tokens)


@pytest.mark.parametrize("decoder_only", [False, True], ids=["encoder", "decoder only"])
async def test_beams_answer_at_the_end(*, decoder_only: bool) -> None:
    """Nothing is told while they are searched; the answer is the best of those that were asked for."""
    told: list[Progress] = []
    model = EchoModel(decoder_only=decoder_only, distribution=dice(2, end=1.0))
    async with scheduler(model) as parts:
        asked = Decoding(6, num_beams=4, num_return_sequences=3)
        (generated,) = await parts.submit(ids("soup"), decoding=asked, watch=told.append).future
        assert sum(len(facts.finish_reasons) for facts in parts.iterations) == 1
        assert not any(facts.first_tokens or facts.next_tokens for facts in parts.iterations)
    assert not told
    assert len(generated.hypotheses) == 3
    best = generated.hypotheses[0]
    assert (best.token_ids, best.score) == (generated.token_ids, generated.score)
    assert [each.score for each in generated.hypotheses] == sorted(
        (each.score for each in generated.hypotheses), reverse=True
    )


async def test_beams_that_a_token_stops_say_so() -> None:
    """The best hypothesis says why there is no more of it."""
    model = EchoModel(distribution=dice(2, end=-50.0))
    async with scheduler(model) as parts:
        asked = Decoding(30, num_beams=3, stop_token_ids=frozenset(range(20, 80)))
        (generated,) = await parts.submit(ids("soup"), decoding=asked).future
    assert generated.finish_reason is FinishReason.STOP
    assert generated.stopped_by == generated.hypotheses[0].ended_by
    assert generated.stopped_by not in generated.token_ids


async def test_times_of_tokens_are_those_of_their_iterations() -> None:
    """On the scheduler's clock, one for each token."""
    clock = FakeClock(100.0)
    async with scheduler(EchoModel(lambda: clock.advance(0.5)), clock=clock) as parts:
        (generated,) = await parts.submit([10, 11, 12]).future
    assert generated.token_times == (100.5, 101.0, 101.5)
