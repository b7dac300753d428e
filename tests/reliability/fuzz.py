"""Malformed requests by the million against the real server, over a real socket.

    python tests/reliability/fuzz.py

None may crash the server, hang, be answered with UNKNOWN or INTERNAL, or change what others are answered.
Every case is a function of the seed and its number. One that fails is printed with both, and kept in a folder from
which `--replay` sends it again; `--only NUMBER` makes it anew. After the long run come other cases to a server under
coverage, to tell the share of the branches of `rpc/` and `pipeline/` that cases alone take.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]  # run as a file, from anywhere

from e2e.process import COMMAND, running_server  # noqa: E402 - after the path is set
from reliability.figures import FOLDER, Figure, report  # noqa: E402 - as above
from reliability.fuzz_cases import KINDS, TYPED, Case, make_case, read_case  # noqa: E402 - as above
from reliability.fuzz_coverage import Covered, covering, read_covered  # noqa: E402 - as above
from reliability.fuzz_methods import Method, methods  # noqa: E402 - as above
from reliability.fuzz_models import export, gather  # noqa: E402 - as above
from reliability.fuzz_run import BLOCK, Tally, run_cases, shared_memory  # noqa: E402 - as above
from reliability.fuzz_seeds import ENCODERS, MODELS  # noqa: E402 - as above
from rich.console import Console  # noqa: E402 - as above
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: E402

_LEAST_REACHED = 0.3
_LEAST_COVERED = 0.8
_MOST_GROWN_MIB = 100
_MOST_SHOWN = 20


def flags(models: Path) -> list[str]:
    """What the server is started with: everything that callers can reach is there to be reached."""
    named = [word for name in MODELS for word in ("--load-models", name)]
    quick = ["--calibration", "off", "--trial-loads", "off", "--lame-duck-seconds", "0"]
    open_to_all = ["--model-control", "explicit", "--shared-memory", "on"]
    # So small that the good requests between the bad ones are forgotten, and computed again.
    remembering = ["--cache-bytes", str(64 << 10)]
    return ["--models", str(models), *named, *quick, *open_to_all, *remembering]


def main() -> int:
    """Run and report; returns the exit code."""
    parser = argparse.ArgumentParser(description="Send malformed requests to a real server.")
    parser.add_argument("--count", type=int, default=1_000_000, help="how many")
    parser.add_argument("--coverage-count", type=int, default=30_000, help="how many more under coverage; 0 for none")
    parser.add_argument("--seed", type=int, default=0, help="the same seed makes the same requests")
    parser.add_argument("--only", type=int, action="append", help="number of a case to send alone; may be repeated")
    parser.add_argument("--replay", type=Path, help="a folder of kept cases to send alone, such as the corpus")
    parser.add_argument("--in-flight", type=int, default=64, help="calls at one time")
    parser.add_argument(
        "--keep", type=Path, default=FOLDER / "fuzz-failures", help="where failures and the log are kept"
    )
    models = "a repository that has pronounce, or all the models"
    parser.add_argument("--models", type=Path, default=ROOT / "models", help=models)
    arguments = parser.parse_args()
    asked = methods()
    with tempfile.TemporaryDirectory(prefix="headwaiter-fuzz-") as temporary:
        folder = Path(temporary)
        gathered = gather if (arguments.models / ENCODERS[0]).exists() else export
        run = Run(folder, gathered(folder, arguments.models), asked, arguments.in_flight, arguments.keep)
        if arguments.only or arguments.replay:
            cases = _alone(arguments, asked)
            tally, exit_code = run.send(cases, len(cases), COMMAND)
            return int(bool(_tell(tally) or tally.wrong or exit_code))
        count, more = arguments.count, arguments.coverage_count
        tally, exit_code = run.send(_cases(asked, arguments.seed, range(count)), count, COMMAND)
        failed, covered = _tell(tally), None
        if more:
            last = range(count, count + more)
            again, ended = run.send(_cases(asked, arguments.seed, last), more, covering(folder), "under coverage")
            failed, exit_code, covered = failed + _tell(again), exit_code or ended, read_covered(folder)
            tally.wrong += again.wrong
    conditions = f"{tally.cases:,} calls from seed {arguments.seed}, {arguments.in_flight} at a time"
    conditions += f", and {more:,} to a server under coverage" if more else ""
    return report("fuzz", conditions, figures(tally, failed, exit_code, covered))


def _cases(asked: list[Method], seed: int, numbers: range) -> Iterator[Case]:
    return (make_case(asked, seed, number) for number in numbers)


def _alone(arguments: argparse.Namespace, asked: list[Method]) -> list[Case]:
    if arguments.replay:
        return [read_case(file) for file in sorted(arguments.replay.glob("*.json"))]
    return [make_case(asked, arguments.seed, number) for number in arguments.only]


def _tell(tally: Tally) -> int:
    """Print what was wrong; how much that was."""
    console = Console()
    for name, wrong in list(tally.failures.items())[:_MOST_SHOWN]:
        console.print(f"{name} {wrong}", style="red", markup=False, highlight=False)
    for wrong in tally.wrong[:_MOST_SHOWN]:
        console.print(wrong, style="red", markup=False, highlight=False)
    return len(tally.failures)


@dataclass(frozen=True)
class Run:
    """Sends cases to servers of its own.

    Attributes:
        folder: For what does not stay.
        models: What is served.
        asked: Its methods.
        in_flight: Calls at one time.
        keep: Where failures and the log are kept.
    """

    folder: Path
    models: Path
    asked: list[Method]
    in_flight: int
    keep: Path

    def send(
        self, cases: Iterable[Case], count: int, command: Sequence[str], what: str = "malformed requests"
    ) -> tuple[Tally, int]:
        """Send cases to a server.

        Args:
            cases: The cases.
            count: How many they are.
            command: Starts it.
            what: They are, in words.

        Returns:
            What came of them, and the exit code of the server, which is ended when all are answered.
        """
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        self.keep.mkdir(parents=True, exist_ok=True)
        with (
            shared_memory(),
            (self.keep / "server.log").open("w") as log,
            running_server(*flags(self.models), command=command, log=log) as server,
            Progress(*columns) as progress,
        ):
            bar = progress.add_task(what, total=count)
            calls = run_cases(
                server,
                self.asked,
                cases,
                in_flight=self.in_flight,
                keep=self.keep,
                done=lambda sent: progress.advance(bar, sent),
            )
            tally = asyncio.run(calls)
            crashed = server.process.poll()
            return tally, server.terminate() if crashed is None else crashed


def figures(tally: Tally, failed: int, exit_code: int, covered: Covered | None) -> list[Figure]:
    """What a run came to.

    Args:
        tally: Its calls.
        failed: How many failed, those under coverage too.
        exit_code: The server's, after SIGTERM at the end.
        covered: Branches of the server; None if nobody looked.
    """
    resident = [size >> 20 for size in tally.resident] or [0]
    first, last = resident[0], resident[-1]
    found = [
        Figure("calls", tally.cases),
        *(Figure(f"{kind} calls", tally.kinds[kind]) for kind in KINDS),
        Figure("calls answered OK", tally.codes["OK"]),
        Figure("calls a second", tally.cases / max(tally.seconds, 1e-9)),
        Figure("crashes", int(exit_code != 0), aim="0", reached=exit_code == 0),
        Figure(
            "calls that hung, or ended in a way that no call may",
            len(tally.failures),
            aim="0",
            reached=not tally.failures,
        ),
        Figure("good requests between them", tally.golden),
        Figure("answers to those that changed by a bit", len(tally.wrong), aim="0", reached=not tally.wrong),
        Figure(
            f"{TYPED} calls that reach the tokenizer or a model, at least",
            100 * tally.reached_share,
            "%",
            aim=f">= {_LEAST_REACHED:.0%}",
            reached=tally.reached_share >= _LEAST_REACHED,
        ),
        Figure(f"memory of the server after {BLOCK} calls", first, "MiB"),
        Figure("memory after half of them", resident[len(resident) // 2], "MiB"),
        Figure(
            "memory at the end", last, "MiB", f"<= {_MOST_GROWN_MIB} MiB more", reached=last - first <= _MOST_GROWN_MIB
        ),
    ]
    for name, share in covered.shares.items() if covered is not None else ():
        reached = share >= _LEAST_COVERED
        found.append(Figure(f"branches of {name} taken", 100 * share, "%", f">= {_LEAST_COVERED:.0%}", reached))
    return found


if __name__ == "__main__":
    sys.exit(main())
