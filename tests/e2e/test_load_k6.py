"""The check of the load tester against k6 works: both reach the server and measure the same calls."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.alone

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "load_tester.py"
_FIGURE = re.compile(r"^(?P<name>\S.*?)\s{2,}(?P<median>-?[\d.]+)\s+\[", re.MULTILINE)


@pytest.mark.torch  # as all of benchmarks/
def test_both_testers_measure_the_same_calls(minilm: dict[str, Path]) -> None:
    models = minilm["packed"].parents[1]
    done = subprocess.run(
        [sys.executable, SCRIPT, "--models", models, "--quick", "--rate", "8"],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    figures = {match["name"]: float(match["median"]) for match in _FIGURE.finditer(done.stdout)}
    # Three seconds at 8 calls a second, and at 4, of which the warm-up before them has four and more; where a stretch
    # begins or ends may cost or bring a call, of so few also where the machine stands still for a moment.
    for how, calls in (("in turns", 24), ("side by side", 12)):
        for tester in ("headwaiter-load", "k6"):
            of = f"{how}, {tester}"
            assert abs(figures[f"{of}: calls measured"] - calls) <= 2
            assert figures[f"{of}: calls failed"] == 0
            assert 0 < figures[f"{of}: p50 ms"] <= figures[f"{of}: p99 ms"]
    # Of so few calls what starting takes may exceed the rest.
    assert {"headwaiter-load: CPU s/1000 calls", "k6: CPU s/1000 calls"} <= set(figures)
