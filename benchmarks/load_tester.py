"""Holds the load tester to k6 and writes the table: `python benchmarks/load_tester.py --models build/encoders/packed`.

Both send the same texts, evenly spaced, at half of what the server can do: in turns, and side by side, each half of
that, where whatever else the machine does hits both alike. Their latencies must agree; what each takes of the processor
is told.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # run as a file, from anywhere

from headwaiter_load import results, words  # noqa: E402 - after the path is set
from headwaiter_load.results import RunResult  # noqa: E402
from headwaiter_server.cpu import available_cpus, describe_processor  # noqa: E402

from benchmarks.page import Section, write_section  # noqa: E402
from benchmarks.servers import measured_server  # noqa: E402

PAGE = ROOT / "docs" / "load-testing.md"
SECTION = "load-tester-k6"

# Both must say the same of the same server; by how much they may differ.
P50_WITHIN, P99_WITHIN = 0.10, 0.20
_TEXTS = 500
_DEADLINE_SECONDS = 1.0
# Callers of k6, each with a connection of its own, and connections of ours; at half the capacity no more are busy.
_CALLERS = 16
_OUTSTANDING = 32
_STARTED_SECONDS = 1.0


@dataclass(frozen=True)
class Plan:
    """What both send.

    Attributes:
        target: The server.
        model: Its model.
        texts: File of texts.
        rate: Calls a second.
        warmup_seconds: What goes before.
    """

    target: str
    model: str
    texts: Path
    rate: float
    warmup_seconds: float


@dataclass(frozen=True)
class Outcome:
    """What a tester says.

    Attributes:
        calls: Calls that it measured.
        failed: Calls of them that were not answered.
        p50_seconds: Median latency, from when a call was sent.
        p99_seconds: 99th percentile.
        cpu_seconds: What its processes took of the processor in all.
        told_cpu_seconds: What it says that sending took, of the measured calls; None if it does not say.
    """

    calls: int
    failed: int
    p50_seconds: float
    p99_seconds: float
    cpu_seconds: float
    told_cpu_seconds: float | None = None


def headwaiter_load(plan: Plan, seconds: float, folder: Path) -> Outcome:
    """Our tester."""
    saved = folder / "run.json"
    _, used = _measured(
        [
            sys.executable, "-m", "headwaiter_load", "run", "--target", plan.target, "--model", plan.model,
            "--task", "embed", "--texts", plan.texts, "--rate", plan.rate, "--arrivals", "constant",
            "--connections", _CALLERS,
            "--seconds", seconds, "--warmup-seconds", plan.warmup_seconds, "--deadline-seconds", _DEADLINE_SECONDS,
            "--output", saved,
        ]
    )  # fmt: skip
    result = _run(saved)
    return Outcome(
        result.scheduled,
        result.failed,
        # From when a call was sent: that is all that k6 knows of.
        result.service_time.p50_seconds,
        result.service_time.p99_seconds,
        used,
        sum(process.cpu_seconds for process in result.tester.processes),
    )


def k6(plan: Plan, seconds: float, _folder: Path) -> Outcome:
    """The tester that ours is held to."""
    settings = {
        "TARGET": plan.target,
        "MODEL": plan.model,
        "TEXTS": str(plan.texts),
        "PROTO": str(ROOT / "proto"),
        "RATE": str(plan.rate),
        "SECONDS": str(seconds),
        "WARMUP_SECONDS": str(plan.warmup_seconds),
        "DEADLINE_SECONDS": str(_DEADLINE_SECONDS),
        "CALLERS": str(_CALLERS),
    }
    command = [_k6(), "run", "--quiet", "--no-usage-report", ROOT / "benchmarks" / "load_tester.js"]
    printed, used = _measured(command, settings)
    figures = json.loads(printed)
    return Outcome(figures["calls"], figures["failed"], figures["p50_seconds"], figures["p99_seconds"], used)


TESTERS = {"headwaiter-load": headwaiter_load, "k6": k6}


def capacity(target: str, model: str, texts: Path, seconds: float, folder: Path) -> float:
    """Calls a second that are answered when there are always enough outstanding."""
    saved = folder / "capacity.json"
    _measured(
        [
            sys.executable, "-m", "headwaiter_load", "run", "--target", target, "--model", model, "--task", "embed",
            "--texts", texts, "--outstanding", _OUTSTANDING, "--seconds", seconds, "--warmup-seconds", 1,
            "--output", saved,
        ]
    )  # fmt: skip
    return _run(saved).answered_per_second


def measure_round(
    plan: Plan, seconds: float, order: Iterable[str], started: Mapping[str, Outcome], folder: Path
) -> dict[str, float]:
    """One turn of each tester, and one of both side by side.

    Args:
        plan: What they send.
        seconds: How long.
        order: Who begins.
        started: What each of them took for next to no calls: the rest is the calls'.
        folder: For files.
    """
    in_turns = {name: TESTERS[name](plan, seconds, folder) for name in order}
    half = replace(plan, rate=plan.rate / 2)
    with ThreadPoolExecutor() as executor:
        futures = {name: executor.submit(tester, half, seconds, folder) for name, tester in TESTERS.items()}
        side_by_side = {name: future.result() for name, future in futures.items()}
    figures = _figures("in turns", in_turns) | _figures("side by side", side_by_side)
    for name, outcome in in_turns.items():
        calls, used = outcome.calls - started[name].calls, outcome.cpu_seconds - started[name].cpu_seconds
        figures[f"{name}: CPU s/1000 calls"] = 1000 * used / calls
        if outcome.told_cpu_seconds is not None:
            figures[f"{name}: CPU s/1000 calls, as it tells"] = 1000 * outcome.told_cpu_seconds / outcome.calls
    return figures


def _figures(how: str, outcomes: Mapping[str, Outcome]) -> dict[str, float]:
    figures: dict[str, float] = {}
    for name, outcome in outcomes.items():
        figures[f"{how}, {name}: calls measured"] = outcome.calls
        figures[f"{how}, {name}: calls failed"] = outcome.failed
        figures[f"{how}, {name}: p50 ms"] = 1000 * outcome.p50_seconds
        figures[f"{how}, {name}: p99 ms"] = 1000 * outcome.p99_seconds
    ours, theirs = outcomes["headwaiter-load"], outcomes["k6"]
    figures[f"{how}: ratio of p50"] = ours.p50_seconds / theirs.p50_seconds
    figures[f"{how}: ratio of p99"] = ours.p99_seconds / theirs.p99_seconds
    return figures


def _measured(command: Iterable[object], settings: Mapping[str, str] | None = None) -> tuple[str, float]:
    """What a command prints, and the processor seconds of it and its children."""
    words_of_it = [str(word) for word in command]
    with tempfile.TemporaryFile("w+") as printed, tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(words_of_it, env={**os.environ, **(settings or {})}, stdout=printed, stderr=said)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        printed.seek(0)
        said.seek(0)
        if process.returncode:
            raise SystemExit(f"{' '.join(words_of_it)} failed:\n{said.read()}")
        return printed.read(), usage.ru_utime + usage.ru_stime


def _run(saved: Path) -> RunResult:
    result = results.load(saved)
    assert isinstance(result, RunResult)
    return result


def _k6() -> str:
    beside = Path(sys.executable).with_name("k6")
    found = str(beside) if beside.exists() else shutil.which("k6")
    if found is None:
        raise SystemExit("there is no k6: install the group test")
    return found


def main() -> None:
    """Measure, print, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, required=True, help="a repository with one model that embeds")
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rate", type=float, help="calls a second; by default half of what the server can do")
    parser.add_argument("--quick", action="store_true", help="one short round, and the page is left alone")
    options = parser.parse_args()
    rounds, seconds = (1, 3.0) if options.quick else (options.rounds, options.seconds)
    figures: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as name, measured_server(options.models) as server:
        folder = Path(name)
        texts = folder / "texts.txt"
        made = words.texts(words.Lengths.parsed(words.DEFAULT_LENGTHS), seed=0)
        texts.write_text("".join(f"{next(made)}\n" for _ in range(_TEXTS)), encoding="utf-8")
        most = capacity(server.target, options.model, texts, seconds / 2, folder)
        plan = Plan(server.target, options.model, texts, options.rate or most / 2, warmup_seconds=1.0)
        started = {name: tester(plan, _STARTED_SECONDS, folder) for name, tester in TESTERS.items()}
        print(f"capacity {most:.0f}/s, rate {plan.rate:.1f}/s", flush=True)
        for number in range(rounds):
            order = list(TESTERS) if number % 2 == 0 else list(reversed(TESTERS))
            measured = measure_round(plan, seconds, order, started, folder)
            print(f"round {number + 1} of {rounds}: {_in_words(measured)}", flush=True)
            for figure, value in measured.items():
                figures[figure].append(value)
    rows = [(figure, statistics.median(values), min(values), max(values)) for figure, values in figures.items()]
    for figure, median, low, high in rows:
        print(f"{figure:50} {median:10.3f}   [{low:.3f} .. {high:.3f}]")
    if not options.quick:
        write_section(PAGE, Section(SECTION, _conditions(plan.rate, most, seconds, rounds), rows))
        medians = {figure: median for figure, median, _, _ in rows}
        for how in ("in turns", "side by side"):
            for percentile, within in (("p50", P50_WITHIN), ("p99", P99_WITHIN)):
                off = medians[f"{how}: ratio of {percentile}"] - 1
                reached = "reached" if abs(off) <= within else "not reached"
                print(f"{how}, {percentile} within {within:.0%}: {reached} ({off:+.1%})")


def _in_words(measured: dict[str, Any]) -> str:
    return ", ".join(f"{figure} {value:.3g}" for figure, value in measured.items() if "ratio" in figure)


def _conditions(rate: float, most: float, seconds: float, rounds: int) -> str:
    versions = ", ".join(f"{name} {version(name)}" for name in ("k6", "grpcio", "hdrhistogram", "onnxruntime"))
    machine = f"{available_cpus()} cores ({describe_processor()}), CPython {platform.python_version()}"
    load = f"{rate:.0f} calls/s of the {most:.0f} that the server can do"
    return f"{machine}, {versions}; {load}; {rounds} rounds of {seconds:g} s"


if __name__ == "__main__":
    main()
