"""Servers end under load, one after the other, and come back: is a single call lost?

    python tests/reliability/drain.py [--signals 100] [--cycles 20] [--way envoy ...]

For each way of finding a server: 70 % of what one server takes goes to two of them. SIGTERM to one, right behind a
burst of calls; load goes on while it ends, and while it starts again. Then three servers are restarted in turn, as in
a rolling update, under calls of every way.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]  # run as a file, from anywhere

from headwaiter import Client, HealthStatus  # noqa: E402 - after the path is set
from reliability.drain_exercise import DRAIN_SECONDS, FLAGS, LAME_DUCK_SECONDS, LOAD_SHARE, Seen, exercise  # noqa: E402
from reliability.drain_load import BURST_CALLS  # noqa: E402
from reliability.figures import Figure, report  # noqa: E402
from reliability.replicas import Replica, running_replicas  # noqa: E402
from reliability.ways import ALL, open_ways  # noqa: E402
from rich.progress import Progress  # noqa: E402

# Servers and Envoy yield to whoever calls, as if that had a machine of its own: where they begin to answer a burst on
# the same cores, the rest of it would be late.
_YIELDING = ("nice", "-n", "10")
IMPATIENT = 130
_GONE_SECONDS = 60


def impatient(replica: Replica) -> tuple[int, float]:
    """Two signals, one after the other: the exit code, and the seconds from the second one to the end."""
    process = replica.server.process
    process.send_signal(signal.SIGTERM)
    with Client(replica.address) as client:
        # Two that come together would be one.
        while client.health() is HealthStatus.SERVING:
            time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    again = time.monotonic()
    return process.wait(_GONE_SECONDS), time.monotonic() - again


def figures_of(name: str, seen: Seen, ways: Sequence[str], punctual: int | None = None) -> list[Figure]:
    """What one exercise gave.

    Args:
        name: What it is called.
        seen: What came of it.
        ways: By which calls came.
        punctual: How many signals were to come right behind a burst; None if that is held to nothing.
    """
    longest = max(ending.seconds for ending in seen.endings)
    bound = LAME_DUCK_SECONDS + DRAIN_SECONDS + 1
    figures = [
        Figure(f"{name}: signals", len(seen.endings)),
        _punctual(f"{name}: of these with a burst of {BURST_CALLS} calls at most 5 ms before", seen.punctual, punctual),
        Figure(f"{name}: calls a second", seen.rate),
        Figure(f"{name}: exit codes other than 0", seen.wrong_codes, "", "0", seen.wrong_codes == 0),
        Figure(f"{name}: longest time from signal to end", longest, "s", f"at most {bound:g} s", longest <= bound),
    ]
    for way in ways:
        calls, failed = seen.of(way, retries=True), seen.failed(way, retries=True)
        after = min(ending.after[way] for ending in seen.endings)
        without, lost = seen.of(way, retries=False), seen.failed(way, retries=False)
        title = f"{name}: {way}" if len(ways) > 1 else name
        figures += [
            Figure(f"{title}: calls that failed, of {len(calls):,}", len(failed), "", "0", not failed),
            Figure(f"{title}: fewest calls between a signal and the end", after, "", "more than 0", after > 0),
            Figure(f"{title}: slowest call", max(call.seconds for call in calls), "s"),
            Figure(f"{title}: calls without retries that failed, of {len(without):,}", len(lost)),
        ]
    return figures


def _punctual(name: str, count: int, aim: int | None) -> Figure:
    return Figure(name, count) if aim is None else Figure(name, count, "", f"at least {aim}", count >= aim)


def main() -> int:
    """Run everything, and report.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--signals", type=int, default=100, help="for each way")
    parser.add_argument("--cycles", type=int, default=20, help="of the rolling restart")
    parser.add_argument("--way", action="append", choices=ALL, help="only this one; may be given more than once")
    options = parser.parse_args()
    names = options.way or list(ALL)
    figures: list[Figure] = []
    with Progress() as progress:
        for name in names:
            told = _bar(progress, name, options.signals)
            seen = among(2, [name], options.signals, most=2 * options.signals, told=told)
            figures += figures_of(name, seen, [name], options.signals)
            _tell_failures(progress, name, seen)
        told = _bar(progress, "rolling restart", 3 * options.cycles)
        seen = among(3, names, 3 * options.cycles, rolling=True, told=told)
        figures += figures_of("rolling restart", seen, names)
        _tell_failures(progress, "rolling restart", seen)
    with tempfile.TemporaryDirectory() as folder, running_replicas(1, Path(folder)) as replicas:
        code, seconds = impatient(replicas[0])
    figures.append(Figure("second signal: exit code", code, "", str(IMPATIENT), code == IMPATIENT))
    figures.append(Figure("second signal: time to the end", seconds, "s", "at most 1 s", seconds <= 1))
    conditions = (
        f"{LOAD_SHARE:.0%} of what one server takes, runs of 10 ms of one text; {options.signals} signals for each way "
        f"to two servers, {options.cycles} rolling restarts of three; lame-duck time {LAME_DUCK_SECONDS:g} s"
    )
    return report("drain", conditions, figures)


def among(count: int, names: Sequence[str], signals: int, **how: Any) -> Seen:  # noqa: ANN401 - as `exercise` has them
    """Run an exercise among so many servers, which calls find by these ways."""
    with tempfile.TemporaryDirectory(prefix="headwaiter-drain-") as name:
        folder = Path(name)
        with (
            running_replicas(count, folder, *FLAGS, through=_YIELDING) as replicas,
            open_ways(names, replicas, folder, _YIELDING) as ways,
        ):
            return asyncio.run(exercise(ways, replicas, signals, **how))


def _bar(progress: Progress, name: str, signals: int) -> Callable[[], None]:
    task = progress.add_task(name, total=signals)
    return lambda: progress.advance(task)


def _tell_failures(progress: Progress, name: str, seen: Seen) -> None:
    for (way, retries, failure), count in Counter(
        (call.way, call.retries, call.failure) for call in seen.calls if not call.replica
    ).items():
        progress.console.print(f"{name}: {way}{'' if retries else ' without retries'}: {count} x {failure}")


if __name__ == "__main__":
    sys.exit(main())
