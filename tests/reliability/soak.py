"""An hour under load: `python tests/reliability/soak.py --minutes 60`.

A server of MiniLM and pronounce, and calls of every kind at random times, at 70 % of what it answered right before,
when it was warm, of just such calls with 32 outstanding: single texts, calls of any shape, tensors, streams,
generation, mistakes, callers who go away, and a scrape of the metrics each second. Memory, descriptors, threads and
tasks must not grow, nor answers become slower. Samples are written as they come, to build/reliability/soak.csv, and
drawn in soak.html beside it.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]  # run as a file, from anywhere

import grpc  # noqa: E402 - after the path is set
import numpy as np  # noqa: E402
import psutil  # noqa: E402
from e2e.process import ServerProcess, running_server  # noqa: E402
from reliability.cancels_calls import EMBEDDER, GENERATOR  # noqa: E402
from reliability.figures import FOLDER, Figure, report  # noqa: E402
from reliability.soak_load import OPTIONS, Load, Seen  # noqa: E402
from reliability.soak_page import write_page  # noqa: E402
from reliability.soak_samples import MB, MIB, Held, Sample, SampleFile, bytes_an_hour, drift, quarter  # noqa: E402
from rich.progress import Progress  # noqa: E402

LINE = "soak"
_PART_OF_CAPACITY = 0.7
_OUTSTANDING = 32
_INTERVALS = 60
_REST_SECONDS = 1.5
# Until what the last callers have left is over, on a busy machine; what stays longer stays.
_PATIENCE_SECONDS = 30.0
_LOOK_SECONDS = 0.1
# Calls of this mix differ a hundredfold in what they cost: it takes many of them to know.
_MEASURING_SECONDS = 30.0
_WARM_UP_PART = 0.5  # of the time for which capacity is measured
# At 70 % next to nothing is: else it was more than 70 %.
_REFUSED_AIM_PERCENT = 0.1
_MEMORY_AIM = 1.0
_DRIFT_AIM = 1.1
_WORDS = ("the", "time", "of", "day", "when", "people", "come", "home", "from", "work")
_MOST_WORDS = 120


@dataclass(frozen=True)
class Soaked:
    """What came of it.

    Attributes:
        capacity: Calls a second that ended as they should, with many outstanding.
        samples: One each second.
        seen: What became of the calls.
        tasks: Of the server at rest, before and after.
        held: Calls that the server held in the end.
    """

    capacity: float
    samples: list[Sample]
    seen: Seen
    tasks: tuple[int, int]
    held: int


class _Sampler:
    """Looks at a server each second."""

    def __init__(self, server: ServerProcess, seen: Seen, interval_seconds: float, file: SampleFile | None) -> None:
        self.samples: list[Sample] = []
        self._server = server
        self._process = psutil.Process(server.process.pid)
        self._seen = seen
        self._interval_seconds = interval_seconds
        self._file = file

    async def run(self, seconds: float, advance: Callable[[float], object]) -> None:
        """Take samples for so long."""
        began, interval_ends = time.monotonic(), self._interval_seconds
        period = min(1.0, self._interval_seconds)
        self._seen.seconds.clear()
        while (elapsed := time.monotonic() - began) < seconds:
            p99 = 0.0
            if elapsed >= interval_ends and self._seen.seconds:
                p99 = float(np.quantile(self._seen.seconds, 0.99))
                self._seen.seconds.clear()
                interval_ends += self._interval_seconds
            await self._take(elapsed, p99)
            advance(elapsed)
            await asyncio.sleep(max(0.0, began + elapsed + period - time.monotonic()))

    async def at_rest(self, most_tasks: float = float("inf")) -> tuple[int, int]:
        """Tasks of the server's event loop and calls that it holds, once nothing goes on, or in spite of waiting.

        Args:
            most_tasks: With more of them it is not at rest yet.
        """
        until = time.monotonic() + _PATIENCE_SECONDS
        await asyncio.sleep(_REST_SECONDS)
        while True:
            seen = await asyncio.to_thread(self._server.scrape)
            tasks, held = int(seen["headwaiter_event_loop_tasks"]), int(seen["headwaiter_calls_held"])
            if (not held and tasks <= most_tasks) or time.monotonic() > until:
                return tasks, held
            await asyncio.sleep(_LOOK_SECONDS)

    async def _take(self, elapsed: float, p99_seconds: float) -> None:
        tasks = int((await asyncio.to_thread(self._server.scrape))["headwaiter_event_loop_tasks"])
        held = await asyncio.to_thread(Held.of, self._process)
        seen = self._seen
        sample = Sample(
            seconds=elapsed,
            **asdict(held),
            tasks=tasks,
            calls=seen.ended.total(),
            failed=seen.failed.total(),
            refused=seen.refused,
            p99_seconds=p99_seconds,
            probe_seconds=await asyncio.to_thread(_probe),
        )
        self.samples.append(sample)
        if self._file is not None:
            self._file.add(sample)


def _probe() -> float:
    """What a little work takes here and now: beside it, slower answers can be told from a slower machine."""
    matrix = np.full((160, 160), 0.5, np.float32)
    began = time.perf_counter()
    for _ in range(4):
        matrix = matrix @ matrix
        matrix /= matrix.max()
    return time.perf_counter() - began


async def soak(
    server: ServerProcess,
    seconds: float,
    *,
    words: list[str],
    most_words: int,
    measuring_seconds: float,
    file: SampleFile | None = None,
    seed: int = 0,
    advance: Callable[[float], object] = lambda _: None,
) -> Soaked:
    """Load a server for so long.

    Args:
        server: Of the models `EMBEDDER` and `GENERATOR`.
        seconds: How long.
        words: That the encoder knows.
        most_words: Of a text.
        measuring_seconds: What capacity is measured for, before, after half as long to warm up.
        file: Where samples are written down.
        seed: Of the calls.
        advance: Told how many seconds have passed.
    """
    async with grpc.aio.insecure_channel(server.grpc, options=OPTIONS) as channel:
        load = Load(channel, words, most_words, seed)
        await load.closed(_WARM_UP_PART * measuring_seconds, _OUTSTANDING)
        capacity = await load.closed(measuring_seconds, _OUTSTANDING)
        # What was refused before was not at 70 %; what failed has failed.
        load.seen = Seen(failed=load.seen.failed)
        sampler = _Sampler(server, load.seen, seconds / _INTERVALS, file)
        before, _ = await sampler.at_rest()
        async with asyncio.TaskGroup() as group:
            group.create_task(load.open(seconds, _PART_OF_CAPACITY * capacity))
            group.create_task(sampler.run(seconds, advance))
        after, held = await sampler.at_rest(before)
    return Soaked(capacity, sampler.samples, load.seen, (before, after), held)


def figures(soaked: Soaked) -> list[Figure]:
    """What is reported."""
    samples, seen = soaked.samples, soaked.seen
    resident, proportional = (bytes_an_hour(samples, f"{name}_bytes") / MB for name in ("resident", "proportional"))
    slower, machine = drift(samples, "p99_seconds"), drift(samples, "probe_seconds")
    refused = 100 * seen.refused / max(1, seen.ended.total())
    p99 = statistics.median([each.p99_seconds for each in quarter(samples, 2) if each.p99_seconds] or [0.0])

    def growth(name: str) -> int:
        early, late = (statistics.median_low([getattr(each, name) for each in quarter(samples, n)]) for n in (2, 4))
        return int(late - early)

    return [
        Figure("capacity, 32 calls outstanding", soaked.capacity, "calls/s"),
        Figure("calls", samples[-1].calls),
        Figure("ended a second, of capacity", 100 * samples[-1].calls / samples[-1].seconds / soaked.capacity, "%"),
        Figure("failed", seen.failed.total(), "calls", "0", not seen.failed),
        Figure("refused", refused, "% of calls", f"<= {_REFUSED_AIM_PERCENT:g} %", refused <= _REFUSED_AIM_PERCENT),
        Figure("held in the end", soaked.held, "calls", "0", not soaked.held),
        Figure("resident memory, second quarter", samples[len(samples) // 4].resident_bytes / MIB, "MiB"),
        Figure("growth of resident memory after the first quarter", resident, "MB/h", f"<= {_MEMORY_AIM:g}",
               resident <= _MEMORY_AIM),
        Figure("growth of its proportional part", proportional, "MB/h", f"<= {_MEMORY_AIM:g}",
               proportional <= _MEMORY_AIM),
        Figure("more descriptors, last quarter to second", growth("descriptors"), "", "0", growth("descriptors") <= 0),
        Figure("more threads, last quarter to second", growth("threads"), "", "0", growth("threads") <= 0),
        Figure("more tasks at rest, after to before", soaked.tasks[1] - soaked.tasks[0], "", "0",
               soaked.tasks[1] <= soaked.tasks[0]),
        Figure("p99 of a call of one text, second quarter", 1e3 * p99, "ms"),
        Figure("p99, last quarter to second", slower, "times", f"<= {_DRIFT_AIM:g}", slower <= _DRIFT_AIM),
        Figure("a little work beside, last quarter to second", machine, "times"),
    ]  # fmt: skip


def main() -> int:
    """Run and report; returns the exit code."""
    parser = argparse.ArgumentParser(description="Load a server for an hour.")
    parser.add_argument("--minutes", type=float, default=60.0, help="how long")
    parser.add_argument("--embedder", type=Path, default=ROOT / "build/encoders/packed/minilm/1", help="its bundle")
    parser.add_argument("--generator", type=Path, default=ROOT / "models/pronounce", help="its folder of versions")
    parser.add_argument("--seed", type=int, default=0, help="of the calls")
    arguments = parser.parse_args()
    seconds = 60 * arguments.minutes
    with ExitStack() as stack:
        models = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="headwaiter-soak-")))
        (models / EMBEDDER).mkdir()
        (models / EMBEDDER / "1").symlink_to(arguments.embedder.resolve())
        (models / GENERATOR).symlink_to(arguments.generator.resolve())
        server = stack.enter_context(running_server("--models", str(models), "--log-level", "error"))
        file = SampleFile(FOLDER / "soak.csv")
        stack.callback(file.close)
        progress = stack.enter_context(Progress())
        task = progress.add_task("seconds under load", total=seconds)
        soaked = asyncio.run(
            soak(
                server,
                seconds,
                words=list(_WORDS),
                most_words=_MOST_WORDS,
                measuring_seconds=max(_MEASURING_SECONDS, seconds / 60),
                file=file,
                seed=arguments.seed,
                advance=lambda done: progress.update(task, completed=done),
            )
        )
    for how, count in soaked.seen.failed.most_common(20):
        print(f"{count} x {how}", file=sys.stderr)  # noqa: T201 - a script
    write_page(FOLDER / "soak.html", soaked.samples)
    kinds = len(soaked.seen.ended)
    conditions = f"{arguments.minutes:g} minutes of calls of {kinds} kinds at random times, MiniLM and pronounce"
    return report(LINE, conditions, figures(soaked))


if __name__ == "__main__":
    sys.exit(main())
