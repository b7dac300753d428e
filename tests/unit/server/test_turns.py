"""Operations on one model happen one after the other, in the order in which they came."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from headwaiter_server.errors import DrainingError, ModelLoadError, QueueFullError
from headwaiter_server.lifecycle.turns import Turns


class Operations:
    """Operations that end when they are let go; those asked for, those begun, and those over."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.over: list[str] = []
        self._gates: dict[str, asyncio.Event] = {}

    def __call__(self, what: str) -> Callable[[], Awaitable[None]]:
        async def operate() -> None:
            self.begun.append(what)
            await self._gates.setdefault(what, asyncio.Event()).wait()
            self.over.append(what)

        return operate

    async def let_go(self, what: str) -> None:
        self._gates.setdefault(what, asyncio.Event()).set()
        await settle()


async def settle() -> None:
    """Let everything happen that does not wait for something else."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_one_model_one_operation() -> None:
    """Those on one model wait for each other; those on another do not."""
    turns, operations = Turns(), Operations()
    tasks = [
        asyncio.create_task(turns.take(name, what, operations(what)))
        for name, what in (("a", "first"), ("a", "second"), ("b", "other"))
    ]
    await settle()
    assert operations.begun == ["first", "other"]
    await operations.let_go("first")
    assert operations.begun == ["first", "other", "second"]
    await operations.let_go("second")
    await operations.let_go("other")
    await asyncio.gather(*tasks)


async def test_the_same_that_waits_is_done_once() -> None:
    """Who asks for what waits already shares its turn; but not where something else was asked for in between."""
    turns, operations = Turns(), Operations()
    asked = ["load", "unload", "unload", "load", "load", "unload"]
    tasks = []
    for what in asked:
        tasks.append(asyncio.create_task(turns.take("a", what, operations(what))))
        await settle()
    for what in asked:
        await operations.let_go(what)
    await asyncio.gather(*tasks)
    assert operations.begun == ["load", "unload", "load", "unload"]


async def test_what_is_under_way_is_not_shared() -> None:
    """It may have looked at files that have changed since."""
    turns, operations = Turns(), Operations()
    first = asyncio.create_task(turns.take("a", "load", operations("load")))
    await settle()
    second = asyncio.create_task(turns.take("a", "load", operations("load")))
    await settle()
    await operations.let_go("load")
    await asyncio.gather(first, second)
    assert operations.over == ["load", "load"]


async def test_errors_reach_everybody_who_asked() -> None:
    """And the next operation has its turn all the same."""
    turns, operations = Turns(), Operations()

    async def fail() -> None:
        raise ModelLoadError("no")

    held = asyncio.create_task(turns.take("a", "held", operations("held")))
    await settle()
    failing = [asyncio.create_task(turns.take("a", "fail", fail)) for _ in range(2)]
    await settle()
    await operations.let_go("held")
    await held
    for task in failing:
        with pytest.raises(ModelLoadError, match="no"):
            await task
    last = asyncio.create_task(turns.take("a", "last", operations("last")))
    await operations.let_go("last")
    await last


async def test_many_may_not_wait() -> None:
    """What waits is bounded, however many ask."""
    turns, operations = Turns(), Operations()
    tasks = [asyncio.create_task(turns.take("a", number, operations("one"))) for number in range(1024)]
    await settle()
    with pytest.raises(QueueFullError, match="1024 loads and unloads are waiting"):
        await turns.take("b", "load", operations("load"))
    await turns.close()
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        assert isinstance(outcome, DrainingError)
    with pytest.raises(DrainingError):
        await turns.take("b", "load", operations("load"))
