"""Far more calls than a server can answer: those that it takes are answered in time, the others are told so at once.

    python tests/reliability/overload.py [--seconds 20] [--models build/encoders/packed]

Calls come at random, whatever became of earlier ones, at 0.8, 1, 2, 5 and 10 times the capacity that is measured first,
and again at 0.8 times, at the very same distances. Then the capacity is measured again; answers are held against the
mean. The engine sleeps, so that the machine is no part of what is measured; with `--models`, a real model follows at
twice its capacity.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]  # run as a file, from anywhere

import psutil  # noqa: E402 - after the path is set
from e2e.process import ServerProcess, running_server  # noqa: E402
from headwaiter_proto.v1 import inference_pb2  # noqa: E402
from reliability.figures import Figure, report  # noqa: E402
from reliability.open_loop import LATE, Seen, Stage, answers_a_second, send_all  # noqa: E402
from reliability.sleeping_server import MODEL, ONE_BY_ONE, RUN_SECONDS, TEXT, running_sleeping_server  # noqa: E402
from rich.progress import Progress  # noqa: E402

DEADLINE_SECONDS = 1.0
BELOW = 0.8
LOADS = (BELOW, 1.0, 2.0, 5.0, 10.0, BELOW)
_REAL_LOADS = (BELOW, 2.0, BELOW)
_CAPACITY_SECONDS = 6.0
# Enough that the next one always waits when a run has ended.
_CALLERS = 16
_SEED = 7
_RECOVERED_SECONDS = 5.0
_MEMORY_MIB = 64
_REFUSED_SECONDS = 0.05
# What p99 may differ by, of two times at which nothing was different.
_AS_BEFORE = 1.25
# About two hundred tokens, so that a real model's capacity is far below what the sender can send.
_WORDS = "the waiter wrote the first note of the engine and the note was long "
QUIET = ("--lame-duck-seconds", "0", "--log-level", "error")


@dataclass(frozen=True)
class Outcome:
    """What became of the calls of one stage.

    Attributes:
        load: How many times the capacity.
        stage: The stage.
        seen: Its calls.
    """

    load: float
    stage: Stage
    seen: list[Seen]

    @property
    def refused(self) -> list[Seen]:
        """Calls that the server would not have."""
        return [each for each in self.seen if each.refused]

    @property
    def unhinted(self) -> int:
        """Refusals that do not say when to come back, or that it is no use."""
        return sum(each.pushback is None for each in self.refused)

    @property
    def failed(self) -> int:
        """Calls that were neither answered nor refused, nor too late."""
        return sum(not (each.good or each.refused or each.code == LATE) for each in self.seen)

    @property
    def answers(self) -> float:
        """Answers in time, in a second."""
        return sum(each.good and each.seconds <= DEADLINE_SECONDS for each in self.seen) / self.stage.seconds

    def admitted_p99(self, since: float = 0.0) -> float:
        """Of those that were let in and due after some seconds: the 99th percentile of their time, in seconds."""
        return percentile([each.seconds for each in self.seen if not each.refused and each.due >= since], 0.99)


@dataclass(frozen=True)
class Flood:
    """What became of a server.

    Attributes:
        capacities: Texts a second that it can answer, before the first stage and after the last.
        outcomes: Of each stage.
        grown_mib: By which its memory has grown at most, since the first stage.
        held: Calls that it holds in the end.
    """

    capacities: tuple[float, float]
    outcomes: list[Outcome]
    grown_mib: float
    held: int

    @property
    def capacity(self) -> float:
        """What its answers are held against: a machine that others use gives more at one time than at another."""
        return statistics.fmean(self.capacities)


def percentile(values: Sequence[float], part: float) -> float:
    """The value that a part of them does not exceed; 0 of none."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * part), len(ordered) - 1)] if ordered else 0.0


def payload(model: str, *texts: str) -> bytes:
    """A call to an encoder."""
    message: bytes = inference_pb2.EmbedRequest(model=model, texts=texts).SerializeToString()
    return message


def measure_capacity(
    server: ServerProcess, messages: Sequence[bytes], seconds: float, watch: Callable[[], None]
) -> float:
    """Calls a second that a server answers if the next one always waits."""
    stage = Stage(seconds, outstanding=_CALLERS)
    (seen,) = send_all(server.grpc, messages, [stage], watch=watch)
    assert all(each.good for each in seen)
    return answers_a_second(stage, seen)


def flood(
    started: AbstractContextManager[ServerProcess],
    messages: Sequence[bytes],
    loads: Sequence[float],
    seconds: float,
    *,
    capacity_seconds: float = _CAPACITY_SECONDS,
    least_capacity: float = 0.0,
    watch: Callable[[float], None] = lambda _: None,
) -> Flood:
    """Start a server, measure its capacity, and send it loads.

    Args:
        started: The server.
        messages: What is sent, in turns.
        loads: One after the other, in parts of its capacity.
        seconds: Of each.
        capacity_seconds: For which its capacity is measured.
        least_capacity: What its capacity is taken for if less is measured, on a machine that stands still meanwhile.
        watch: Told of the seconds that have passed since this was last called.
    """
    with started as server:
        process = psutil.Process(server.process.pid)
        sizes: list[tuple[float, int]] = []

        def look() -> None:
            now = time.monotonic()
            watch(now - sizes[-1][0] if sizes else 0.0)
            sizes.append((now, process.memory_info().rss))

        capacity = max(least_capacity, measure_capacity(server, messages, capacity_seconds, look))
        stages = [Stage(seconds, rate=load * capacity, seed=_SEED) for load in loads]
        began = time.monotonic()
        seen = send_all(server.grpc, messages, stages, deadline_seconds=DEADLINE_SECONDS, watch=look)
        held = int(server.scrape()["headwaiter_calls_held"])
        after = max(least_capacity, measure_capacity(server, messages, capacity_seconds, look))
    first = max(size for at, size in sizes if at < began + seconds)
    return Flood(
        (capacity, after),
        [Outcome(*each) for each in zip(loads, stages, seen, strict=True)],
        (max(size for _, size in sizes) - first) / 2**20,
        held,
    )


