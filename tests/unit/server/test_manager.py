"""Models are loaded, swapped, rolled back and unloaded in one step each, and what fails changes nothing."""

from __future__ import annotations

import asyncio
import shutil
import threading
from pathlib import Path

import pytest
from headwaiter_server.config.version_policy import VersionPolicy
from headwaiter_server.errors import BundleError, ConfigError, DrainingError, ModelLoadError, UnknownModelError
from headwaiter_server.lifecycle.states import State
from headwaiter_server.scheduling.admission import Admission

from .managing import Managed


class Threads:
    """Holds builds on their threads until they are let go."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self._go = threading.Event()

    def __call__(self, name: str) -> None:
        self.begun.append(name)
        assert self._go.wait(10)

    def go(self) -> None:
        self._go.set()


@pytest.fixture
def managed(tmp_path: Path) -> Managed:
    """A repository with two versions of one model and one of another."""
    made = Managed(tmp_path)
    for name, version in (("a", 1), ("a", 2), ("b", 1)):
        made.write(name, version)
    return made


async def test_start_loads_what_the_policy_says(managed: Managed) -> None:
    """The highest version of each model serves; the index tells of all there are."""
    await managed.manager.start(allow_partial=False)
    assert managed.found == ["a:2", "b:1"]
    assert managed.serving == {"a": True, "b": True}
    assert await managed.index() == {"a:1": ("UNAVAILABLE", ""), "a:2": ("READY", ""), "b:1": ("READY", "")}
    assert managed.loads("a", "loaded") == 1
    # Nobody calls what serves already: the second is measured as the first is.
    assert managed.workshop.predecessors == [(None, False), (None, False)]


@pytest.mark.parametrize(
    ("policies", "found"),
    [
        ("all", ["a:1", "a:2", "b:1"]),
        ("a=specific:1", ["a:1", "b:1"]),
        ("latest:2,b=latest:1", ["a:1", "a:2", "b:1"]),
    ],
)
async def test_policies_choose_versions(managed: Managed, policies: str, found: list[str]) -> None:
    """For all models, or for one by its name."""
    made = Managed(managed.repository, policies)
    await made.manager.start(allow_partial=False)
    assert made.found == found


async def test_folder_may_say_which_versions_serve(managed: Managed) -> None:
    """A model's config.pbtxt wins over the default, and the setting for that model over both."""
    text = "version_policy { specific { versions: 1 } }"
    (managed.repository / "a" / "config.pbtxt").write_text(text, encoding="utf-8")
    await managed.manager.start(allow_partial=False)
    assert managed.found == ["a:1", "b:1"]
    set_by_name = Managed(managed.repository, "a=all")
    await set_by_name.manager.start(allow_partial=False)
    assert set_by_name.found == ["a:1", "a:2", "b:1"]


async def test_folder_that_says_nothing_sensible_changes_nothing(managed: Managed) -> None:
    """What serves goes on, and the index says of every version why; until the configuration is mended."""
    await managed.manager.start(allow_partial=False)
    config = managed.repository / "a" / "config.pbtxt"
    config.write_text("version_policy { nonsense", encoding="utf-8")
    with pytest.raises(ModelLoadError, match=r"config\.pbtxt"):
        await managed.manager.load("a")
    for _ in range(2):
        index = await managed.index()
        assert index["a:2"][0] == "READY"
        assert all("config.pbtxt" in index[key][1] for key in ("a:1", "a:2"))
    assert managed.loads("a", "failed") == 1
    config.write_text("version_policy { all { } }", encoding="utf-8")
    await managed.manager.load("a")
    assert await managed.index() == {"a:1": ("READY", ""), "a:2": ("READY", ""), "b:1": ("READY", "")}


async def test_files_that_cannot_be_read_any_more_leave_what_serves(managed: Managed) -> None:
    """Whatever the system says to it, the load is refused like any other, in index and metrics as well."""
    await managed.manager.start(allow_partial=False)
    manifest = managed.repository / "a" / "2" / "manifest.json"
    manifest.unlink()
    manifest.mkdir()
    with pytest.raises(ModelLoadError, match="a' failed to load"):
        await managed.manager.load("a")
    assert managed.found == ["a:2", "b:1"]
    assert managed.loads("a", "failed") == 1
    assert (await managed.index())["a:2"][1]


async def test_start_fails_with_a_model_that_fails(managed: Managed) -> None:
    """Unless a part is allowed; then the index says what is missing and why."""
    managed.write("b", 1, "bad")
    with pytest.raises(BundleError, match=r"model 'b' failed to load: .* it is bad"):
        await Managed(managed.repository).manager.start(allow_partial=False)
    await managed.manager.start(allow_partial=True)
    assert managed.found == ["a:2"]
    state, reason = (await managed.index())["b:1"]
    assert state == "UNAVAILABLE"
    assert reason.endswith("it is bad")
    assert managed.loads("b", "failed") == 1


