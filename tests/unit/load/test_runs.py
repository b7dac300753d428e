"""Whole load tests against scripted servers, with real processes, sockets and clocks."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import grpc
import pytest
from headwaiter_load import typed
from headwaiter_load.capacity import SearchSettings, find_capacity
from headwaiter_load.endpoint import Endpoint
from headwaiter_load.errors import UnreachableError
from headwaiter_load.plan import Plan
from headwaiter_load.results import Goal, RunResult, Step
from headwaiter_load.running import run_plan
from headwaiter_load.schedules import Closed, Load, Open, Replay
from headwaiter_load.worker import Progress
from unit.client.scripted_server import ScriptedServer, refuse
from unit.load.targets import FixedCapacity, Stall
from unit.load.test_recorder import SETTINGS

RATE = 200.0
CALLS = [("one", "two"), ("three",)]


@pytest.fixture
def serve() -> Iterator[Callable[..., ScriptedServer]]:
    servers: list[ScriptedServer] = []

    def start(embed: Callable[[bytes, grpc.ServicerContext], bytes]) -> ScriptedServer:
        servers.append(ScriptedServer({"Embed": embed}).start())
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


def plan_for(server: ScriptedServer, when: Load, most_outstanding: int = 10_000, **settings: Any) -> Plan:  # noqa: ANN401
    """A plan of calls that ask for embeddings."""
    usual: dict[str, Any] = {"target": server.target, "warmup_seconds": 0.5, "seconds": 2.0}
    return Plan(
        endpoint=Endpoint(server.target),
        requests=typed.typed_requests("embed", typed.Asked("m"), CALLS, stream=False),
        load=when,
        settings=replace(SETTINGS, **usual | settings),
        most_outstanding=most_outstanding,
        metrics_page=None,
    )


def run(plan: Plan) -> RunResult:
    """Run a plan, and see that its counts add up."""
    seen: list[Progress] = []
    result = run_plan(plan, seen.append)
    assert result.scheduled == result.answered + result.failed
    assert result.failed == sum(each.count for each in result.errors)
    assert result.latency.count == result.service_time.count == result.answered
    assert sum(moment.scheduled for moment in result.timeline) == result.scheduled
    assert seen
    return result


@pytest.mark.alone
def test_a_stalled_server_is_charged_for_every_call_it_kept_waiting(serve: Callable[..., ScriptedServer]) -> None:
    """A fifth of the calls fall due in a stall of 2 s; one in twenty of these waits for 1.9 s and longer.

    A closed loop sends one call into the same stall, and sees next to nothing of it.
    """
    # As long as that, so that what the machine itself stands still is little beside it.
    stall = 2.0
    server = serve(Stall(after_seconds=3.0, seconds=stall))
    opened = run(plan_for(server, Open("constant", RATE), seconds=10.0))
    server = serve(Stall(after_seconds=3.0, seconds=stall))
    closed = run(plan_for(server, Closed(1), seconds=10.0, load="closed"))
    assert opened.scheduled == RATE * 10
    assert 0.85 <= opened.latency.p99_seconds / stall <= 1.5
    assert closed.latency.p99_seconds < 0.5 * stall
    stalled = max(opened.timeline, key=lambda moment: moment.max_seconds or 0)
    assert stalled.max_seconds == pytest.approx(opened.latency.max_seconds, rel=0.02)


def test_processes_share_one_load(serve: Callable[..., ScriptedServer]) -> None:
    """Three processes send what one would: every call once, counted once; texts and bytes are those of the calls."""
    server = serve(lambda request, context: b"abc")
    result = run(plan_for(server, Open("constant", 60.0), processes=3))
    assert (result.scheduled, result.answered, result.failed) == (120, 120, 0)
    assert len(server.calls) == 150
    assert result.texts == 180
    assert result.received_bytes == 3 * 120
    assert [each.number for each in result.tester.processes] == [0, 1, 2]
    assert all(each.cpu_seconds > 0 for each in result.tester.processes)
    assert result.finished


def test_errors_and_deadlines_are_counted_by_code(serve: Callable[..., ScriptedServer]) -> None:
    """Every other call is refused, and the deadline of a trace's call is its own."""

    def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
        if context.time_remaining() < 5:
            return Stall(0, 1.0)(request, context)
        return refuse(context, grpc.StatusCode.RESOURCE_EXHAUSTED, "too much")

    offsets = tuple(number / 50 for number in range(100))
    deadlines = tuple(0.2 if number % 10 == 0 else None for number in range(100))
    server = serve(answer)
    load = Replay(offsets, deadlines)
    result = run(plan_for(server, load, warmup_seconds=0.0, deadline_seconds=20.0, load="replay"))
    assert {each.code: (each.count, each.example) for each in result.errors} == {
        "RESOURCE_EXHAUSTED": (90, "too much"),
        "DEADLINE_EXCEEDED": (10, result.errors[1].example),
    }
    assert result.error_latency.count == 100


