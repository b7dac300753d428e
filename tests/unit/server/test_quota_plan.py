"""From a cgroup's quota of processors to a model's plan: a server's start, on an engine of known cost."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import pytest
from headwaiter_server.app import Server
from headwaiter_server.batching.lane import BatchLane
from headwaiter_server.config import ServerSettings
from headwaiter_server.cpu import available_cpus, describe_cpus
from headwaiter_server.lifecycle.calibration import Calibrator
from headwaiter_server.model.contract import FloatArray
from headwaiter_server.model.onnx import OnnxGraph
from headwaiter_server.scheduling.cost import PackedCost
from headwaiter_server.wiring import models as wiring

from .engines import ThreadClock
from .test_cpu import cgroup
from .test_load_encoder import Made

FIXED_SECONDS, TOKEN_SECONDS = 0.001, 0.0002


@dataclass(frozen=True)
class Start:
    """How a server has set itself and its model up.

    Attributes:
        workers: Runs at one time.
        threads: Of a run beside others.
        budget_tokens: Most of a run of several texts.
        lone_threads: Of a run that has the server to itself; None if it gets no more.
    """

    workers: int
    threads: set[int]
    budget_tokens: int
    lone_threads: int | None


@pytest.fixture(autouse=True)
def engine(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """Runs take what their tokens cost, shared by their threads, on a clock that only they move; the threads given."""
    clock, load, run = ThreadClock(), OnnxGraph.load, OnnxGraph.run
    threads_of: WeakKeyDictionary[OnnxGraph, int] = WeakKeyDictionary()
    given: set[int] = set()

    def loaded(name: str, graph: bytes, threads: int, **more: Any) -> OnnxGraph:  # noqa: ANN401 - passed on
        opened = load(name, graph, threads, **more)
        threads_of[opened] = threads
        if not more.get("alone"):
            given.add(threads)
        return opened

    def ran(self: OnnxGraph, outputs: list[str], feeds: dict[str, Any], *rest: Any) -> list[FloatArray]:  # noqa: ANN401 - passed on
        tokens = len(feeds["input_ids"])
        clock.spend(PackedCost(FIXED_SECONDS, TOKEN_SECONDS / threads_of[self], 0.0).seconds(tokens))
        return run(self, outputs, feeds, *rest)

    monkeypatch.setattr(OnnxGraph, "load", staticmethod(loaded))
    monkeypatch.setattr(OnnxGraph, "run", ran)
    monkeypatch.setattr(wiring, "Calibrator", partial(Calibrator, clock=clock))
    return given


async def started(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    engine: set[int],
    quota: str,
    **settings: Any,  # noqa: ANN401 - of the server
) -> Start:
    """A server's start on two processors of which its cgroup leaves it a quota."""
    folder = tmp_path / f"quota {quota}"
    folder.mkdir()
    root, own = cgroup(folder, "0::/\n", {"cpu.max": f"{quota} 100000\n"})
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    # Where both look unless they are told otherwise, and nobody tells them in a server.
    monkeypatch.setattr(available_cpus, "__defaults__", (root, own))
    monkeypatch.setattr(describe_cpus, "__defaults__", (folder / "cpuinfo", root, own))
    engine.clear()
    Made(folder / "models" / "small").write()
    chosen = ServerSettings(
        models=folder / "models",
        listen=["127.0.0.1:0"],
        metrics_listen="127.0.0.1:0",
        trial_loads="off",
        lame_duck_seconds=0,
        **settings,
    )
    server = Server(chosen, asyncio.Event())
    try:
        await server.start()
        (model,) = server.models
        lane = model.lane
        assert isinstance(lane, BatchLane)
        lone = lane.lone_runs
        return Start(
            workers=server.dispatcher.workers,
            threads=set(engine),
            budget_tokens=lane.budget.tokens,
            lone_threads=None if lone is None else lone.threads,
        )
    finally:
        await server.close()


async def test_quota_of_one_processor_leaves_one_worker_and_no_threads_to_add(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: set[int]
) -> None:
    """Two processors' time is two runs side by side, and both for a run that is alone; one's is one run at a time."""
    two = await started(tmp_path, monkeypatch, engine, "200000")
    one = await started(tmp_path, monkeypatch, engine, "100000")
    assert (two.workers, two.threads, two.lone_threads) == (2, {1}, 2)
    assert (one.workers, one.threads, one.lone_threads) == (1, {1}, None)


async def test_quota_of_one_processor_takes_a_runs_second_thread_and_lowers_the_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: set[int]
) -> None:
    """A worker's runs get all threads that the quota pays for, and the fewer those are, the sooner a run is full."""
    two = await started(tmp_path, monkeypatch, engine, "200000", workers=1)
    one = await started(tmp_path, monkeypatch, engine, "100000", workers=1)
    assert (two.workers, two.threads) == (1, {2})
    assert (one.workers, one.threads) == (1, {1})
    assert one.budget_tokens < two.budget_tokens
