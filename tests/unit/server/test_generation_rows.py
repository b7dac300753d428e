"""Rows of a running batch: gaps are closed where that pays, and what is copied does not grow with the cache."""

from __future__ import annotations

import asyncio
from itertools import takewhile
from random import Random
from typing import Any, cast

import pytest
from fakes import EchoModel, EchoRows, Turnstile, dice
from headwaiter_server.generation.beam_rows import BeamRows
from headwaiter_server.generation.beams import BeamSearch
from headwaiter_server.generation.decoding import Decoding
from headwaiter_server.model.contract import FloatArray
from hypothesis import given, settings
from hypothesis import strategies as st

from .scheduler import scheduler


class CountingRows(EchoRows):
    """Notes what is copied: from which row to which, and which places."""

    def __init__(self, model: EchoModel, rows: int, capacity: int | None = None) -> None:
        super().__init__(model, rows, capacity)
        self.copies: list[tuple[int, int, int, int]] = []

    def copy(self, source: int, target: int, first: int, stop: int) -> None:
        super().copy(source, target, first, stop)
        self.copies.append((source, target, first, stop))


class CountingModel(EchoModel):
    """The model of such rows.

    Attributes:
        all_rows: All rows that were asked for.
    """

    def __init__(self, **more: Any) -> None:  # noqa: ANN401 - as of `EchoModel`
        super().__init__(**more)
        self.all_rows: list[CountingRows] = []

    def new_rows(self, rows: int, capacity: int | None = None) -> CountingRows:
        self.all_rows.append(CountingRows(self, rows, capacity))
        return self.all_rows[-1]


async def test_gap_that_a_newcomer_fills_costs_nothing() -> None:
    """While others wait, whoever ends is followed by the next one in the same row, and nobody moves."""
    model = CountingModel()
    async with scheduler(model, rows=4) as parts:
        calls = [parts.submit([10 + number] * (3 + number % 5)) for number in range(12)]
        await asyncio.gather(*(call.future for call in calls))
        full = [facts for facts in parts.iterations if facts.batch_id <= 6]
        assert sum(facts.joined for facts in full) > 4
        assert all((facts.rows, facts.dummy_rows, facts.copied_bytes) == (4, 0, 0) for facts in full)


async def test_gap_before_a_short_history_is_closed_at_once() -> None:
    """To copy a few tokens is cheaper than a step for nobody."""
    model = CountingModel()
    async with scheduler(model) as parts:
        calls = [parts.submit([10]), parts.submit(range(20, 50))]
        await asyncio.gather(*(call.future for call in calls))
        assert model.all_rows[0].copies == [(1, 0, 0, 2)]
        assert sum(facts.dummy_rows for facts in parts.iterations) == 0
        assert sum(facts.copied_bytes for facts in parts.iterations) == 2 * model.token_bytes


async def test_gap_before_a_long_history_is_closed_once_it_has_cost_as_much() -> None:
    """A text of 2000 tokens is worth eight steps for nobody, and then it is moved, once."""
    model = CountingModel(decoder_only=True, max_total_tokens=3000)
    async with scheduler(model) as parts:
        calls = [parts.submit([10] * 5), parts.submit([20] * 2000, max_new_tokens=60)]
        await asyncio.gather(*(call.future for call in calls))
        ((source, target, first, stop),) = model.all_rows[0].copies
        assert (source, target, first) == (1, 0, 0)
        assert 2000 <= stop <= 2020
        assert sum(facts.dummy_rows for facts in parts.iterations) in {7, 8}


