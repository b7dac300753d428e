"""A server under a load of every kind, whose callers count what they get: what the dashboards are held to.

First the calm: calls that are answered, or fail, in numbers that are known. Then the storm: long calls take every
place, so that others are refused, until they are cancelled or expire. Last the server is frozen for a moment.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import grpc
import psutil

from .callers import Callers, Sent
from .monitored_models import POISON
from .process import ServerProcess, running_server
from .prometheus import Labels, Prometheus, running_prometheus
from .windows import Window

SLO_SECONDS = 0.25
MOST_CALLS = 8
MOST_TEXTS = 100_000
MEMORY_BYTES = 4_000_000_000
# Enough for two thirds of the rows with texts of the storm.
KV_CACHE_BYTES = 20_000_000
STORM_SECONDS = 12.0
# Long enough for three scrapes to fail, so that a target that is down is seen by two evaluations of the alerts.
FROZEN_SECONDS = 4.0
BIG_TEXTS = 8000
# So many that no series begins near nothing, measured by what it rises.
_ANSWERED_BEFORE = 6
WORDS = ("waiter", "soup", "lovelace")
# Texts of each call that takes a place in the storm, and hypotheses of each text: more than can be generated meanwhile,
# though the server turned to one call alone, of texts few enough that what it takes to read them all does not count.
LONG_TEXTS = 1500
LONG_BEAMS = 4
# Of what only some call or scrape shows.
_TRIES = 50
_LONG = ("abcdefgh" * 5,) * LONG_TEXTS
# Of what the panels of waiting show, whether some scrape has seen it; Prometheus starts with the calm.
_SEEN_WAITING = (
    "min(max_over_time(headwaiter_predicted_wait_seconds[5m])) > 0.01"
    ' and on () sum(max_over_time(headwaiter_queue_depth{model="embed"}[5m])) > 0'
    ' and on () sum(max_over_time(headwaiter_requests_in_flight{method=~".+/Embed"}[5m])) > 0'
)
_EXPIRED = (
    'headwaiter_requests_total{code="DEADLINE_EXCEEDED",method="headwaiter.v1.InferenceService/Generate",'
    'model="pronounce",version="1"}'
)
MIXED = ("soup", "the waiter walked to the table", "ada wrote the first note of the engine, and the note was long")


@dataclass(frozen=True)
class Story:
    """A server that has been through it all, and the Prometheus that watched.

    Attributes:
        server: The server.
        prometheus: Its Prometheus.
        calm: Calls in known numbers.
        storm: Overload, cancels, expired deadlines.
        whole: Both.
        ever: All that Prometheus has seen, from the first sample of each series.
        end: When the freeze was over, in Unix time.
        held_seconds: How long at least the worker was never idle.
        load_seconds: What the start of the server took.
        frozen_seconds: For how long it stood still in the freeze, at the most.
        resident_bytes: Memory of its process after the storm, by the operating system.
    """

    server: ServerProcess
    prometheus: Prometheus
    calm: Window
    storm: Window
    whole: Window
    ever: Window
    end: float
    held_seconds: float
    load_seconds: float
    frozen_seconds: float
    resident_bytes: int


@contextmanager
def told_story(models: Path, folder: Path) -> Iterator[Story]:
    """Start everything, and put the server through it all."""
    began = time.monotonic()
    with (
        running_server(
            *("--models", str(models), "--workers", "1", "--slo-seconds", str(SLO_SECONDS)),
            *("--max-calls", str(MOST_CALLS), "--max-texts", str(BIG_TEXTS), "--max-waiting-texts", str(MOST_TEXTS)),
            *("--memory-limit-bytes", str(MEMORY_BYTES), "--kv-cache-bytes", str(KV_CACHE_BYTES)),
            *("--lame-duck-seconds", "0"),
        ) as server,
        grpc.insecure_channel(server.grpc, options=[("grpc.enable_retries", 0)]) as channel,
    ):
        load_seconds = time.monotonic() - began
        process = psutil.Process(server.process.pid)
        callers = Callers(channel)
        _warm_up(callers, server)
        with running_prometheus(folder, server.metrics) as prometheus:
            edges = [_edge(prometheus, process, callers)]
            _calm(callers, prometheus)
            edges.append(_edge(prometheus, process, callers))
            held_seconds = _storm(callers, server)
            edges.append(_edge(prometheus, process, callers))
            resident_bytes = process.memory_info().rss
            frozen_seconds = _freeze(server)
            end = prometheus.settled()
            first = {labels: values[0] for labels, values in prometheus.samples('{job="headwaiter"}').items()}
            yield Story(
                server,
                prometheus,
                calm=_window(prometheus, callers, edges[0], edges[1]),
                storm=_window(prometheus, callers, edges[1], edges[2]),
                whole=_window(prometheus, callers, edges[0], edges[2]),
                ever=replace(_window(prometheus, callers, edges[0], edges[2]), before=first),
                end=end,
                held_seconds=held_seconds,
                load_seconds=load_seconds,
                frozen_seconds=frozen_seconds,
                resident_bytes=resident_bytes,
            )


def _warm_up(callers: Callers, server: ServerProcess) -> None:
    """Calls of every kind, so that every series is there: the first event of a new one cannot be seen as a rise.

    More than one of those that are answered at once: what Prometheus reckons a series to have risen by before its first
    sample, it cuts off where that would have been less than nothing. What all series have risen by alike cancels out.
    """
    for _ in range(_ANSWERED_BEFORE):
        for model in ("embed", "fragile"):
            callers.embed("soup", model=model).ended()
        callers.tag("soup").ended()
        callers.generate("soup").ended()
    callers.embed("soup", timeout=30).ended()
    callers.embed(POISON, model="fragile").ended()
    callers.embed("", model="embed").ended()
    callers.embed("soup", model="nobody").ended()
    # The server calls those cancelled whose deadline it learns of late.
    for _ in range(_TRIES):
        if _EXPIRED in server.scrape():
            break
        callers.generate(*_LONG, timeout=0.5, num_beams=LONG_BEAMS).ended()
        _until(server, "headwaiter_calls_held", 0)
    else:
        raise AssertionError("no call has been told that its deadline has passed")
    _cancelled(callers.generate(*_LONG, num_beams=LONG_BEAMS), server)
    places = _take_every_place(callers, server)
    callers.embed("soup").ended()
    for each in places:
        each.future.cancel()
    for each in places:
        each.ended()
    _until(server, "headwaiter_calls_held", 0)


def _calm(callers: Callers, prometheus: Prometheus) -> None:
    for _ in range(40):
        callers.embed("soup").ended()
    callers.together(lambda _: callers.embed(*MIXED * 5, timeout=30), 30, MOST_CALLS)
    callers.together(lambda _: callers.tag(*MIXED * 3), 30, MOST_CALLS)
    callers.together(lambda number: callers.embed(POISON if number % 2 else "soup", model="fragile"), 20, MOST_CALLS)
    callers.together(lambda _: callers.embed("", model="embed"), 20, MOST_CALLS)
    callers.together(lambda _: callers.embed("soup", model="nobody"), 15, MOST_CALLS)
    callers.together(lambda _: callers.generate(*WORDS), 20, MOST_CALLS)
    callers.together(lambda _: callers.generate("waiter", num_beams=4), 10, MOST_CALLS)
    for _ in range(10):
        callers.embed(*[MIXED[1]] * BIG_TEXTS).ended()
    for _ in range(_TRIES):
        if prometheus.instant(_SEEN_WAITING):
            return
        callers.embed(*[MIXED[1]] * BIG_TEXTS).ended()
    raise AssertionError("no scrape has seen texts wait")


def _storm(callers: Callers, server: ServerProcess) -> float:
    """Returns how long the worker was never idle, at least."""
    places = _take_every_place(callers, server, timeout=STORM_SECONDS)
    began = time.monotonic()
    for _ in range(30):
        callers.embed("soup").ended()
    # Half of them have a deadline; their end is the storm's.
    expiring, cancelled = places[: MOST_CALLS // 2], places[MOST_CALLS // 2 :]
    for each in expiring:
        each.ended()
    held_seconds = time.monotonic() - began
    # The stream first: its texts, of one hypothesis each, are not to get the places of the others.
    for each in reversed(cancelled):
        each.future.cancel()
    for each in cancelled:
        each.ended()
    _until(server, "headwaiter_calls_held", 0)
    return held_seconds


def _take_every_place(callers: Callers, server: ServerProcess, timeout: float | None = None) -> list[Sent]:
    """Long calls, of which the first half has a deadline, if one is given; the last one is a stream."""
    sent = [
        callers.generate(*_LONG, timeout=timeout if number < MOST_CALLS // 2 else None, num_beams=LONG_BEAMS)
        for number in range(MOST_CALLS - 1)
    ]
    sent.append(callers.generate_unread(*_LONG))
    _until(server, "headwaiter_waiting_texts_held", MOST_CALLS * LONG_TEXTS)
    return sent


def _cancelled(sent: Sent, server: ServerProcess) -> None:
    _until(server, 'headwaiter_running_texts{model="pronounce"}', 1)
    sent.future.cancel()
    sent.ended()
    _until(server, "headwaiter_calls_held", 0)


def _freeze(server: ServerProcess) -> float:
    """Returns for how long it stood still, at the most."""
    began = time.monotonic()
    server.process.send_signal(signal.SIGSTOP)
    time.sleep(FROZEN_SECONDS)
    server.process.send_signal(signal.SIGCONT)
    return time.monotonic() - began


def _until(server: ServerProcess, name: str, least: float) -> None:
    """Wait until a gauge has so much or, of 0, until it has nothing."""
    while not (server.scrape()[name] >= least if least else server.scrape()[name] == 0):
        time.sleep(0.02)


@dataclass(frozen=True)
class _Edge:
    at: float
    calls: int
    cpu_seconds: float
    series: dict[Labels, float]


def _edge(prometheus: Prometheus, process: psutil.Process, callers: Callers) -> _Edge:

    at = prometheus.settled()
    times = process.cpu_times()
    return _Edge(at, len(callers.seen), times.user + times.system, prometheus.instant('{job="headwaiter"}', at))


def _window(prometheus: Prometheus, callers: Callers, start: _Edge, end: _Edge) -> Window:
    calls = tuple(callers.seen[start.calls : end.calls])
    return Window(prometheus, start.at, end.at, calls, end.cpu_seconds - start.cpu_seconds, start.series, end.series)
