"""Calls given up at random points: `python tests/reliability/cancels.py --cancels 10000`.

A server in this process, and callers who cancel, whose deadlines pass, or whose connections break, in the middle of
calls of every kind, at a time that is drawn at random from 0 to somewhat more than such a call takes. Others ask all
along for answers that they wait for, and these must be the golden ones. Afterwards nothing may be held, and the server
must have the tasks, threads and descriptors that it had before. What had been given up when a run began must not be
in it.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]  # run as a file, from anywhere

import grpc  # noqa: E402 - after the path is set
from e2e.load_chaos import Insides, settled  # noqa: E402
from headwaiter_server.log import configure_logging  # noqa: E402
from reliability.cancels_calls import EMBEDDER, GENERATOR, KINDS, Questions  # noqa: E402
from reliability.cancels_chaos import CALLERS, CANCEL, DEADLINE, DROP, MATES, OPTIONS, Chaos, Seen  # noqa: E402
from reliability.cancels_queue import Dead, give_up_in_the_queue  # noqa: E402
from reliability.cancels_watch import (  # noqa: E402
    Watch,
    held,
    seconds_until_nothing_is_held,
    server_here,
    watching,
)
from reliability.figures import Figure, report  # noqa: E402
from rich.progress import Progress  # noqa: E402
from uvloop import new_event_loop  # noqa: E402

LINE = "cancels"
_WARM_UP_PART = 0.1
_IN_FLIGHT_AIM_SECONDS = 1.0


@dataclass
class Result:
    """What came of it.

    Attributes:
        cancels: How many were to be given up.
        seen: By the callers.
        given_up: Calls that their callers gave up, by the way they did and their kind, without those of the warm-up.
        points: How far those had come that were given up as the server sees it.
        zero_seconds: After the last one of them, until the server held nothing, of those beside them neither.
        left: What it still held in the end.
        before: What the server had before.
        after: And afterwards.
        watch: What reached the models.
        dead: Calls that were given up while they waited behind a long run.
    """

    cancels: int
    seen: Seen = field(default_factory=Seen)
    given_up: Counter[tuple[str, str]] = field(default_factory=Counter)
    points: Counter[str] = field(default_factory=Counter)
    zero_seconds: float = float("inf")
    left: dict[str, float] = field(default_factory=dict)
    before: Insides | None = None
    after: Insides | None = None
    watch: Watch = field(default_factory=Watch)
    dead: Dead = field(default_factory=Dead)


async def give_up(
    repository: Path,
    kept: Path,
    texts: dict[str, list[str]],
    *,
    cancels: int,
    run_seconds: float = 0.0,
    seed: int = 0,
    advance: Callable[[int], object] = lambda _: None,
) -> Result:
    """Give up so many calls of a server, and see what is left behind.

    Args:
        repository: Holds the models `EMBEDDER` and `GENERATOR`.
        kept: Where the server keeps what it has found out.
        texts: To ask for, of each model.
        cancels: Calls that are to end before they are answered, as callers see it and as the server does, beside those
            of the warm-up.
        run_seconds: By which runs of a small encoder take longer, so that calls can be given up in them.
        seed: Of the callers.
        advance: Told how many have been given up.
    """
    result = Result(cancels)
    with watching() as result.watch:
        result.watch.before_run = lambda: time.sleep(run_seconds)
        async with server_here(repository, kept, lone_run_threads=1) as server:
            async with grpc.aio.insecure_channel(server.grpc_addresses[0], options=OPTIONS) as channel:
                questions = await Questions.asked_alone(channel, texts)
            chaos = Chaos(server.grpc_addresses[0], questions, seed)
            result.seen = chaos.seen
            # Whatever is made once is there then.
            await chaos.run(max(CALLERS, round(cancels * _WARM_UP_PART)), lambda: result.watch.given_up, lambda _: None)
            await seconds_until_nothing_is_held(server)
            result.before = await settled(server)
            points, given_up = result.watch.points.copy(), result.seen.given_up.copy()
            await chaos.run(cancels, lambda: result.watch.given_up, advance)
            await seconds_until_nothing_is_held(server)
            result.zero_seconds = time.monotonic() - result.seen.last
            result.points, result.given_up = result.watch.points - points, result.seen.given_up - given_up
            result.left = held(server)
            result.after = await settled(server, result.before)
        async with server_here(repository, kept, workers=1) as server:
            result.dead = await give_up_in_the_queue(server, result.watch, texts[EMBEDDER])
    return result


def figures(result: Result) -> list[Figure]:
    """What is reported."""
    seen, before, after, dead = result.seen, result.before, result.after, result.dead
    assert before is not None
    assert after is not None
    by_way = Counter[str]()
    for (way, _), count in result.given_up.items():
        by_way[way] += count
    points = [Figure(f"given up {point}", count, "calls") for point, count in sorted(result.points.items())]
    there = result.points.total()
    return [
        Figure("cancelled by their callers", by_way[CANCEL], "calls"),
        Figure("expired", by_way[DEADLINE], "calls"),
        Figure("lost with their connection", by_way[DROP], "calls"),
        Figure("of all these, given up at the server", there, "", f">= {result.cancels:,}", there >= result.cancels),
        *points,
        Figure("answered first", seen.answered, "calls"),
        Figure("refused", seen.refused, "calls"),
        Figure("answers to those beside them, all golden", seen.mates, "calls", "> 0", seen.mates > 0),
        Figure("wrong or failed", len(seen.problems), "calls", "0", not seen.problems),
        Figure("nothing held after", result.zero_seconds, "s", "<= 1 s", result.zero_seconds <= _IN_FLIGHT_AIM_SECONDS),
        Figure("started less finished", result.left.get("calls started and not finished", 0), "calls", "0",
               "calls started and not finished" not in result.left),
        Figure("tasks left", after.tasks - before.tasks, "", "0", after.tasks == before.tasks),
        Figure("threads left", len(after.threads) - len(before.threads), "", "0", after.threads == before.threads),
        Figure("descriptors left", after.descriptors - before.descriptors, "", "0",
               after.descriptors <= before.descriptors),
        Figure("texts and steps given to models", result.watch.texts),
        Figure("of these, of calls that were over", result.watch.dead, "", "0", not result.watch.dead),
        Figure("given up behind a long run", dead.given_up, "calls", "> 0", dead.given_up > 0),
        Figure("of these, run", dead.run, "texts", "0", not dead.run),
        Figure("processor time wasted on them", 1e3 * dead.wasted_seconds, "ms", "less than one run",
               dead.wasted_seconds < dead.run_seconds),
    ]  # fmt: skip


def _own_repository(folder: Path, embedder: Path, generator: Path) -> Path:
    folder.mkdir()
    (folder / EMBEDDER).mkdir()
    (folder / EMBEDDER / "1").symlink_to(embedder.resolve())
    (folder / GENERATOR).symlink_to(generator.resolve())
    return folder


def main() -> int:
    """Run and report; returns the exit code."""
    parser = argparse.ArgumentParser(description="Give calls up at random points.")
    parser.add_argument("--cancels", type=int, default=10_000, help="how many")
    parser.add_argument("--embedder", type=Path, default=ROOT / "build/encoders/packed/minilm/1", help="its bundle")
    parser.add_argument("--generator", type=Path, default=ROOT / "models/pronounce", help="its folder of versions")
    parser.add_argument("--seed", type=int, default=0, help="of what the callers do")
    arguments = parser.parse_args()
    configure_logging("json", "error")
    rng = random.Random(arguments.seed)
    words = ["the", "time", "of", "day", "when", "people", "come", "home", "from", "work"]
    texts = {
        EMBEDDER: [" ".join(rng.choices(words, k=round(rng.lognormvariate(2.3, 0.9)) + 1)) for _ in range(60)],
        GENERATOR: ["headwaiter", "onomatopoeia", "soup", "a", "restaurant", "queue", "thorough", "knife", "colonel"],
    }
    with tempfile.TemporaryDirectory(prefix="headwaiter-cancels-") as name, Progress() as progress:
        folder, task = Path(name), progress.add_task("calls given up", total=arguments.cancels)
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            result = runner.run(
                give_up(
                    _own_repository(folder / "models", arguments.embedder, arguments.generator),
                    folder / "kept",
                    texts,
                    cancels=arguments.cancels,
                    seed=arguments.seed,
                    advance=lambda done: progress.update(task, completed=done),
                )
            )
    for problem in result.seen.problems[:20]:
        print(problem, file=sys.stderr)  # noqa: T201 - a script
    kinds = f"{len(KINDS)} kinds, of MiniLM and pronounce"
    callers = f"{CALLERS + 1} callers beside {MATES} who wait"
    conditions = f"{arguments.cancels:,} calls of {kinds}, given up by {callers}"
    return report(LINE, conditions, figures(result))


if __name__ == "__main__":
    sys.exit(main())
