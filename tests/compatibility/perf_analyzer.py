"""Runs Triton's load tester and reads what it reports."""

from __future__ import annotations

import csv
import subprocess
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from .environments import WITH_PERF_ANALYZER, clean_environment

# Counted requests, not stretches of time, so that a busy machine takes longer and fails nothing. What is looked for is
# that it works and what it fills in, not how fast anything is.
ONE_LOAD = ("--request-count", "20")
# Of a range it takes windows only, and wants several that are alike.
LOADS = ("--measurement-mode", "count_windows", "--measurement-request-count", "10", "--stability-percentage", "999")


@dataclass(frozen=True)
class Report:
    """What a run of perf_analyzer has reported.

    Attributes:
        output: All that it printed.
        rows: The lines of its CSV file: one for each load.
    """

    output: str
    rows: list[dict[str, str]]


def perf_analyzer(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run it, whatever comes of it."""
    return subprocess.run(
        [WITH_PERF_ANALYZER.perf_analyzer, *arguments],
        env=clean_environment(LD_LIBRARY_PATH=str(WITH_PERF_ANALYZER.libraries)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )


def measure(target: str, folder: Path, *options: str) -> Report:
    """Let it measure a model over gRPC to a good end."""
    report = folder / "report.csv"
    how = LOADS if any("range" in option and ":" in value for option, value in pairwise(options)) else ONE_LOAD
    done = perf_analyzer("-i", "grpc", "-u", target, "-f", str(report), *how, *options)
    assert done.returncode == 0, done.stdout
    with report.open(newline="") as file:
        return Report(done.stdout, list(csv.DictReader(file)))
