"""Which branches of the server a run takes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_PARTS = ("rpc", "pipeline")
_PACKAGE = "headwaiter_server"


@dataclass(frozen=True)
class Covered:
    """What was covered.

    Attributes:
        shares: Of the branches of each part of the server, those that were taken.
        files: Of the branches of each file, those that were taken and all; and its lines that never ran.
    """

    shares: Mapping[str, float]
    files: Mapping[str, tuple[int, int, list[int]]]


def covering(folder: Path) -> list[str]:
    """The server's command, under coverage.

    Args:
        folder: Where its data goes.
    """
    settings = folder / "settings.toml"
    settings.write_text(
        f"[tool.coverage.run]\nbranch = true\nparallel = true\nsource_pkgs = ['{_PACKAGE}']\n"
        f"data_file = '{folder / 'coverage'}'\n"
    )
    return [sys.executable, "-m", "coverage", "run", f"--rcfile={settings}", "-m", _PACKAGE]


def read_covered(folder: Path) -> Covered:
    """What a server that has ended has covered."""
    coverage = [sys.executable, "-m", "coverage"]
    settings, told = f"--rcfile={folder / 'settings.toml'}", folder / "coverage.json"
    subprocess.run([*coverage, "combine", "--quiet", settings], check=True, cwd=folder)
    subprocess.run([*coverage, "json", "--quiet", settings, "-o", str(told)], check=True, cwd=folder)
    parts: dict[str, list[int]] = {part: [0, 0] for part in _PARTS}
    files: dict[str, tuple[int, int, list[int]]] = {}
    for name, file in json.loads(told.read_text())["files"].items():
        _, _, inside = name.rpartition(f"{_PACKAGE}/")
        part, summary = inside.partition("/")[0], file["summary"]
        if part in parts:
            taken, there = summary["covered_branches"], summary["num_branches"]
            parts[part][0] += taken
            parts[part][1] += there
            files[inside] = taken, there, file["missing_lines"]
    return Covered({f"{part}/": taken / there for part, (taken, there) in parts.items()}, files)
