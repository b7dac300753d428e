"""Many callers load, unload, swap and ask models at random, for minutes: nothing may be left behind.

    python tests/load_unload_chaos.py --seconds 120

The server is in this process, so that its insides can be counted: in the end they must be as before, memory within 5
percent, and every answer right.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from e2e.load_chaos import Chaos, Insides, counted_server, settled, write_repository
from headwaiter_server.log import configure_logging
from reliability.figures import Figure, report

LINE = "loads"
MEMORY = "memory grown by"
# What memory may grow by.
_PART = 0.05
# Until memory has settled: the allocator keeps what it was given back.
_SETTLING = 0.25
# What callers do, as it is reported; see `Chaos`.
_ACTS = {
    "load": "loads",
    "unload": "unloads",
    "swap": "loads of another version",
    "impatient": "loads and unloads given up early",
    "ask": "calls to models that come and go",
    "index": "looks at the index",
    "broken": "loads of a model that crashes onnxruntime",
    "missing": "loads of a model that is not there",
}
# Of `Insides`.
_HELD = {
    "tasks": "tasks",
    "threads": "threads",
    "descriptors": "descriptors",
    "lanes": "lanes in the scheduler",
    "models": "models",
    "children": "child processes",
}

# Whether callers go on, for a part of the whole run.
Stages = Callable[[float], Callable[[], bool]]


@dataclass
class Result:
    """What came of loading and unloading at random.

    Attributes:
        before: What the server held once memory had settled and nobody called.
        after: And in the end.
        resident_bytes: Of this process, likewise.
        done: How often each thing was done, and how it ended.
        right: Answers of the model that stayed, all golden.
        problems: What must not happen.
        deadlocks: Calls that were never answered; and the whole, if it did not come to its end.
    """

    before: Insides
    after: Insides
    resident_bytes: tuple[int, int]
    done: Counter[str] = field(default_factory=Counter)
    right: int = 0
    problems: list[str] = field(default_factory=list)
    deadlocks: int = 0


async def load_at_random(folder: Path, stages: Stages, *, callers: int, seed: int, patience_seconds: float) -> Result:
    """Have many callers load, unload, swap and ask models.

    Args:
        folder: For all that there is to write.
        stages: Asked at the beginning of each part how long it goes on.
        callers: How many at one time.
        seed: Of what they do.
        patience_seconds: After which what goes on after memory has settled is no longer waited for.
    """
    repository = folder / "models"
    made = write_repository(repository)
    process = psutil.Process()
    deadlocks = 0
    async with counted_server(repository, folder / "kept") as server:
        chaos = Chaos(server, repository, made, seed)
        await chaos.load_each()
        await chaos.run(callers, stages(_SETTLING))
        before, resident_before = await settled(server), process.memory_info().rss
        try:
            async with asyncio.timeout(patience_seconds):
                await chaos.run(callers, stages(1 - _SETTLING))
        except TimeoutError:
            chaos.problems.append(f"did not come to an end in {patience_seconds:g} s")
            deadlocks = 1
        after, resident_after = await settled(server, before), process.memory_info().rss
    return Result(
        before,
        after,
        (resident_before, resident_after),
        chaos.done,
        chaos.answers.right,
        chaos.problems,
        deadlocks + chaos.unanswered,
    )


def for_seconds(seconds: float) -> Stages:
    """Go on for so long altogether."""

    def stage(part: float) -> Callable[[], bool]:
        ends = time.monotonic() + seconds * part
        return lambda: time.monotonic() < ends

    return stage


def for_acts(acts: int) -> Stages:
    """Go on until so many things are done altogether."""

    def stage(part: float) -> Callable[[], bool]:
        numbers = iter(range(round(acts * part)))
        return lambda: next(numbers, None) is not None

    return stage


def figures(result: Result) -> list[Figure]:
    """What is reported."""
    done = result.done
    resident_before, resident_after = result.resident_bytes
    growth = resident_after / resident_before - 1
    return [
        Figure("acts", done.total(), "", "> 0", done.total() > 0),
        *(Figure(name, _ways(done, act)) for act, name in _ACTS.items()),
        Figure("acts that ended as they must not", len(result.problems), "", "0", not result.problems),
        Figure("deadlocks", result.deadlocks, "", "0", not result.deadlocks),
        Figure("answers of the model that stayed, all golden", result.right, "calls", "> 0", result.right > 0),
        Figure("memory before", resident_before / 2**20, "MiB"),
        Figure("memory after", resident_after / 2**20, "MiB"),
        Figure(MEMORY, 100 * growth, "%", f"<= {_PART:.0%}", growth <= _PART),
        *(_left(held, result.before, result.after) for held in _HELD),
    ]


def _ways(done: Counter[str], act: str) -> str:
    """How often something was done, by how it ended."""
    ends = {what.removeprefix(f"{act}: "): count for what, count in done.items() if what.startswith(f"{act}: ")}
    return ", ".join(f"{count:,} {how}" for how, count in sorted(ends.items(), key=lambda each: -each[1])) or "0"


def _left(held: str, before: Insides, after: Insides) -> Figure:
    """How much more there is of something; other threads than before are not the same, be they as many."""
    then, now = getattr(before, held), getattr(after, held)
    more = now - then if isinstance(now, int) else len(now) - len(then)
    return Figure(f"{_HELD[held]} left", more, "", "0", now == then)


def main() -> int:
    """Run and report; returns the exit code."""
    parser = argparse.ArgumentParser(description="Load and unload models at random.")
    parser.add_argument("--seconds", type=float, default=120, help="how long")
    parser.add_argument("--callers", type=int, default=16, help="how many at one time")
    parser.add_argument("--seed", type=int, default=0, help="of what they do")
    arguments = parser.parse_args()
    configure_logging("json", "error")
    with tempfile.TemporaryDirectory(prefix="headwaiter-chaos-") as folder:
        result = asyncio.run(
            load_at_random(
                Path(folder),
                for_seconds(arguments.seconds),
                callers=arguments.callers,
                seed=arguments.seed,
                patience_seconds=arguments.seconds * 2 + 60,
            )
        )
    for problem in result.problems[:20]:
        print(problem, file=sys.stderr)  # noqa: T201 - a script
    if result.before != result.after:
        print(f"before: {result.before}\nafter:  {result.after}", file=sys.stderr)  # noqa: T201 - as above
    conditions = (
        f"{arguments.callers} callers for {arguments.seconds:g} s, the first quarter of it before what the end is held "
        f"against was counted; four models of two versions that come and go, one that stays; seed {arguments.seed}"
    )
    return report(LINE, conditions, figures(result))


if __name__ == "__main__":
    sys.exit(main())