def figures(it: Flood) -> list[Figure]:
    """What is told of a flood, and what it is held to."""
    before, *floods, after = it.outcomes
    measured = zip(("capacity, before", "capacity, after"), it.capacities, strict=True)
    told = [Figure(name, value, "texts/s") for name, value in measured]
    told += [*_admitted(it, before), _how_many(before)]
    for outcome in floods:
        told += [*_admitted(it, outcome, before), *_refused(outcome)]
    since = _RECOVERED_SECONDS
    now, then = after.admitted_p99(since), before.admitted_p99(since)
    still, used = (sum(each.refused and each.due >= since for each in one.seen) for one in (after, before))
    return [
        *told,
        Figure(f"{since:.0f} s after: p99 at {BELOW:.0%} load", now * 1e3, "ms", "as before", now <= _AS_BEFORE * then),
        # Refusals come by chance, with the server's runs: three standard deviations of a count are no change.
        Figure(
            f"{since:.0f} s after: refused at {BELOW:.0%} load",
            still,
            "",
            f"as before: {used}, give or take chance",
            still <= used + 3 * math.sqrt(max(1, used)),
        ),
        Figure("calls held in the end", it.held, "", "0", it.held == 0),
        Figure("memory grown by", it.grown_mib, "MiB", f"<= {_MEMORY_MIB}", it.grown_mib <= _MEMORY_MIB),
    ]


def _admitted(it: Flood, outcome: Outcome, before: Outcome | None = None) -> list[Figure]:
    name, p99 = f"{outcome.load:g}x", outcome.admitted_p99()
    part = outcome.answers / it.capacity
    aim = {2.0: 0.95, 5.0: 0.9, 10.0: 0.9}.get(outcome.load)
    lag = percentile([each.lag for each in outcome.seen], 0.99)
    return [
        Figure(f"{name}: goodput", 100 * part, "% of capacity", f">= {aim:.0%}", part >= aim)
        if aim
        else Figure(f"{name}: goodput", 100 * part, "% of capacity"),
        Figure(f"{name}: p99 of the admitted", p99 * 1e3, "ms", "<= 2 x at 80 % load", p99 <= 2 * before.admitted_p99())
        if before
        else Figure(f"{name}: p99 of the admitted", p99 * 1e3, "ms"),
        Figure(f"{name}: failed otherwise", outcome.failed, "", "0", outcome.failed == 0),
        Figure(f"{name}: sent too late by, p99", lag * 1e3, "ms"),
    ]


def _how_many(outcome: Outcome) -> Figure:
    return Figure(f"{outcome.load:g}x: refused", len(outcome.refused), f"of {len(outcome.seen):,}")


def _refused(outcome: Outcome) -> list[Figure]:
    name, late = f"{outcome.load:g}x", percentile([each.seconds for each in outcome.refused], 0.99)
    return [
        _how_many(outcome),
        Figure(f"{name}: p99 of the refused", late * 1e3, "ms", "<= 50", late <= _REFUSED_SECONDS),
        Figure(f"{name}: refused without a hint", outcome.unhinted, "", "0", outcome.unhinted == 0),
    ]


def main() -> int:
    """Run and report; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each load")
    parser.add_argument("--models", type=Path, help="a repository with a real encoder named minilm")
    options = parser.parse_args()
    seconds = options.seconds
    if seconds <= _RECOVERED_SECONDS:
        parser.error(f"--seconds must be more than {_RECOVERED_SECONDS:g}")
    with Progress() as progress:
        task = progress.add_task("asleep", total=2 * _CAPACITY_SECONDS + seconds * len(LOADS))
        sleeping = running_sleeping_server(*ONE_BY_ONE, *QUIET, run_seconds=RUN_SECONDS)
        it = flood(
            sleeping, [payload(MODEL, TEXT)], LOADS, seconds, watch=lambda passed: progress.advance(task, passed)
        )
        told = figures(it)
        if options.models:
            task = progress.add_task("minilm", total=2 * _CAPACITY_SECONDS + seconds * len(_REAL_LOADS))
            real = running_server("--models", str(options.models), *QUIET)
            texts = [payload("minilm", _WORDS * 14)]
            it = flood(real, texts, _REAL_LOADS, seconds, watch=lambda passed: progress.advance(task, passed))
            told += [
                Figure(f"MiniLM, {each.name}", each.value, each.unit, each.aim, each.reached) for each in figures(it)
            ]
    return report("overload", f"{seconds:g} s of each load, runs of one text and {RUN_SECONDS * 1e3:g} ms", told)


if __name__ == "__main__":
    sys.exit(main())
