"""A whole server in this process, with an eye on what reaches its models and on where calls were when they ended."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import grpc
from headwaiter_server.app import Server
from headwaiter_server.batching.batch import Batch
from headwaiter_server.config import ServerSettings
from headwaiter_server.generation.engine import Engine
from headwaiter_server.generation.running import RunningBatch
from headwaiter_server.metrics import Metrics
from headwaiter_server.rpc.crossing import Crossing
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

# What the server holds for calls, all of it 0 when there are none.
_HELD = (
    "calls_held", "waiting_texts_held", "requests_in_flight", "queue_depth", "running_texts", "generation_rows",
    "kv_cache_bytes",
)  # fmt: skip


@dataclass
class Watch:
    """What was seen.

    Attributes:
        texts: Texts, and steps of texts, that were given to a model.
        dead: Of these, the ones of which it was known when the run began that nobody waited for them.
        points: How far calls had come that were given up, by a word for it.
        before_run: Called on the worker before an encoder computes.
    """

    texts: int = 0
    dead: int = 0
    points: Counter[str] = field(default_factory=Counter)
    before_run: Callable[[], None] = lambda: None
    _now: threading.local = field(default_factory=threading.local)

    @property
    def given_up(self) -> int:
        """Calls, and messages of streams, that had come to the server and were given up there."""
        return self.points.total()

    def begin(self, entries: Iterable[Any]) -> None:
        """A run begins on this thread: remember whose texts must not be in it."""
        self._now.dead = {each for each in entries if not each.call.wanted(time.monotonic())}

    def given(self, entries: Sequence[Any]) -> None:
        """These texts of the run are given to the model."""
        self.texts += len(entries)
        self.dead += sum(each in self._now.dead for each in entries)

    def ended(self, crossing: Crossing, code: grpc.StatusCode) -> None:
        """A call has ended."""
        if code not in {grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED}:
            return
        trail = crossing.terms.trail
        if trail.submitted is None:
            point = "before it waited"
        elif trail.started is None:
            point = "while it waited"
        elif trail.answered is None:
            point = "while it ran"
        else:
            point = "while it was answered"
        self.points[point] += 1


@contextlib.contextmanager
def watching() -> Iterator[Watch]:
    """Watch every server of this process."""
    watch = Watch()
    execute, run = Batch.execute, Batch._run
    iterate = RunningBatch.iterate
    encode, read, step = Engine.encode, Engine.read, Engine.step
    finish = Crossing.finish

    def watched_execute(batch: Any) -> None:  # noqa: ANN401 - any of its kinds; likewise below
        watch.begin(batch.entries)
        execute(batch)

    def watched_run(batch: Any, start: int, stop: int) -> None:  # noqa: ANN401
        watch.given(batch._live[start:stop])
        watch.before_run()
        run(batch, start, stop)

    def watched_iterate(batch: RunningBatch, batch_id: int, idle_since: float) -> Any:  # noqa: ANN401
        watch.begin([*batch.newcomers, *(each.entry for each in batch.sequences)])
        return iterate(batch, batch_id, idle_since)

    def watched_encode(engine: Engine, texts: Any) -> Any:  # noqa: ANN401
        watch.given([each.entry for each in texts])
        return encode(engine, texts)

    def watched_read(engine: Engine, sequence: Any) -> Any:  # noqa: ANN401
        watch.given([sequence.entry])
        return read(engine, sequence)

    def watched_step(engine: Engine, stepping: Any) -> Any:  # noqa: ANN401
        watch.given([each.entry for each in stepping])
        return step(engine, stepping)

    def watched_finish(crossing: Crossing, method: str, code: grpc.StatusCode, ended: float, metrics: Metrics) -> None:
        watch.ended(crossing, code)
        finish(crossing, method, code, ended, metrics)

    with (
        patch.object(Batch, "execute", watched_execute),
        patch.object(Batch, "_run", watched_run),
        patch.object(RunningBatch, "iterate", watched_iterate),
        patch.object(Engine, "encode", watched_encode),
        patch.object(Engine, "read", watched_read),
        patch.object(Engine, "step", watched_step),
        patch.object(Crossing, "finish", watched_finish),
    ):
        yield watch


@contextlib.asynccontextmanager
async def server_here(repository: Path, kept: Path, **settings: Any) -> AsyncIterator[Server]:  # noqa: ANN401 - the server's
    """A server of all models of a repository, in this process."""
    chosen: dict[str, Any] = {"trial_loads": "off", "model_control": "none", "workers": 2} | settings
    stop = asyncio.Event()
    server = Server(
        ServerSettings(
            models=repository,
            listen=["127.0.0.1:0"],
            metrics_listen="127.0.0.1:0",
            calibration_cache=kept,
            lame_duck_seconds=0,
            **chosen,
        ),
        stop,
    )
    try:
        await server.start()
        yield server
        stop.set()
        await server.drain()
    finally:
        await server.close()


def counted(server: Server) -> dict[str, float]:
    """Its metrics, summed over their labels."""
    sums: dict[str, float] = {}
    for family in text_string_to_metric_families(generate_latest(server.metrics.registry).decode()):
        for sample in family.samples:
            sums[sample.name] = sums.get(sample.name, 0.0) + sample.value
    return sums


def wasted_seconds(server: Server, reason: str) -> float:
    """Processor time that was spent on calls that were given up."""
    for family in text_string_to_metric_families(generate_latest(server.metrics.registry).decode()):
        if family.name == "headwaiter_wasted_cpu_seconds":
            return sum(each.value for each in family.samples if each.labels["reason"] == reason)
    return 0.0


def held(server: Server) -> dict[str, float]:
    """What it holds for calls; empty if it holds nothing."""
    sums = counted(server)
    found = {name: sums.get(f"headwaiter_{name}", 0.0) for name in _HELD}
    found["calls started and not finished"] = sums.get("headwaiter_requests_started_total", 0.0) - sums.get(
        "headwaiter_requests_total", 0.0
    )
    found["bytes of calls"] = server.admission._bytes
    found["streams"] = len(server._edge._streams)
    return {name: count for name, count in found.items() if count}


async def seconds_until_nothing_is_held(server: Server, patience_seconds: float = 20.0) -> float:
    """How long the server takes to hold nothing; infinite where something stays."""
    began = time.monotonic()
    while held(server):
        if time.monotonic() - began > patience_seconds:
            return float("inf")
        await asyncio.sleep(0.01)
    return time.monotonic() - began
