"""Invariants 2 and 3 in one batch whose rows are freed in the middle and filled again."""

from __future__ import annotations

import asyncio

from fakes import EchoModel, Gate

from .scheduler import scheduler


async def test_rows_that_move_and_rows_that_are_filled_again_keep_to_their_texts() -> None:
    """Where texts end between others, others are moved or take their rows; each is answered with its own tokens."""
    gate = Gate()
    sources = [[first, *[first + 1] * more] for first, more in [(10, 6), (20, 0), (30, 1), (40, 8), (50, 7)]]
    async with scheduler(EchoModel(on_step=gate), rows=5) as parts:
        calls = [parts.submit(source) for source in sources]
        await gate.entered()
        # Two more than there is room for: they wait for the rows of the second and the third text.
        sources += [[60, 61, 62], [70, 71, 72]]
        calls += [parts.submit(source) for source in sources[5:]]
        gate.open()
        async with asyncio.timeout(10):
            answers = await asyncio.gather(*(call.future for call in calls))
        assert [answer[0].token_ids for answer in answers] == sources
        assert sum(facts.joined for facts in parts.iterations) == len(sources)
