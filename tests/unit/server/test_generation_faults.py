"""One text fails alone, in every phase and with all ways to choose; its mates get the same tokens as ever."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from fakes import POISON, POISON_LATER, EchoModel, Turnstile, dice
from headwaiter_server.errors import EngineError
from headwaiter_server.generation.beams import BeamSearch
from headwaiter_server.generation.choosing import Chooser, ChosenToken
from headwaiter_server.generation.decoding import Decoding
from headwaiter_server.generation.sequence import Generated, Progress
from headwaiter_server.generation.texts import TextStream
from headwaiter_server.model.contract import FloatArray
from headwaiter_server.tokenizer import TextTokenizer
from tokenizers import Tokenizer, decoders, models

from .scheduler import Scheduler, scheduler

# Of mates; those of the text that fails are among them.
WAYS: list[dict[str, Any]] = [
    {},
    {"temperature": 1.0, "seed": 7, "logprobs": 2},
    {"num_beams": 3, "num_return_sequences": 3},
    {"repetition_penalty": 1.5},
]
LIMIT = 8


def fake(*, decoder_only: bool = True) -> EchoModel:
    return EchoModel(decoder_only=decoder_only, distribution=dice(4, end=1.0))


async def told(parts: Scheduler, *texts: tuple[Sequence[int], dict[str, Any]]) -> list[list[Generated] | BaseException]:
    """The answer to each text, each of a call of its own, all submitted at the same time."""
    calls = [parts.submit(source, decoding=Decoding(LIMIT, **way)) for source, way in texts]
    answers = await asyncio.gather(*(call.future for call in calls), return_exceptions=True)
    async with asyncio.timeout(10):
        while parts.lane.running or parts.lane.waiting or parts.dispatcher.busy_workers:
            await asyncio.sleep(0)
    assert (parts.lane.reserved_bytes, parts.lane.used_rows) == (0, 0)
    assert not parts.crashes
    return answers


def answer(told: list[Generated] | BaseException) -> tuple[object, ...]:
    assert isinstance(told, list), told
    (it,) = told
    return it.token_ids, it.tokens, it.hypotheses, it.finish_reason


PHASES = {
    "encoder": (False, [POISON, 20, 21]),
    "step with an encoder": (False, [POISON_LATER, 20, 21]),
    "first part of a prompt": (True, [20] * 10 + [POISON] + [20] * 100),
    "later part of a prompt": (True, [20] * 150 + [POISON]),
    "step": (True, [POISON_LATER] + [20] * 70),
}


@pytest.mark.parametrize("way", WAYS, ids=["greedy", "drawn", "beams", "penalty"])
@pytest.mark.parametrize("phase", PHASES)
async def test_text_fails_alone_in_every_phase(phase: str, way: dict[str, Any]) -> None:
    """Whatever it is doing, and whatever its mates are: their tokens, scores and log-probabilities are as ever."""
    decoder_only, poison = PHASES[phase]
    mates = [([30 + number] * length, WAYS[number % 4]) for number, length in enumerate([3, 70, 140, 5, 66, 9])]
    async with scheduler(fake(decoder_only=decoder_only), rows=20) as parts:
        expected = await told(parts, *mates)
    async with scheduler(fake(decoder_only=decoder_only), rows=20) as parts:
        found = await told(parts, *mates[:3], (poison, way), *mates[3:])
        failed = found.pop(3)
        assert isinstance(failed, EngineError)
        assert "secret" not in str(failed)
        assert [answer(each) for each in found] == [answer(each) for each in expected]
        assert len(parts.failures) == 1


async def test_choice_that_raises_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A text for which no token can be chosen fails; what its mates draw is what they would have drawn without it."""
    mates = [([30 + number], {"temperature": 1.0, "seed": number, "logprobs": 0}) for number in range(6)]
    bad = Decoding(LIMIT, temperature=0.5, seed=99)
    async with scheduler(fake()) as parts:
        expected = await told(parts, *mates)
    choose, draws = Chooser.next, 0

    def broken(self: Chooser, logits: FloatArray) -> ChosenToken:
        nonlocal draws
        draws += self._decoding == bad
        if self._decoding == bad and draws > 1:
            raise FloatingPointError("secret")
        return choose(self, logits)

    monkeypatch.setattr(Chooser, "next", broken)
    async with scheduler(fake()) as parts:
        found = await told(parts, *mates[:2], ([50], {"temperature": 0.5, "seed": 99}), *mates[2:])
        assert isinstance(found.pop(2), EngineError)
        assert [answer(each) for each in found] == [answer(each) for each in expected]


