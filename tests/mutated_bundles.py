"""Thousands of damaged bundles against a real server: none may crash it, hang it, or change what others are answered.

    python tests/mutated_bundles.py --models models

Half of the bundles list the digests of their damaged files, so that only building them in the child shows the damage.
All must be refused with a typed error but for those that are harmless: those pass every check that a sound bundle
passes, among them that they give the golden outputs.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import psutil
from e2e.hostile_loads import (
    ANSWER_SECONDS,
    HEALTHY,
    LOADS_AT_A_TIME,
    Answers,
    Outcome,
    RepositoryClient,
    Verdict,
    load_hostiles,
    write_healthy,
)
from e2e.process import ServerProcess, running_server
from reliability.figures import Figure, report
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from unit.server.hostile_bundles import Hostiles

LINE = "hostile"
_LOAD_TIMEOUT_SECONDS = 5
_READY = "READY"
# Checks that let more of them through would look at too little.
_MOST_HARMLESS = 0.25


@dataclass
class Result:
    """What came of damaged bundles.

    Attributes:
        count: How many were to be loaded.
        outcomes: Of each that was.
        right: Answers of a sound model meanwhile, all golden.
        problem: What was wrong with the first one that was not.
        slowest_seconds: The longest that one of them took.
        state: Of the sound model, in the end; empty if the server was gone.
        children: Processes that the server has then, besides the one that starts others.
        exit_code: Of the server, which was told to end if it had not.
        resident_bytes: Of the server, before and after.
    """

    count: int
    outcomes: list[Outcome] = field(default_factory=list)
    right: int = 0
    problem: str = ""
    slowest_seconds: float = 0.0
    state: str = ""
    children: int = 0
    exit_code: int | None = None
    resident_bytes: list[int] = field(default_factory=list)

    def counted(self, *verdicts: Verdict | None, rehashed: bool = False) -> int:
        """Bundles of which one of these came; only those whose digests were made right, if wanted."""
        return sum(each.verdict in verdicts and (each.hostile.rehashed or not rehashed) for each in self.outcomes)


def load_damaged(
    folder: Path,
    bundles: Mapping[str, Path],
    count: int,
    *,
    seed: int,
    load_timeout_seconds: float = _LOAD_TIMEOUT_SECONDS,
    done: Callable[[Outcome], object] = lambda _: None,
) -> Result:
    """Damage bundles, and have a server load them while it answers for a sound model.

    Args:
        folder: For all that there is to write.
        bundles: Whole bundles to damage, by name, beside a small one.
        count: How many damaged ones.
        seed: The same seed damages in the same ways.
        load_timeout_seconds: That the server gives a load.
        done: Told of each.
    """
    repository = folder / "models"
    made = write_healthy(repository)
    whole = {
        name: _copied(bundle, folder / "whole" / name) for name, bundle in {"small": made.folder, **bundles}.items()
    }
    hostiles, result = Hostiles(whole, seed), Result(count)

    def noted(outcome: Outcome) -> None:
        result.outcomes.append(outcome)
        done(outcome)

    with (
        (folder / "log").open("w") as log,
        running_server(
            *("--models", str(repository), "--model-control", "explicit", "--lame-duck-seconds", "0"),
            *("--load-timeout-seconds", str(load_timeout_seconds), "--calibration", "off"),
            *("--calibration-cache", str(folder / "kept")),
            log=log,
        ) as server,
    ):
        answers = Answers(server.grpc, made)

        async def attack() -> None:
            async with answers.all_along():
                await load_hostiles(server.grpc, repository, hostiles, range(count), noted)

        result.resident_bytes.append(psutil.Process(server.process.pid).memory_info().rss)
        asyncio.run(attack())
        result.right, result.problem, result.slowest_seconds = answers.right, answers.problem, answers.slowest_seconds
        result.exit_code = server.process.poll()
        if result.exit_code is None:
            _look(server, result)
            result.exit_code = server.terminate()
    return result


def _look(server: ServerProcess, result: Result) -> None:
    """What a server has that is still there."""

    async def states() -> dict[str, str]:
        async with grpc.aio.insecure_channel(server.grpc) as channel:
            return await RepositoryClient(channel).states()

    result.state = asyncio.run(states()).get(f"{HEALTHY}/1", "")
    process = psutil.Process(server.process.pid)
    result.children = len(process.children(recursive=True)[1:])
    result.resident_bytes.append(process.memory_info().rss)


def _copied(folder: Path, to: Path) -> Path:
    """A bundle's own files, elsewhere: what a server keeps beside them is none."""
    to.mkdir(parents=True)
    for path in folder.iterdir():
        (to / path.name).write_bytes(path.read_bytes())
    return to


