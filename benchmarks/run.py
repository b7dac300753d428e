"""Measures the main job and writes the page: `make bench`, or `python benchmarks/run.py --models models`.

Every figure is a median over rounds in which the candidates take turns, so that a machine whose speed drifts slows all
of them alike; ratios are taken round by round.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # run as a file, from anywhere

from headwaiter_server.cpu import available_cpus, describe_processor  # noqa: E402
from rich.progress import Progress  # noqa: E402

from benchmarks.page import Section, write_section  # noqa: E402 - after the path is set
from benchmarks.servers import MeasuredServer, measured_server, run_json  # noqa: E402

CHECKPOINT = ROOT / "examples" / "pronounce" / "checkpoint"
PAGE = ROOT / "docs" / "benchmarks.md"

OFFLINE_ROWS = (16, 32, 64)
PYTORCH_THREADS = (1, 2)
SERVER_WORDS = 6000
PYTORCH_WORDS = 300
# Texts in a call and calls outstanding.
LOADS = ((1, 64), (32, 8))

Round = dict[str, float]


def measure_round(models: Path, server: MeasuredServer, progress: Progress) -> Round:
    """One turn of every candidate."""
    figures: Round = {}
    bundle = models / "pronounce" / "1"
    task = progress.add_task("round", total=len(PYTORCH_THREADS) + len(OFFLINE_ROWS) + len(LOADS))
    for threads in PYTORCH_THREADS:
        result = run_json("benchmarks.baselines", "pytorch", CHECKPOINT, "--words", PYTORCH_WORDS, "--threads", threads)
        figures[f"pytorch words/s, {threads} threads"] = result["words_per_second"]
        progress.advance(task)
    for rows in OFFLINE_ROWS:
        result = run_json(
            "benchmarks.baselines", "offline", bundle, "--words", SERVER_WORDS, "--rows", rows,
            "--threads", available_cpus(),
        )  # fmt: skip
        figures[f"offline CPU s/1000, {rows} rows"] = result["cpu_seconds_per_1000_words"]
        figures[f"offline words/s, {rows} rows"] = result["words_per_second"]
        progress.advance(task)
    for texts, outstanding in LOADS:
        before = server.cpu_seconds()
        result = run_json(
            "benchmarks.load", server.target, "--words", SERVER_WORDS, "--texts", texts, "--outstanding", outstanding
        )
        figures[f"server CPU s/1000, {texts} a call"] = 1000 * (server.cpu_seconds() - before) / SERVER_WORDS
        figures[f"server words/s, {texts} a call"] = result["words_per_second"]
        figures[f"server p50 ms, {texts} a call"] = 1000 * result["p50_seconds"]
        figures[f"server p99 ms, {texts} a call"] = 1000 * result["p99_seconds"]
        progress.advance(task)
    progress.remove_task(task)
    pytorch = max(figures[f"pytorch words/s, {threads} threads"] for threads in PYTORCH_THREADS)
    offline = min(figures[f"offline CPU s/1000, {rows} rows"] for rows in OFFLINE_ROWS)
    figures["ratio: server, 1 a call / PyTorch word by word, words/s"] = figures["server words/s, 1 a call"] / pytorch
    for texts, _ in LOADS:
        name = f"ratio: server, {texts} a call / offline ideal, CPU s"
        figures[name] = figures[f"server CPU s/1000, {texts} a call"] / offline
    return figures


def measure_memory(server: MeasuredServer, seconds: float, progress: Progress) -> Round:
    """Resident size under load: the median of the last tenth against that of the second quarter."""
    samples: list[int] = []
    task = progress.add_task("memory under load", total=seconds)
    started = time.monotonic()
    while (elapsed := time.monotonic() - started) < seconds:
        for texts, outstanding in LOADS:
            run_json("benchmarks.load", server.target, "--words", 1000, "--texts", texts, "--outstanding", outstanding)
            samples.append(server.resident_bytes())
        progress.update(task, completed=elapsed)
    progress.remove_task(task)
    quarter, tenth = len(samples) // 4, max(1, len(samples) // 10)
    early, late = statistics.median(samples[quarter : 2 * quarter]), statistics.median(samples[-tenth:])
    return {"resident MiB, second quarter": early / 2**20, "resident MiB, last tenth": late / 2**20,
            "resident growth, %": 100 * (late / early - 1)}  # fmt: skip


def main() -> None:
    """Measure, print, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, default=ROOT / "models")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory-seconds", type=float, default=300)
    parser.add_argument("--json", type=Path, help="also write the figures of every round here")
    options = parser.parse_args()
    rounds: list[Round] = []
    with Progress() as progress, measured_server(options.models) as server:
        run_json("benchmarks.load", server.target, "--words", 2000)  # warm
        rounds += [
            measure_round(options.models, server, progress)
            for _ in progress.track(range(options.rounds), description="rounds")
        ]
        memory = measure_memory(server, options.memory_seconds, progress) if options.memory_seconds else {}
    columns: dict[str, list[float]] = defaultdict(list)
    for figures in rounds:
        for name, value in figures.items():
            columns[name].append(value)
    rows = [(name, statistics.median(values), min(values), max(values)) for name, values in columns.items()]
    rows += [(name, value, value, value) for name, value in memory.items()]
    for name, median, low, high in rows:
        print(f"{name:60} {median:10.3f}   [{low:.3f} .. {high:.3f}]")
    if options.json:
        options.json.write_text(json.dumps({"rounds": rounds, "memory": memory}, indent=1) + "\n")
    versions = ", ".join(f"{name} {version(name)}" for name in ("onnxruntime", "torch", "grpcio", "numpy"))
    machine = f"{available_cpus()} cores ({describe_processor()}), CPython {platform.python_version()}"
    write_section(PAGE, Section("main-job", f"{machine}, {versions}; {options.rounds} rounds", rows))


if __name__ == "__main__":
    main()