async def test_search_that_raises_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same with a beam search that breaks in its third step, beside another one that goes on."""
    mates = [([30], WAYS[2]), ([31], {}), ([32], WAYS[2])]
    async with scheduler(fake(), rows=16) as parts:
        expected = await told(parts, *mates)
    advance, steps = BeamSearch.advance, dict[BeamSearch, int]()

    def broken(self: BeamSearch, logits: FloatArray) -> list[tuple[int, int]]:
        steps[self] = steps.get(self, 0) + 1
        if steps[self] == 3 and list(steps).index(self) == 1:
            raise FloatingPointError("secret")
        return advance(self, logits)

    monkeypatch.setattr(BeamSearch, "advance", broken)
    async with scheduler(fake(), rows=16) as parts:
        found = await told(parts, mates[0], ([50], WAYS[2]), *mates[1:])
        assert isinstance(found.pop(1), EngineError)
        assert [answer(each) for each in found] == [answer(each) for each in expected]


def raises(ids: list[int]) -> str:
    """A decoder that breaks on a token."""
    if 22 in ids:
        raise ValueError("secret")
    return ""


# Its decoder looks at the last character of every token, and this one has none.
_WORDS = Tokenizer(models.WordLevel({"<unk>": 0, "a": 20, "b": 21, "": 22, "c": 23}, unk_token="<unk>"))  # noqa: S106 - no password
_WORDS.decoder = decoders.Strip(" ", 0, 1)
panics = TextTokenizer.from_json(_WORDS.to_str(), 10, None).decode


@pytest.mark.parametrize("broken", [raises, panics], ids=["raises", "panics"])
@pytest.mark.parametrize("when", ["a token", "the end"])
@pytest.mark.parametrize("decoder_only", [False, True], ids=["encoder", "decoder only"])
async def test_tokenizer_that_raises_fails_its_own_text(
    broken: Callable[[list[int]], str], when: str, *, decoder_only: bool
) -> None:
    """Tokens that cannot be made text fail their text, whatever is raised; its mates get theirs, its rows are free."""
    async with scheduler(EchoModel(decoder_only=decoder_only)) as parts:
        told: list[Progress] = []
        mates = [[30, 31, 32, 33, 34], [40, 41]]
        bad = TextStream(broken, left_to_right=when == "a token")
        call = parts.submit([20, 21, 22, 23], text=bad, watch=told.append)
        good = await asyncio.gather(*(parts.submit(source).future for source in mates))
        with pytest.raises(EngineError) as failure:
            await call.future
        assert "secret" not in str(failure.value)
        assert [answer[0].token_ids for answer in good] == mates
        assert [each.tokens[0].token_id for each in told] == ([20, 21] if when == "a token" else [20, 21, 22, 23])
        assert (parts.lane.reserved_bytes, parts.lane.used_rows, len(parts.failures)) == (0, 0, 1)


async def test_watch_that_raises_fails_its_own_call() -> None:
    """Whoever cannot be told what came is failed and leaves; the others in the batch are told and answered."""
    seen: list[int] = []

    def broken(progress: Progress) -> None:
        if progress.tokens[0].token_id == 22:
            raise ZeroDivisionError

    async with scheduler() as parts:
        bad = parts.submit(range(20, 60), watch=broken)
        good = parts.submit(range(60, 70), watch=lambda progress: seen.extend(each[0] for each in progress.tokens))
        with pytest.raises(EngineError):
            await bad.future
        (generated,) = await good.future
        assert generated.token_ids == seen == list(range(60, 70))
        assert len(parts.model.steps) < 20
        assert not parts.crashes


async def test_watch_is_not_told_after_the_call_is_over() -> None:
    """Who has gone is told nothing more, also not what came in the step that was under way."""
    told: list[Progress] = []
    gate = Turnstile()
    async with scheduler(EchoModel(gate)) as parts:
        call, other = parts.submit(range(20, 60), watch=told.append), parts.submit(range(20, 40))
        for _ in range(3):
            await gate.entered()
            gate.let()
        await gate.entered()
        assert len(told) == 3
        call.future.cancel()
        gate.let(1000)
        await other.future
    assert len(told) == 3