async def test_start_with_chosen_models(managed: Managed) -> None:
    """Others wait to be loaded; all of them may; a name that is none is a wrong setting."""
    await managed.manager.start(allow_partial=False, chosen=["b"])
    assert managed.found == ["b:1"]
    empty = Managed(managed.repository)
    await empty.manager.start(allow_partial=False, chosen=[])
    assert empty.found == []
    with pytest.raises(ConfigError, match=r"--load-models names no model of .*: c"):
        await empty.manager.start(allow_partial=False, chosen=["c"])


async def test_new_version_takes_over_in_one_step(managed: Managed) -> None:
    """While it is built the old one serves; there is no moment in which neither or both are found."""
    await managed.manager.start(allow_partial=False)
    threads = managed.workshop.on_build = Threads()
    managed.write("a", 3)
    load = asyncio.create_task(managed.manager.load("a"))
    await managed.until(lambda: threads.begun == ["a:3"])
    assert managed.found == ["a:2", "b:1"]
    assert (await managed.index())["a:3"] == ("LOADING", "")
    seen = set()
    threads.go()
    while not load.done():
        seen.add(tuple(managed.found))
        await asyncio.sleep(0)
    await load
    assert seen <= {("a:2", "b:1"), ("a:3", "b:1")}
    assert managed.found == ["a:3", "b:1"]
    assert managed.workshop.predecessors[-1] == (2, True)


async def test_failed_load_leaves_the_old_one_serving(managed: Managed) -> None:
    """The caller, the index and the metrics learn why, but nothing of where models lie, nor what a library says."""
    await managed.manager.start(allow_partial=False)
    (serving,) = managed.catalog.versions("a").values()
    for text, words in (("bad", "a/3: it is bad"), ("broken", "a/3: it cannot be loaded")):
        managed.write("a", 3, text)
        with pytest.raises(ModelLoadError) as refused:
            await managed.manager.load("a")
        assert str(refused.value) == f"model 'a' failed to load: {words}"
        assert list(managed.catalog.versions("a").values()) == [serving]
        state, reason = (await managed.index())["a:3"]
        assert (state, reason) == ("UNAVAILABLE", words)
    assert managed.loads("a", "failed") == 2
    assert managed.serving["a"]
    managed.write("a", 3, "good now")
    await managed.manager.load("a")
    assert managed.found == ["a:3", "b:1"]
    assert (await managed.index())["a:3"] == ("READY", "")


async def test_model_that_is_gone_fails_no_more(managed: Managed) -> None:
    """Who takes a model out of the repository that fails, and unloads it, hears of it no more."""

    def failing() -> float | None:
        return managed.metrics.registry.get_sample_value("headwaiter_model_load_failing", {"model": "b"})

    folder = managed.write("b", 1, "bad")
    await managed.manager.start(allow_partial=True)
    assert failing() == 1
    shutil.rmtree(folder.parent)
    with pytest.raises(UnknownModelError):
        await managed.manager.unload("b")
    assert failing() is None


async def test_old_version_stays_until_its_last_call_is_answered(managed: Managed) -> None:
    """Its place in the scheduler goes when the last lease is back and its last run has ended, and not before."""
    await managed.manager.start(allow_partial=False)
    admission = Admission(10, 1000)
    old = managed.catalog.find("a", 0)
    managed.write("a", 3)
    with admission.admit(1) as held:
        held.keep(old.leases)
        with admission.admit(1) as other:
            other.keep(old.leases)
            await managed.manager.load("a")
        assert (await managed.index())["a:2"] == ("UNLOADING", "")
        assert "removed a:2" not in managed.workshop.events
        assert old in managed.catalog.placed()
        old.lane.running = 1  # type: ignore[misc]  # a number of the fake's
    for _ in range(100):
        await asyncio.sleep(0)
    assert "removed a:2" not in managed.workshop.events
    old.lane.running = 0  # type: ignore[misc]  # as above
    await managed.until(lambda: managed.workshop.events[-2:] == ["removed a:2", "tidied"])
    assert old not in managed.catalog.placed()
    await managed.until(lambda: managed.manager.state("a", 2) is State.UNAVAILABLE)
    assert (await managed.index())["a:2"] == ("UNAVAILABLE", "unloaded")


async def test_roll_back_is_one_call(managed: Managed) -> None:
    """A load that names an older version brings it back, and takes the newer one away."""
    await managed.manager.start(allow_partial=False)
    await managed.manager.load("a", VersionPolicy(specific=(1,)))
    assert managed.found == ["a:1", "b:1"]
    assert str(managed.manager.policy("a")) == "specific:1"
    await managed.manager.load("a")
    assert managed.found == ["a:2", "b:1"]
    with pytest.raises(ModelLoadError, match="holds no version 7"):
        await managed.manager.load("a", VersionPolicy(specific=(7,)))
    assert managed.found == ["a:2", "b:1"]
    assert str(managed.manager.policy("a")) == "latest:1"


