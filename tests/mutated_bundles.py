"""Thousands of damaged bundles against a real server: none may crash it, hang it, or change what others are answered.

    python tests/mutated_bundles.py --models models

Half of the bundles list the digests of their damaged files, so that only building them in the child shows the damage.
Prints what came of them, and ends with 0 if all were refused with a typed error but for those that are harmless: those
pass every check that a sound bundle passes, among them that they give the golden outputs.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil
from e2e.hostile_loads import Answers, Outcome, Verdict, load_hostiles, write_healthy
from e2e.process import running_server
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from unit.server.hostile_bundles import Hostiles

_LOAD_TIMEOUT_SECONDS = 5


def main() -> int:
    """Run and report; returns the exit code."""
    parser = argparse.ArgumentParser(description="Load damaged bundles into a real server.")
    parser.add_argument("--models", type=Path, default=Path("models"), help="folder of exported models to damage")
    parser.add_argument("--count", type=int, default=2000, help="how many bundles")
    parser.add_argument("--seed", type=int, default=0, help="the same seed damages in the same ways")
    arguments = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory(prefix="headwaiter-mutated-") as folder:
        return _run(console, Path(folder), arguments.models, arguments.count, arguments.seed)


def _run(console: Console, folder: Path, models: Path, count: int, seed: int) -> int:
    repository = folder / "models"
    made = write_healthy(repository)
    bundles = {"small": made.folder} | {
        path.parent.parent.name: path.parent for path in models.glob("*/1/manifest.json")
    }
    copies = {name: Path(shutil.copytree(bundle, folder / "whole" / name)) for name, bundle in bundles.items()}
    outcomes: list[Outcome] = []
    began = time.monotonic()
    with (
        (folder / "log").open("w") as log,
        running_server(
            *("--models", str(repository), "--model-control", "explicit", "--lame-duck-seconds", "0"),
            *("--load-timeout-seconds", str(_LOAD_TIMEOUT_SECONDS), "--calibration", "off"),
            *("--calibration-cache", str(folder / "kept")),
            log=log,
        ) as server,
        Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console
        ) as progress,
    ):
        process, bar = psutil.Process(server.process.pid), progress.add_task("damaged bundles", total=count)
        answers = Answers(server.grpc, made)

        def done(outcome: Outcome) -> None:
            outcomes.append(outcome)
            progress.advance(bar)
            if outcome.verdict is None:
                progress.console.print(f"[red]{outcome.hostile.number} {outcome.hostile.kind}[/]: {outcome.message}")

        async def attack() -> None:
            async with answers.all_along():
                await load_hostiles(server.grpc, repository, Hostiles(copies, seed), range(count), done)

        resident_mib = [process.memory_info().rss >> 20]
        asyncio.run(attack())
        resident_mib.append(process.memory_info().rss >> 20)
        code = server.terminate()
    _show(console, outcomes)
    console.print(
        f"{count} bundles in {time.monotonic() - began:.0f} s; meanwhile {answers.right} answers of a sound model were "
        f"right{', then: ' + answers.problem if answers.problem else ''}; the server held {resident_mib[0]} MiB before "
        f"and {resident_mib[1]} MiB after, and ended with {code}"
    )
    failed = code or answers.problem or not answers.right or any(each.verdict is None for each in outcomes)
    return 1 if failed or len(outcomes) != count else 0


def _show(console: Console, outcomes: list[Outcome]) -> None:
    counts = Counter((outcome.verdict, outcome.hostile.rehashed) for outcome in outcomes)
    table = Table("what came of it", "digests as before", "digests made right", "all")
    for verdict in (*Verdict, None):
        before, right = counts[verdict, False], counts[verdict, True]
        if before or right or verdict is not None:
            name = verdict.value if verdict is not None else "[red]something else[/]"
            table.add_row(name, str(before), str(right), str(before + right))
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