def figures(result: Result) -> list[Figure]:
    """What is reported."""
    count, loaded = result.count, len(result.outcomes)
    rehashed = sum(each.hostile.rehashed for each in result.outcomes)
    refusals = [verdict for verdict in Verdict if verdict is not Verdict.HARMLESS]
    reached = [verdict for verdict in Verdict if verdict is not Verdict.BY_SERVER]
    harmless, otherwise = result.counted(Verdict.HARMLESS), result.counted(None)
    unanswered = sum(each.unanswered for each in result.outcomes)
    kinds = len({each.hostile.kind for each in result.outcomes})
    return [
        Figure("damaged bundles", loaded, "", f"{count:,}", loaded == count),
        Figure("damaged in so many ways", kinds),
        Figure("with digests made right", rehashed, "bundles", "half", rehashed == count // 2),
        Figure("of these, reached the child", result.counted(*reached, rehashed=True), "bundles"),
        Figure("refused with a typed error", result.counted(*refusals), "bundles"),
        *(Figure(f"of these, {verdict.value}", result.counted(verdict), "bundles") for verdict in refusals),
        Figure("harmless: every check passed, golden outputs among them", harmless, "bundles",
               f"< {_MOST_HARMLESS:.0%}", harmless < _MOST_HARMLESS * loaded),
        Figure("neither refused with a typed error nor harmless", otherwise, "bundles", "0", not otherwise),
        Figure("crashes of the server", int(result.exit_code != 0), "", "0", result.exit_code == 0),
        Figure(f"loads without an answer after {ANSWER_SECONDS:g} s", unanswered, "", "0", not unanswered),
        Figure("answers of a sound model between them, all golden", result.right, "calls", "> 0", result.right > 0),
        Figure("wrong or failed", int(bool(result.problem)), "calls", "0", not result.problem),
        Figure("the slowest of its answers", result.slowest_seconds, "s"),
        Figure("the sound model in the end", result.state or "gone", "", _READY, result.state == _READY),
        Figure("child processes left", result.children, "", "0", not result.children),
        Figure("memory of the server before", result.resident_bytes[0] / 2**20, "MiB"),
        Figure("memory of the server after", result.resident_bytes[-1] / 2**20, "MiB"),
    ]  # fmt: skip


def main() -> int:
    """Run and report; returns the exit code."""
    parser = argparse.ArgumentParser(description="Load damaged bundles into a real server.")
    parser.add_argument("--models", type=Path, default=Path("models"), help="folder of exported models to damage")
    parser.add_argument("--count", type=int, default=2000, help="how many bundles")
    parser.add_argument("--seed", type=int, default=0, help="the same seed damages in the same ways")
    arguments = parser.parse_args()
    bundles = {path.parent.parent.name: path.parent for path in arguments.models.glob("*/1/manifest.json")}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with tempfile.TemporaryDirectory(prefix="headwaiter-mutated-") as folder, Progress(*columns) as progress:
        bar = progress.add_task("damaged bundles", total=arguments.count)

        def done(outcome: Outcome) -> None:
            progress.advance(bar)
            if outcome.verdict is None:
                progress.console.print(f"[red]{outcome.hostile.number} {outcome.hostile.kind}[/]: {outcome.message}")

        result = load_damaged(Path(folder), bundles, arguments.count, seed=arguments.seed, done=done)
    if result.problem:
        print(f"the sound model: {result.problem}", file=sys.stderr)  # noqa: T201 - a script
    harmless = Counter(each.hostile.kind for each in result.outcomes if each.verdict is Verdict.HARMLESS)
    for kind, times in harmless.most_common():
        print(f"harmless, {times} x {kind}", file=sys.stderr)  # noqa: T201 - a script
    conditions = (
        f"Bundles made of a small encoder and {' and '.join(sorted(bundles))}, {LOADS_AT_A_TIME} loads at a time; a "
        f"load may take {_LOAD_TIMEOUT_SECONDS} s; seed {arguments.seed}"
    )
    return report(LINE, conditions, figures(result))


if __name__ == "__main__":
    sys.exit(main())
