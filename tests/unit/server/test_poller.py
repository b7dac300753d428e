"""The repository is watched: what lies still is loaded, what has gone is unloaded, what is half-written waits."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest
from headwaiter_server.errors import QueueFullError
from headwaiter_server.lifecycle.poller import Poller
from headwaiter_server.lifecycle.repository import ModelFolder, scan

from .managing import Managed


class Watched(Managed):
    """A manager whose repository is looked at when the test says so."""

    async def start(self) -> Poller:
        found = await self.manager.start(allow_partial=True)
        return Poller(self.repository, 1.0, found, self.manager.reconcile)


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    """A repository with one model."""
    made = Watched(tmp_path)
    made.write("a", 1)
    return made


async def test_what_is_new_and_still_is_loaded(watched: Watched) -> None:
    """A new version, and a new model, at the second look that finds them alike."""
    poller = await watched.start()
    watched.write("a", 2)
    watched.write("b", 1)
    await poller.look()
    assert watched.found == ["a:1"]
    await poller.look()
    assert watched.found == ["a:2", "b:1"]


async def test_what_is_being_copied_is_left_alone(watched: Watched) -> None:
    """As long as names, sizes or times change from look to look, nobody reads it."""
    poller = await watched.start()
    for text in ("g", "go", "goo", "good"):
        watched.write("a", 2, text)
        await poller.look()
        assert watched.found == ["a:1"]
    await poller.look()
    assert watched.found == ["a:2"]
    assert [event for event in watched.workshop.events if event.startswith("built a:2")] == ["built a:2 fp32"]


async def test_folders_with_a_dot_are_not_there_yet(watched: Watched) -> None:
    """Exports are written beside their place, and renamed into it when they are whole."""
    poller = await watched.start()
    hidden = watched.write("a", 2).rename(watched.repository / "a" / ".2.tmp")
    await poller.look()
    await poller.look()
    assert watched.found == ["a:1"]
    hidden.rename(watched.repository / "a" / "2")
    await poller.look()
    await poller.look()
    assert watched.found == ["a:2"]


async def test_what_has_gone_is_unloaded(watched: Watched) -> None:
    """A version that is removed gives way to the one before it; a model that is removed goes."""
    watched.write("a", 2)
    watched.write("b", 1)
    poller = await watched.start()
    shutil.rmtree(watched.repository / "a" / "2")
    shutil.rmtree(watched.repository / "b")
    for _ in range(2):
        await poller.look()
    assert watched.found == ["a:1"]
    assert watched.serving == {"a": True, "b": False}


async def test_failure_is_tried_again_when_something_changes(watched: Watched) -> None:
    """Not at every look: a load takes a processor from those that serve."""
    poller = await watched.start()
    watched.write("a", 2, "bad")
    for _ in range(5):
        await poller.look()
    assert watched.loads("a", "failed") == 1
    assert watched.found == ["a:1"]
    watched.write("a", 2, "mended")
    for _ in range(2):
        await poller.look()
    assert watched.found == ["a:2"]


async def test_model_that_failed_at_the_start_is_not_tried_again(watched: Watched) -> None:
    """It is known already what comes of it."""
    watched.write("b", 1, "bad")
    poller = await watched.start()
    for _ in range(3):
        await poller.look()
    assert watched.loads("b", "failed") == 1


async def test_repository_that_is_away_changes_nothing(watched: Watched, capsys: pytest.CaptureFixture[str]) -> None:
    """A disk that is not there for a moment is said once, and unloads no model."""
    poller = await watched.start()
    away = watched.repository.rename(watched.repository.with_name("away"))
    for _ in range(3):
        await poller.look()
    assert watched.found == ["a:1"]
    assert capsys.readouterr().out.count("repository_unreadable") == 1
    away.rename(watched.repository)
    watched.write("a", 2)
    for _ in range(2):
        await poller.look()
    assert watched.found == ["a:2"]


async def test_what_could_not_be_done_now_is_done_later(watched: Watched) -> None:
    """A load that was turned away is asked for again at the next look."""
    asked: list[str] = []

    async def refuse_once(name: str) -> None:
        asked.append(name)
        if len(asked) == 1:
            raise QueueFullError("not now", 1.0)

    found = scan(watched.repository)
    poller = Poller(watched.repository, 1.0, found, refuse_once)
    watched.write("a", 2)
    for _ in range(5):
        await poller.look()
    assert asked == ["a", "a"]


async def test_slow_model_keeps_no_other_waiting(watched: Watched) -> None:
    """While one is loaded, or waits for the last of its calls, what else changes is found; the slow one only once."""
    asked: list[str] = []
    go = asyncio.Event()

    async def reconcile(name: str) -> None:
        asked.append(name)
        if name == "a":
            await go.wait()

    poller = Poller(watched.repository, 0.0, scan(watched.repository), reconcile)
    watched.write("a", 2)
    watching = asyncio.create_task(poller.run())
    await watched.until(lambda: asked == ["a"])
    watched.write("b", 1)
    await watched.until(lambda: asked == ["a", "b"])
    watched.write("a", 3)
    watched.write("c", 1)
    await watched.until(lambda: asked == ["a", "b", "c"])
    go.set()
    await watched.until(lambda: asked == ["a", "b", "c", "a"])
    watching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watching


async def test_nothing_ends_the_watch(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a look that breaks nor a model that does."""
    asked: list[str] = []

    async def reconcile(name: str) -> None:
        asked.append(name)
        if name == "a":
            raise RuntimeError("a bug")

    looks = 0

    def scan_again(repository: Path) -> list[ModelFolder]:
        nonlocal looks
        looks += 1
        if looks == 1:
            raise OSError("stale file handle")
        return scan(repository)

    monkeypatch.setattr("headwaiter_server.lifecycle.poller.scan", scan_again)
    poller = Poller(watched.repository, 0.0, scan(watched.repository), reconcile)
    watched.write("a", 2)
    watching = asyncio.create_task(poller.run())
    await watched.until(lambda: asked == ["a"])
    watched.write("b", 1)
    await watched.until(lambda: asked == ["a", "b"])
    watching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watching