def test_calls_beyond_the_bound_are_not_sent_and_told(serve: Callable[..., ScriptedServer]) -> None:
    """A server that answers nothing holds a bounded number of calls; what it never answers is told too."""
    server = serve(Stall(0.0, 4.0))
    result = run(plan_for(server, Open("constant", 50.0), most_outstanding=5, deadline_seconds=None))
    assert result.scheduled == 100
    assert {each.code for each in result.errors} == {"NOT_SENT"}
    assert result.outstanding_at_end <= 5


def test_calls_under_way_at_ctrl_c_are_counted(serve: Callable[..., ScriptedServer]) -> None:
    """Nothing is known of them, so they count nowhere else; but how many there were is told."""
    answered, proceed = threading.Semaphore(40), threading.Event()

    def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
        if not answered.acquire(blocking=False):
            proceed.wait(60)
        return b""

    def watch(progress: Progress) -> None:
        if progress.answered == 40 and progress.sent >= 47 and not interrupted.is_set():
            interrupted.set()
            os.kill(os.getpid(), signal.SIGINT)

    interrupted = threading.Event()
    result = run_plan(plan_for(serve(answer), Closed(7), seconds=60.0, warmup_seconds=0.0, load="closed"), watch)
    proceed.set()
    assert not result.finished
    assert (result.scheduled, result.answered, result.left_out) == (40, 40, 7)


def test_ctrl_c_gives_what_there_is(serve: Callable[..., ScriptedServer]) -> None:
    """The run ends at once, and its figures are of the time that it had."""
    server = serve(lambda request, context: b"")
    plan = plan_for(server, Open("constant", 50.0), seconds=60.0, processes=2)
    seen: list[Progress] = []

    def watch(progress: Progress) -> None:
        seen.append(progress)
        if progress.answered > 40 and not interrupted.is_set():
            interrupted.set()
            os.kill(os.getpid(), signal.SIGINT)

    interrupted = threading.Event()
    result = run_plan(plan, watch)
    assert not result.finished
    assert 0 < result.measured_seconds < 60
    assert result.answered == result.scheduled > 0
    assert len(result.timeline) <= result.measured_seconds + 1


@pytest.mark.alone
def test_capacity_of_a_known_server_is_found(serve: Callable[..., ScriptedServer]) -> None:
    """A server of 100 calls a second, one after the other, keeps a p99 of 0.5 s up to about that."""
    server = serve(FixedCapacity(100.0))
    plan = plan_for(server, Open("poisson", 1.0, seed=5), seconds=2.0)
    # So far above what it takes at 60 a second that a machine which stands still for a moment misses nothing there.
    goal = Goal(p99_seconds=0.5, error_ratio=0.01, precision=0.25)
    steps: list[Step] = []
    result = find_capacity(plan, SearchSettings(goal, 60.0, 1000.0, 0.1), lambda _: None, steps.append)
    assert result.limited_by == "server"
    assert result.capacity_per_second is not None
    assert result.missed_per_second is not None
    assert 30 <= result.capacity_per_second < result.missed_per_second <= 125
    assert tuple(steps) == result.steps
    assert steps[0].rate == 60.0
    assert all(step.met or step.reasons for step in steps)
    assert result.best is not None
    assert result.best.settings.rate == result.capacity_per_second
    assert result.best.latency.p99_seconds <= 0.5


def test_ctrl_c_ends_a_search_with_what_it_found(serve: Callable[..., ScriptedServer]) -> None:
    """The steps that were done are there; the one that was cut short is not, nor is anything concluded from it."""
    server = serve(lambda request, context: b"")
    # Long enough that progress is told in the second step, too.
    plan = plan_for(server, Open("constant", 1.0), seconds=3.0, warmup_seconds=0.1)
    steps: list[Step] = []

    def watch(_: Progress) -> None:
        if steps and not interrupted.is_set():
            interrupted.set()
            os.kill(os.getpid(), signal.SIGINT)

    interrupted = threading.Event()
    goal = Goal(p99_seconds=0.5, error_ratio=0.01, precision=0.1)
    result = find_capacity(plan, SearchSettings(goal, 60.0, 1000.0, 0.0), watch, steps.append)
    assert (result.finished, result.limited_by) == (False, "interrupted")
    assert len(result.steps) == len(steps) == 1
    assert result.capacity_per_second == (60.0 if steps[0].met else None)


def test_nobody_there_is_told() -> None:
    """A target where nothing listens ends the run before it begins."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        target = f"127.0.0.1:{free.getsockname()[1]}"
        plan = replace(plan_for(ScriptedServer(), Closed(1)), endpoint=Endpoint(target))
        # The port is held meanwhile: no other test's server gets it.
        with pytest.raises(UnreachableError, match=f"no server answers at {target}"):
            run_plan(plan, lambda _: None)
