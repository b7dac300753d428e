"""Swaps a model for another and back under load, holds every answer to the version that it names, and writes the page.

`make bench`, or `python benchmarks/swaps.py --packed build/encoders/packed`. Two versions of MiniLM whose answers
cannot be mistaken for one another take turns, at 70 % of what the server can do. Stretches with swaps and stretches
without follow each other in one run, so that both meet the same machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # run as a file, from anywhere

from headwaiter_server.cpu import available_cpus, describe_processor  # noqa: E402 - after the path is set

from benchmarks.encoders.outcomes import percentile  # noqa: E402
from benchmarks.encoders.report import Page  # noqa: E402
from benchmarks.page import write_section  # noqa: E402
from benchmarks.servers import MeasuredServer, measured_server  # noqa: E402
from benchmarks.swaps_load import Caller, Golden, Seen  # noqa: E402
from benchmarks.turned_bundle import write_turned_bundle  # noqa: E402

PAGE = ROOT / "docs" / "benchmarks.md"
SECTION = "swaps"
_CALLERS = 16
_CAPACITY_SECONDS = 5.0
_LOAD = 0.7
# Between two swaps, so that each has a tail of its own.
_PAUSE_SECONDS = 0.5
_MOST_P99, _MOST_GROWTH = 1.5, 1.05


@dataclass(frozen=True)
class Figures:
    """What came out.

    Attributes:
        calls_per_second: That were sent.
        swaps: How many there were.
        calls: Calls, all of them.
        failed: Calls that were not answered.
        wrong: Answers that were not those of the version that they name.
        swap_seconds: Median time of a swap.
        p99_quiet: Of calls in each stretch without swaps, in seconds.
        p99_swapping: Of calls in each stretch with them.
        before_bytes: Resident size before the first swap, when the server has been measured at capacity.
        first_bytes: After the first stretch with swaps.
        last_bytes: After the last.
    """

    calls_per_second: float
    swaps: int
    calls: int
    failed: int
    wrong: int
    swap_seconds: float
    p99_quiet: list[float]
    p99_swapping: list[float]
    before_bytes: int
    first_bytes: int
    last_bytes: int

    @property
    def rows(self) -> list[tuple[str, str, str, bool]]:
        """What was wanted, what came of it, and whether it is reached."""
        ratios = [one / other for one, other in zip(self.p99_swapping, self.p99_quiet, strict=True)]
        slower, swapping, quiet = (median(each) for each in (ratios, self.p99_swapping, self.p99_quiet))
        return [
            (f"calls that failed, of {self.calls}", "0", str(self.failed), self.failed == 0),
            ("answers of another version than they name", "0", str(self.wrong), self.wrong == 0),
            (
                f"p99 with swaps to p99 without, median of {len(ratios)}: {swapping * 1e3:.0f} to {quiet * 1e3:.0f} ms",
                f"<= {_MOST_P99}",
                f"{slower:.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
                slower <= _MOST_P99,
            ),
            self._grown("before the first", self.before_bytes),
            self._grown(f"after the first {self.swaps // len(ratios)}", self.first_bytes),
        ]

    def _grown(self, since: str, size_bytes: int) -> tuple[str, str, str, bool]:
        grown = self.last_bytes / size_bytes
        sizes = f"{self.last_bytes >> 20} to {size_bytes >> 20} MiB"
        return (
            f"memory after {self.swaps} swaps to {since}: {sizes}",
            f"<= {_MOST_GROWTH}",
            f"{grown:.3f}",
            grown <= _MOST_GROWTH,
        )


async def measure(
    server: MeasuredServer, model: str, golden: Golden, *, stretches: int, swaps: int, share: float = _LOAD
) -> Figures:
    """Swap under load.

    Args:
        server: Serves one of two versions.
        model: Name of the model.
        golden: What the versions answer.
        stretches: How many with swaps; each is followed by one without, as long.
        swaps: Swaps in each.
        share: Of what the server can do, what is asked of it.
    """
    quiet: list[Seen] = []
    swapping: list[Seen] = []
    taken: list[float] = []
    sizes: list[int] = []
    rates: list[float] = []
    async with Caller(server.target, model, golden) as caller:
        await caller.capacity(_CALLERS, _CAPACITY_SECONDS)
        for stretch in range(stretches):
            # Anew for each: what the machine gives changes from minute to minute.
            rate = share * await caller.capacity(_CALLERS, _CAPACITY_SECONDS)
            rates.append(rate)
            if not stretch:
                sizes.append(server.resident_bytes())
            over = asyncio.Event()
            calling = asyncio.create_task(caller.call_until(over, rate, 1000 * stretch))
            began = time.perf_counter()
            for _ in range(swaps):
                await asyncio.sleep(_PAUSE_SECONDS)
                taken.append(await caller.swap(1 + len(taken) % 2))
            await asyncio.sleep(_PAUSE_SECONDS)
            over.set()
            swapping.append(await calling)
            seconds = time.perf_counter() - began
            over = asyncio.Event()
            calling = asyncio.create_task(caller.call_until(over, rate, 1000 * stretch + 500))
            await asyncio.sleep(seconds)
            sizes.append(server.resident_bytes())
            over.set()
            quiet.append(await calling)
    both = sum([*quiet, *swapping], Seen())
    return Figures(
        median(rates),
        len(taken),
        sum(both.codes.values()),
        both.failed,
        both.wrong,
        percentile(taken, 0.5),
        [percentile(seen.seconds, 0.99) for seen in quiet],
        [percentile(seen.seconds, 0.99) for seen in swapping],
        sizes[0],
        sizes[1],
        sizes[-1],
    )


def markdown(figures: Figures) -> str:
    """The page's section: what was wanted and what came of it."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("onnxruntime", "grpcio"))
    machine = f"{available_cpus()} cores ({describe_processor()})"
    conditions = (
        f"Measured on: {machine}, CPython {platform.python_version()}, {versions}; {figures.swaps} swaps of MiniLM at "
        f"{figures.calls_per_second:.0f} calls/s, {figures.swap_seconds:.2f} s each."
    )
    return "\n".join(
        [
            conditions,
            "",
            "| aim | wanted | measured | |",
            "|---|---:|---:|---|",
            *(
                f"| {name} | {wanted} | {found} | {'reached' if reached else '**missed**'} |"
                for name, wanted, found, reached in figures.rows
            ),
        ]
    )