async def test_two_versions_at_once(managed: Managed) -> None:
    """Both are found; without a version, the higher."""
    await managed.manager.start(allow_partial=False)
    await managed.manager.load("a", VersionPolicy())
    assert managed.found == ["a:1", "a:2", "b:1"]
    assert managed.catalog.find("a", 0).version == 2
    await managed.manager.load("a", VersionPolicy(specific=(1,)))
    assert managed.catalog.find("a", 0).version == 1


async def test_only_what_has_changed_is_built(managed: Managed) -> None:
    """A second load does nothing; nor does one of files that were touched; one of other bytes takes their place."""
    await managed.manager.start(allow_partial=False)
    first = managed.catalog.find("a", 2)
    await managed.manager.load("a")
    managed.write("a", 2)  # the same again, later
    await managed.manager.load("a")
    assert managed.catalog.find("a", 2) is first
    managed.write("a", 2, "other")
    await managed.manager.load("a")
    assert managed.catalog.find("a", 2) is not first
    await managed.until(lambda: "removed a:2" in managed.workshop.events)
    managed.write("a", 2, "bad")
    with pytest.raises(ModelLoadError):
        await managed.manager.load("a")
    state, reason = (await managed.index())["a:2"]
    assert state == "READY"
    assert "it is bad" in reason


async def test_unload_ends_when_its_calls_are_answered(managed: Managed) -> None:
    """Callers find it no more at once; the unload waits for those that it has."""
    await managed.manager.start(allow_partial=False)
    permit = Admission(10, 1000).admit(1)
    with permit:
        permit.keep(managed.catalog.find("b", 0).leases)
        unload = asyncio.create_task(managed.manager.unload("b"))
        await managed.until(lambda: managed.found == ["a:2"])
        assert managed.manager.state("b", 1) is State.UNLOADING
        assert not unload.done()
    await unload
    assert managed.workshop.events[-2:] == ["removed b:1", "tidied"]
    assert managed.serving["b"] is False
    await managed.manager.unload("b")  # nothing is left to do
    await managed.manager.load("b")
    assert managed.found == ["a:2", "b:1"]


@pytest.mark.parametrize("name", ["", "c", ".", "..", "../a", "a/1", "/", "a\0b", ".hidden"])
async def test_names_lead_nowhere_else(managed: Managed, name: str) -> None:
    """Whatever a caller sends as a name, nothing outside the repository's own folders is looked at."""
    (managed.repository / ".hidden" / "1").mkdir(parents=True)
    await managed.manager.start(allow_partial=False)
    for operation in (managed.manager.load, managed.manager.unload):
        with pytest.raises(UnknownModelError, match="in the model repository"):
            await operation(name)


async def test_one_model_is_built_at_a_time(managed: Managed) -> None:
    """However many are asked for, and unloads of others do not wait."""
    for number in range(5):
        managed.write(f"m{number}", 1)
    await managed.manager.start(allow_partial=False, chosen=["b"])
    threads = managed.workshop.on_build = Threads()
    loads = [asyncio.create_task(managed.manager.load(f"m{number}")) for number in range(5)]
    await managed.until(lambda: len(threads.begun) == 1)
    await managed.manager.unload("b")
    threads.go()
    await asyncio.gather(*loads)
    assert managed.workshop.at_once == 1
    assert managed.found == [f"m{number}:1" for number in range(5)]


async def test_load_goes_on_when_its_caller_has_gone(managed: Managed) -> None:
    """A caller whose deadline has passed finds the model loaded when it asks again."""
    await managed.manager.start(allow_partial=False, chosen=["a"])
    threads = managed.workshop.on_build = Threads()
    load = asyncio.create_task(managed.manager.load("b"))
    await managed.until(lambda: bool(threads.begun))
    load.cancel()
    with pytest.raises(asyncio.CancelledError):
        await load
    threads.go()
    await managed.until(lambda: managed.found == ["a:2", "b:1"])


async def test_shutdown_abandons_a_load(managed: Managed) -> None:
    """Whoever waits for it is told at once, and nobody is let in after that."""
    await managed.manager.start(allow_partial=False, chosen=["a"])
    threads = managed.workshop.on_build = Threads()
    load, waiting = (asyncio.create_task(managed.manager.load(name)) for name in ("b", "b"))
    await managed.until(lambda: bool(threads.begun))
    await managed.manager.close()
    for task in (load, waiting):
        with pytest.raises(DrainingError):
            await task
    with pytest.raises(DrainingError):
        await managed.manager.load("b")
    threads.go()
    assert managed.found == ["a:2"]
