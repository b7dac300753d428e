"""The verbs of the Makefile are the ones that the documentation names."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VERBS = {
    "bench",
    "bench-generation",
    "chaos",
    "clean",
    "compatibility",
    "demo",
    "docs",
    "down",
    "fuzz",
    "help",
    "hostile",
    "lint",
    "load",
    "lock",
    "mutants",
    "proto",
    "sbom",
    "serve",
    "setup",
    "soak",
    "test",
    "up",
}


def test_make_alone_lists_the_verbs() -> None:
    """`make` without a target prints every verb and does nothing."""
    done = subprocess.run(["make"], cwd=ROOT, check=True, capture_output=True, text=True)
    assert set(re.findall(r"^make (\S+)", done.stdout, flags=re.MULTILINE)) == VERBS


def test_contributing_describes_every_verb() -> None:
    """Each verb has a line in CONTRIBUTING.md, and no line names a verb that is none."""
    described = re.findall(r"^\| `make (\S+)`", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.MULTILINE)
    assert set(described) == VERBS - {"help"}


def test_ci_runs_what_developers_run() -> None:
    """CI's script is sound and ends with `make test`, so that the last line is pytest's own."""
    script = ROOT / ".ci" / "run"
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert script.read_text().splitlines()[-1] == "exec make test"