def main() -> None:
    """Measure, print, and write the page; exit code 1 if something wanted was not reached."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--packed", type=Path, required=True, help="model repository with the packed bundle")
    parser.add_argument("--model", default="minilm", help="its name")
    parser.add_argument("--stretches", type=int, default=10, help="stretches with swaps, one without after each")
    parser.add_argument("--swaps", type=int, default=5, help="swaps in each of these")
    parser.add_argument("--quick", action="store_true", help="one swap, to see that everything works; no page")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--server", default="", help="further arguments of the server, separated by spaces")
    options = parser.parse_args()
    stretches, swaps = (1, 1) if options.quick else (options.stretches, options.swaps)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that no server is left behind
    with tempfile.TemporaryDirectory() as work:
        model = Path(work) / options.model
        shutil.copytree(options.packed / options.model / "1", model / "1")
        write_turned_bundle(model / "1", model / "2")
        golden = Golden.of(model)
        with measured_server(Path(work), *options.server.split()) as server:
            figures = asyncio.run(measure(server, options.model, golden, stretches=stretches, swaps=swaps))
    print(table := markdown(figures))
    if options.json:
        options.json.write_text(json.dumps(asdict(figures), indent=1) + "\n")
    if not options.quick:
        write_section(PAGE, Page(SECTION, table))
    sys.exit(not all(reached for *_, reached in figures.rows))


if __name__ == "__main__":
    main()
