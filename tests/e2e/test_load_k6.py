"""The check of the load tester against k6 works: both reach the server and measure the same calls."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_FIGURE = re.compile(r"^(?P<name>\S.*?)\s{2,}(?P<median>-?[\d.]+)\s+\[", re.MULTILINE)


def test_both_testers_measure_the_same_calls(minilm: dict[str, Path]) -> None:
    models = minilm["packed"].parents[1]
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "load_tester.py", "--models", models, "--quick", "--rate", "20"],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    figures = {match["name"]: float(match["median"]) for match in _FIGURE.finditer(done.stdout)}
    # Three seconds at 20 calls a second; where a stretch begins may cost or bring a call.
    for tester in ("headwaiter-load", "k6"):
        assert abs(figures[f"{tester}: calls measured"] - 60) <= 2
        assert figures[f"{tester}: calls failed"] == 0
        assert 0 < figures[f"{tester}: p50 ms"] <= figures[f"{tester}: p99 ms"]
        # Of so few calls what starting takes may exceed the rest.
        assert f"{tester}: CPU s/1000 calls" in figures
