"""Invariant 9: the server's end, seen by what happens to its parts and in which order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from headwaiter_server.app import Server, serve
from headwaiter_server.config import ServerSettings
from headwaiter_server.errors import BundleError, DrainingError, HeadwaiterError
from headwaiter_server.metrics import MetricsEndpoint

# Longer than any test waits.
NEVER_SECONDS = 600.0

Events = list[str]


class RecordedGrpc:
    """Stands for `GrpcServer`."""

    def __init__(self, events: Events) -> None:
        self._events = events

    async def leave(self) -> None:
        self._events.append("health says NOT_SERVING")

    async def go_away(self) -> None:
        self._events.append("listeners close")

    async def stop(self, grace_seconds: float) -> None:
        self._events.append("connections close")


class HeldCalls:
    """A lane that has calls until they are failed; a bug in it can be had, too."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._held = True
        self.broken = False

    def rank(self, now: float) -> None:
        if self.broken:
            raise ZeroDivisionError

    def take(self, now: float, idle_workers: int) -> None:
        if self.broken:
            raise ZeroDivisionError

    def fail_all(self, error: HeadwaiterError) -> None:
        if self._held:
            self._events.append(f"held calls end with {type(error).__name__}")
        self._held = False


@dataclass
class Ending:
    """A server whose parts note what is done to them."""

    server: Server
    lane: HeldCalls
    events: Events


Build = Callable[[float, float], Ending]


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Build:
    """Gives a server that has a lame-duck time and a time to drain."""

    def ending(lame_duck_seconds: float, drain_seconds: float) -> Ending:
        events: Events = []
        monkeypatch.setattr("headwaiter_server.app.GrpcServer", lambda *parts, **limits: RecordedGrpc(events))
        server = Server(
            ServerSettings(
                models=tmp_path, workers=1, lame_duck_seconds=lame_duck_seconds, drain_seconds=drain_seconds
            ),
            asyncio.Event(),
        )
        lane = HeldCalls(events)
        server.dispatcher.add_lane(lane)
        server._metrics_endpoint = MetricsEndpoint(0, lambda: events.append("metrics close"))
        refuse, end_workers = server.admission.close, server.dispatcher.close

        def close_admission() -> None:
            refuse()
            events.append("calls are refused")

        async def close_dispatcher(timeout_seconds: float) -> bool:
            ended = await end_workers(timeout_seconds)
            events.append("workers end")
            return ended

        monkeypatch.setattr(server.admission, "close", close_admission)
        monkeypatch.setattr(server.dispatcher, "close", close_dispatcher)
        return Ending(server, lane, events)

    return ending


async def turns(count: int = 5) -> None:
    """Let the event loop do what is due."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_order_of_a_shutdown_that_runs_out_of_time(build: Build) -> None:
    """Health, listeners, refusals, failing what is held, connections, workers, metrics: in this order, each once."""
    ending = build(0.0, 0.0)
    with ending.server.admission.admit(1):
        await ending.server.drain()
        await ending.server.close()
    assert ending.events == [
        "health says NOT_SERVING",
        "listeners close",
        "calls are refused",
        "held calls end with DrainingError",
        "connections close",
        "workers end",
        "metrics close",
    ]


async def test_calls_are_taken_for_the_lame_duck_time(build: Build) -> None:
    """Between NOT_SERVING and the first refusal lies the lame-duck time, and calls are taken in it."""
    ending = build(0.1, NEVER_SECONDS)
    clock = asyncio.get_running_loop().time
    started = clock()
    draining = asyncio.create_task(ending.server.drain())
    await asyncio.sleep(0)
    assert ending.events == ["health says NOT_SERVING"]
    with ending.server.admission.admit(1):
        pass
    await asyncio.wait_for(draining, 10)
    assert clock() - started > 0.09
    with pytest.raises(DrainingError):
        ending.server.admission.admit(1)
    await ending.server.close()


async def test_drain_waits_for_the_calls_that_are_held(build: Build) -> None:
    """With time left, nothing is closed and nobody is failed until the last call has its answer."""
    ending = build(0.0, NEVER_SECONDS)
    with ending.server.admission.admit(1):
        draining = asyncio.create_task(ending.server.drain())
        await turns()
        assert ending.events == ["health says NOT_SERVING", "listeners close", "calls are refused"]
        assert not draining.done()
    await asyncio.wait_for(draining, 10)
    await ending.server.close()
    assert ending.events[3] == "connections close"


async def test_health_tells_of_a_bug_in_scheduling(build: Build) -> None:
    """When the scheduler stops, what is held is failed and health says NOT_SERVING, so that no calls are sent here."""
    ending = build(0.0, 0.0)
    ending.lane.broken = True
    ending.server.dispatcher.wake()
    await turns()
    assert ending.events == ["held calls end with EngineError", "health says NOT_SERVING"]
    assert ending.server.crashed
    await ending.server.close()


@pytest.mark.parametrize("fault", [None, BundleError("no model")], ids=["stopped", "failed start"])
async def test_serving_drains_then_closes(
    fault: BundleError | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A server that is told to stop drains before it closes; one that could not start is closed all the same."""
    events: Events = []

    class RecordedServer:
        crashed = False

        def __init__(self, settings: ServerSettings, stop: asyncio.Event) -> None:
            events.append("built")

        async def start(self) -> None:
            events.append("started")
            if fault is not None:
                raise fault

        async def drain(self) -> None:
            events.append("drained")

        async def close(self) -> None:
            events.append("closed")

    monkeypatch.setattr("headwaiter_server.app.Server", RecordedServer)
    stop = asyncio.Event()
    stop.set()
    serving = serve(ServerSettings(models=tmp_path), stop, lambda server: events.append("announced"))
    if fault is None:
        await serving
        assert events == ["built", "started", "drained", "closed"]
    else:
        with pytest.raises(BundleError):
            await serving
        assert events == ["built", "started", "closed"]
