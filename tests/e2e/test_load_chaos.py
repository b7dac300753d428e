"""Loading and unloading at random, by many callers at one time: nothing is left behind, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

from .load_chaos import Chaos, counted_server, settled, write_repository

CALLERS = 8
ACTS = 400


async def test_random_loads_and_unloads_leave_nothing_behind(tmp_path: Path) -> None:
    """After hundreds of loads, unloads, swaps and abandoned ones, all counts are as before; every answer was right."""
    repository = tmp_path / "models"
    made = write_repository(repository)
    acts = itertools.count()
    async with asyncio.timeout(540), counted_server(repository, tmp_path / "kept") as server:
        chaos = Chaos(server, repository, made, seed=1)
        await chaos.load_each()
        before = await settled(server)
        await chaos.run(CALLERS, lambda: next(acts) < ACTS)
        after = await settled(server, before)
    assert chaos.problems == []
    assert after == before
    assert chaos.answers.right
    assert {"load: OK", "unload: OK", "swap: OK", "ask: OK", "broken: FAILED_PRECONDITION"} <= chaos.done.keys()
