"""A model that is unloaded leaves nothing behind: no session, no lane, no place in the memory's plan."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
from headwaiter_server.config import ServerSettings
from headwaiter_server.config.version_policy import VersionPolicies
from headwaiter_server.lifecycle.building import digest_of
from headwaiter_server.lifecycle.catalog import Catalog
from headwaiter_server.lifecycle.manager import Manager
from headwaiter_server.lifecycle.trial import NoTrials
from headwaiter_server.metrics import Metrics
from headwaiter_server.model.cached import CachedModel, CachedRows
from headwaiter_server.model.onnx import OnnxGraph
from headwaiter_server.pipeline import EmbeddingRequest, Pipeline
from headwaiter_server.scheduling.admission import Admission
from headwaiter_server.scheduling.calls import Terms
from headwaiter_server.scheduling.dispatcher import Dispatcher
from headwaiter_server.scheduling.forecast import Forecast
from headwaiter_server.wiring import PlannedModel, Wiring

from .generator_bundles import MadeGenerator
from .repositories import find_bundles
from .test_load_encoder import Made


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Nothing but counts of references frees anything."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("calibration", ["off", "fresh"])
async def test_unloaded_model_is_freed_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calibration: str
) -> None:
    """Its sessions go with its last call, without waiting for the collector of cycles."""
    made = Made(tmp_path / "models" / "small")
    made.load()
    sessions: list[weakref.ref[OnnxGraph]] = []
    load = OnnxGraph.load

    def noted(*arguments: object, **options: object) -> OnnxGraph:
        opened = load(*arguments, **options)  # type: ignore[arg-type]  # passed on
        sessions.append(weakref.ref(opened))
        return opened

    monkeypatch.setattr(OnnxGraph, "load", noted)
    settings = ServerSettings(
        models=tmp_path / "models", workers=2, calibration=calibration, lone_run_threads=2, calibration_cache=tmp_path
    )
    metrics, catalog = Metrics(), Catalog()
    dispatcher = Dispatcher(2, on_crash=lambda: None)
    forecast = Forecast(2)

    async def set_serving(name: str, *, serving: bool) -> None:
        """Nobody is told."""

    manager: Manager[PlannedModel] = Manager(
        settings.models,
        VersionPolicies(),
        {},
        catalog=catalog,
        workshop=Wiring(settings, dispatcher, forecast, metrics, None),
        trial=NoTrials(),
        metrics=metrics,
        set_serving=set_serving,
    )
    await manager.start(allow_partial=False)
    pipeline = Pipeline(catalog, dispatcher, metrics, 10)
    with Admission(10, 1000).admit(1) as permit:
        request = EmbeddingRequest("small", 0, ["w1 w2", "w3"])
        reply = await pipeline.embed(permit, Terms(dispatcher.clock()), request)
        assert reply.model.leases.count == 1
    del reply
    assert sessions
    assert all(session() is not None for session in sessions)
    await manager.unload("small")
    # A worker may still be on its way out of the last run.
    async with asyncio.timeout(20):
        while any(session() is not None for session in sessions):
            await asyncio.sleep(0.001)
    assert not forecast.runs
    assert await dispatcher.close(1.0)


@pytest.mark.usefixtures("no_collector")
async def test_unloaded_generator_is_freed_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So do the sessions and the rows of a model that generates; and nothing is expected of it any more."""
    made = MadeGenerator(tmp_path / "models")
    made.write()
    parts: list[weakref.ref[object]] = []
    new_rows, load = CachedModel.new_rows, OnnxGraph.load

    def noted(part: object) -> None:
        parts.append(weakref.ref(part))

    def noted_rows(self: CachedModel, rows: int, capacity: int | None = None) -> CachedRows:
        made_rows = new_rows(self, rows, capacity)
        noted(made_rows)
        return made_rows

    def noted_graph(*arguments: object, **options: object) -> OnnxGraph:
        opened = load(*arguments, **options)  # type: ignore[arg-type]  # passed on
        noted(opened)
        return opened

    monkeypatch.setattr(CachedModel, "new_rows", noted_rows)
    monkeypatch.setattr(OnnxGraph, "load", noted_graph)
    settings = ServerSettings(models=tmp_path / "models", workers=2, calibration_cache=tmp_path)
    metrics, dispatcher = Metrics(), Dispatcher(2, on_crash=lambda: None)
    wiring = Wiring(settings, dispatcher, Forecast(2), metrics, None)
    model = wiring.build(made.location, "fp32", None, live=False, tried="")
    served = wiring.place(model)
    assert any(part() is not None for part in parts)
    assert wiring._memory._shares
    wiring.remove(served)
    del model, served
    assert [part() for part in parts] == [None] * len(parts)
    assert not wiring._memory._shares
    wiring.discard(wiring.build(made.location, "fp32", None, live=False, tried=""))
    assert not wiring._memory._shares
    assert await dispatcher.close(1.0)


def test_digest_is_that_of_the_build(tmp_path: Path) -> None:
    """What tells whether files have changed is what the built model says of itself."""
    made = Made(tmp_path / "small")
    made.load()
    (location,) = find_bundles(tmp_path)
    assert digest_of(location) == digest_of(location)
    stamp = location.stamp
    made.manifest.architecture = "other"
    before = digest_of(location)
    made.load()
    (changed,) = find_bundles(tmp_path)
    assert changed.stamp != stamp
    assert digest_of(changed) != before
