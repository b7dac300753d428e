"""What was tried is what is loaded; and what fails its trial is never built."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from headwaiter_server.errors import BundleError, ModelLoadError
from headwaiter_server.lifecycle.building import build_model, digest_of
from headwaiter_server.lifecycle.repository import BundleLocation
from headwaiter_server.model.contract import Graph
from headwaiter_server.model.onnx import OnnxGraph

from .managing import Managed
from .tensor_graphs import bare as bare_model
from .tensor_graphs import doubled, identity
from .test_load_encoder import Made


class ScriptedTrial:
    """Tries nothing, and does something else instead; implements `Check`."""

    def __init__(self, instead: Callable[[BundleLocation], str]) -> None:
        self._instead = instead

    async def check(self, location: BundleLocation, variant: str) -> str:
        return self._instead(location)

    async def close(self) -> None:
        pass


async def managed(repository: Path, instead: Callable[[BundleLocation], str]) -> Managed:
    """A manager of one model that serves; then its first version is written anew, and tried as given."""
    made = Managed(repository)
    made.write("a", 1)
    await made.manager.start(allow_partial=False)
    made.manager._maker._trial = ScriptedTrial(instead)
    made.workshop.events.clear()
    made.write("a", 1, "good as new")
    return made


async def test_what_was_tried_serves(tmp_path: Path) -> None:
    """Files that are the same after the trial as before it take over."""
    made = await managed(tmp_path, digest_of)
    await made.manager.load("a")
    assert made.workshop.events[:2] == ["built a:1 fp32", "placed a:1"]


async def test_files_that_change_after_their_trial_do_not_serve(tmp_path: Path) -> None:
    """Whoever exchanges files between the trial and the load gets a refusal; what serves goes on."""

    def exchanged(location: BundleLocation) -> str:
        digest = digest_of(location)
        (location.folder / "manifest.json").write_text("good, but something else")
        return digest

    made = await managed(tmp_path, exchanged)
    with pytest.raises(ModelLoadError, match="its files were changed while it was loaded"):
        await made.manager.load("a")
    assert made.workshop.events == []
    assert made.found == ["a:1"]


@pytest.mark.parametrize("bare", [False, True])
def test_nothing_of_other_files_reaches_onnxruntime(tmp_path: Path, *, bare: bool) -> None:
    """What was not tried may crash it: that they are others is found out before."""
    if bare:
        location = bare_model(tmp_path, identity())
        other = doubled().SerializeToString()
    else:
        made = Made(tmp_path)
        made.write()
        location = BundleLocation("small", 1, made.folder)
        other = b"no graph"
    tried, opened = digest_of(location), []

    def open_graph(name: str, graph: bytes) -> Graph:
        opened.append(name)
        return OnnxGraph.load(name, graph, 1)

    assert build_model(location, "fp32", open_graph, tried).digest == tried
    opened.clear()
    if bare:
        (location.folder / "model.onnx").write_bytes(other)
    else:
        made.graph = other
        made.write()
    with pytest.raises(BundleError, match="its files were changed while it was loaded"):
        build_model(location, "fp32", open_graph, tried)
    assert opened == []


async def test_what_fails_its_trial_is_not_built(tmp_path: Path) -> None:
    """A refusal by the trial is the load's; nothing is built in the server."""

    def refused(location: BundleLocation) -> str:
        raise BundleError(f"{location.folder}: it crashed")

    made = await managed(tmp_path, refused)
    with pytest.raises(ModelLoadError, match="it crashed"):
        await made.manager.load("a")
    assert made.workshop.events == []
    assert made.found == ["a:1"]
    assert "it crashed" in (await made.index())["a:1"][1]


async def test_trial_that_breaks_is_a_failed_load(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever the system says to it, which goes to the log alone; nothing is built, and metrics and index know."""

    def broken(location: BundleLocation) -> str:
        raise RuntimeError("can't start new thread")

    made = await managed(tmp_path, broken)
    with pytest.raises(ModelLoadError, match=r"'a' failed to load: a/1: it cannot be loaded$"):
        await made.manager.load("a")
    assert "can't start new thread" in "".join(capsys.readouterr())
    assert made.workshop.events == []
    assert made.found == ["a:1"]
    assert made.loads("a", "failed") == 1
    assert (await made.index())["a:1"][1] == "a/1: it cannot be loaded"
