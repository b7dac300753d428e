"""Many callers load, unload, swap and ask models at random, for minutes: nothing may be left behind.

    python tests/load_unload_chaos.py --seconds 120

Prints what was done, and what the server held before and after; ends with 0 if every count is as before, memory within
5 percent, and every answer was right.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path

import psutil
from e2e.load_chaos import Chaos, counted_server, settled, write_repository
from headwaiter_server.log import configure_logging
from rich.console import Console
from rich.table import Table

# What memory may differ by.
_PART = 0.05
# Until memory has settled: the allocator keeps what it was given back.
_SETTLING = 0.25


def main() -> int:
    """Run and report; returns the exit code."""
    parser = argparse.ArgumentParser(description="Load and unload models at random.")
    parser.add_argument("--seconds", type=float, default=120, help="how long")
    parser.add_argument("--callers", type=int, default=16, help="how many at one time")
    parser.add_argument("--seed", type=int, default=0, help="of what they do")
    arguments = parser.parse_args()
    configure_logging("json", "error")
    with tempfile.TemporaryDirectory(prefix="headwaiter-chaos-") as folder:
        return asyncio.run(_run(Path(folder), arguments.seconds, arguments.callers, arguments.seed))


async def _run(folder: Path, seconds: float, callers: int, seed: int) -> int:
    console, repository = Console(), folder / "models"
    made = write_repository(repository)
    process = psutil.Process()
    async with counted_server(repository, folder / "kept") as server:
        chaos = Chaos(server, repository, made, seed)
        await chaos.load_each()
        began = time.monotonic()
        await chaos.run(callers, lambda: time.monotonic() < began + seconds * _SETTLING)
        before, resident_before = await settled(server), process.memory_info().rss
        async with asyncio.timeout(seconds * 2 + 60):
            ends = time.monotonic() + seconds * (1 - _SETTLING)
            await chaos.run(callers, lambda: time.monotonic() < ends)
        after, resident_after = await settled(server, before), process.memory_info().rss
    table = Table("what was done", "how often")
    for what, times in sorted(chaos.done.items()):
        table.add_row(what, str(times))
    console.print(table)
    console.print(f"before: {before}\nafter:  {after}")
    console.print(
        f"resident: {resident_before >> 20} MiB before, {resident_after >> 20} MiB after; right answers of the model "
        f"that stayed: {chaos.answers.right}"
    )
    for problem in chaos.problems:
        console.print(f"[red]{problem}[/]")
    grown = resident_after > resident_before * (1 + _PART)
    return int(bool(chaos.problems) or before != after or grown or not chaos.answers.right)


if __name__ == "__main__":
    sys.exit(main())
