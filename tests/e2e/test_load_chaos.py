"""Loading and unloading at random, by many callers at one time: nothing is left behind, and nobody waits for ever."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from e2e.load_chaos import Insides
from load_unload_chaos import MEMORY, Result, figures, for_acts, load_at_random

CALLERS = 8
ACTS = 400


async def test_random_loads_and_unloads_leave_nothing_behind(tmp_path: Path) -> None:
    """After hundreds of loads, unloads, swaps and abandoned ones, all counts are as before; every answer was right."""
    async with asyncio.timeout(540):
        result = await load_at_random(tmp_path, for_acts(ACTS), callers=CALLERS, seed=1, patience_seconds=480)
    assert result.problems == []
    assert result.after == result.before
    # So few say nothing about memory.
    assert [each for each in figures(result) if each.reached is False and each.name != MEMORY] == []
    assert {"load: OK", "unload: OK", "swap: OK", "ask: OK", "broken: FAILED_PRECONDITION"} <= result.done.keys()


HELD = Insides(tasks=9, threads=("MainThread",), descriptors=40, lanes=1, models=1, children=1)
WELL = Result(HELD, HELD, (100 << 20, 104 << 20), Counter({"load: OK": 2, "load: FAILED_PRECONDITION": 1}), right=1)


def test_acts_are_told_with_how_they_ended() -> None:
    """What is often comes first, and what was never done is told, too."""
    shown = {figure.name: figure.shown for figure in figures(WELL)}
    assert (shown["acts"], shown["loads"], shown["unloads"]) == ("3", "2 OK, 1 FAILED_PRECONDITION", "0")


@pytest.mark.parametrize(
    ("result", "missed"),
    [
        (WELL, set()),
        (replace(WELL, done=Counter()), {"acts"}),
        (replace(WELL, problems=["load ended with INTERNAL"]), {"acts that ended as they must not"}),
        (replace(WELL, deadlocks=1), {"deadlocks"}),
        (replace(WELL, right=0), {"answers of the model that stayed, all golden"}),
        (replace(WELL, resident_bytes=(100 << 20, 106 << 20)), {MEMORY}),
        (replace(WELL, after=replace(HELD, tasks=10)), {"tasks left"}),
        (replace(WELL, after=replace(HELD, threads=("MainThread", "worker"))), {"threads left"}),
        (replace(WELL, after=replace(HELD, descriptors=41)), {"descriptors left"}),
        (replace(WELL, after=replace(HELD, lanes=2, models=2)), {"lanes in the scheduler left", "models left"}),
        (replace(WELL, after=replace(HELD, children=2)), {"child processes left"}),
    ],
)
def test_what_is_left_misses_an_aim(result: Result, missed: set[str]) -> None:
    """Whatever a long run may find is told by name, and makes it end with 1."""
    assert {figure.name for figure in figures(result) if figure.reached is False} == missed