@pytest.mark.parametrize("seed", range(10))
async def test_at_most_one_row_is_copied_for_each_text_that_ends(seed: int) -> None:
    """However texts come and go; so what a step copies on average does not grow with the cache or the batch."""
    random = Random(seed)
    model = CountingModel(decoder_only=True, distribution=dice(seed, end=1.0))
    async with scheduler(model, rows=16, workers=random.randint(1, 2)) as parts:
        calls = []
        for _ in range(60):
            calls.append(parts.submit([20] * random.randint(1, 200), max_new_tokens=random.randint(1, 30)))
            for _ in range(random.choice([0, 0, 3, 20])):
                await asyncio.sleep(0)
            if random.random() < 0.2:
                random.choice(calls).future.cancel()
        await asyncio.gather(*(call.future for call in calls), return_exceptions=True)
        moves = [copy for rows in model.all_rows for copy in rows.copies]
        assert len(moves) <= len(calls)
        assert all(target < source for source, target, _, _ in moves)
        copied = sum(facts.copied_bytes for facts in parts.iterations)
        assert copied == sum(stop for _, _, _, stop in moves) * model.token_bytes


class RandomSearch:
    """A beam search whose hypotheses go on as the dice say; implements what `BeamRows` needs of one."""

    def __init__(self, random: Random, beams: int) -> None:
        self.done = False
        self.histories: list[list[int]] = [[]]
        self._random = random
        self._beams = beams

    def advance(self, logits: FloatArray) -> list[tuple[int, int]]:
        moves = [(self._random.randrange(len(self.histories)), 10 + beam) for beam in range(self._beams)]
        self.histories = [[*self.histories[parent], token] for parent, token in moves]
        return moves


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 1 << 32), st.integers(2, 6), st.integers(1, 30))
def test_hypotheses_copy_only_what_differs(seed: int, beams: int, prompt: int) -> None:
    """Every hypothesis has its own history in its row; survivors stay, others get there the places that differ."""
    random = Random(seed)
    rows = CountingRows(EchoModel(decoder_only=True, max_total_tokens=100), 9)
    own = random.sample(range(9), beams)
    search = RandomSearch(random, beams)
    it = BeamRows(cast("BeamSearch", search), own)
    rows.read(own[0], [7] * prompt, 0)
    place = prompt
    for _ in range(12):
        before, held, parents = list(it.rows), [list(read) for read in rows._read], list(search.histories)
        copied = len(rows.copies)
        tokens = it.advance(cast("FloatArray", None), rows, place)
        assert sorted(set(it.rows)) == sorted(it.rows)
        survivors = {
            history[:-1] == parents[before.index(row)]
            for row, history in zip(it.rows, search.histories, strict=True)
            if row in before and row not in {target for _, target, _, _ in rows.copies[copied:]}
        }
        assert survivors <= {True}
        for source, target, first, stop in rows.copies[copied:]:
            same = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(held[source], held[target], strict=False))))
            assert (first, stop) == (same, place)
        for row, token, history in zip(it.rows, tokens, search.histories, strict=True):
            assert rows._read[row][:place] == [7] * prompt + history[:-1]
            rows._write(row, place, [token])
        place += 1


async def test_beams_over_an_encoder_share_what_was_encoded_once() -> None:
    """A source is encoded once for all of its beams."""
    model = CountingModel(distribution=dice(3))
    async with scheduler(model) as parts:
        await parts.submit([20, 21, 22], decoding=Decoding(10, num_beams=5)).future
        assert model.joins == [[20, 21, 22]]
        first = [copy for copy in model.all_rows[0].copies if copy[2:] == (0, 1)]
        assert {source for source, _, _, _ in first} == {0}
        assert {target for _, target, _, _ in first} == {1, 2, 3, 4}


async def test_texts_that_wait_in_rows_for_their_prompt_are_left_alone() -> None:
    """A row in which a prompt is being read lies among those that step, and is neither moved nor harmed."""
    gate = Turnstile()
    model = CountingModel(on_step=gate, decoder_only=True)
    gate.let(2)
    async with scheduler(model) as parts:
        calls = [parts.submit([10]), parts.submit(range(20, 60)), parts.submit([70] * 300, max_new_tokens=300)]
        gate.let(10_000)
        answers = await asyncio.gather(*(call.future for call in calls))
        assert [answer[0].token_ids for answer in answers] == [[10], list(range(20, 60)), [70] * 300]
