"""Prompts are read in parts: always the same ones, and none of them is lost while others step around it."""

from __future__ import annotations

import asyncio

from fakes import EchoModel
from headwaiter_server.model.generation import CHUNK_TOKENS

from .scheduler import scheduler


async def test_prompts_are_cut_at_the_same_places_whoever_is_there() -> None:
    """Of many long prompts at one time each is read in parts of 64, as if it were alone."""
    model = EchoModel(decoder_only=True)
    lengths = {token: 37 * token % 290 + 1 for token in range(20, 45)}
    async with scheduler(model, rows=8, tokens=200) as parts:
        calls = [parts.submit([token] * length, max_new_tokens=5) for token, length in lengths.items()]
        await asyncio.gather(*(call.future for call in calls))
    cuts = {token: [len(part) for part in model.joins if part[0] == token] for token in lengths}
    assert cuts == {
        token: [min(CHUNK_TOKENS, length - start) for start in range(0, length, CHUNK_TOKENS)]
        for token, length in lengths.items()
    }


async def test_prompt_between_texts_that_step_keeps_what_it_has_read() -> None:
    """Its row is stepped with those around it, for nobody; what it has read so far stays as it is."""
    model = EchoModel(decoder_only=True)
    async with scheduler(model) as parts:
        calls = [parts.submit(source, max_new_tokens=300) for source in ([10] * 60, [70] * 300, [20] * 40)]
        answers = await asyncio.gather(*(call.future for call in calls))
        assert any(facts.dummy_rows and facts.prefill_tokens for facts in parts.iterations)
    assert [len(answer[0].token_ids) for answer in answers] == [60, 300, 40]
