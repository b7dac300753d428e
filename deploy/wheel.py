"""Builds this project's wheel."""
# For the scripts here and the tests; not a package.
# ruff: noqa: INP001

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def build_wheel(folder: Path) -> Path:
    """Build the wheel of the working tree with this environment's hatchling; returns its path inside `folder`."""
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(ROOT)], check=True)  # noqa: S603
    (wheel,) = folder.glob("headwaiter-*.whl")
    return wheel
