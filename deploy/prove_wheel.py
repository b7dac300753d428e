"""Runs the tests against the built wheel, in an environment that holds it, its extras and no torch.

The tests run in a copy of their own, so that nothing of the working tree can be imported in the wheel's place. Tests of
the export side are left out: those marked `torch`, and files that import it.

    python -m deploy.prove_wheel --models models --encoders build/encoders
"""
# A script, which prints; not a package.
# ruff: noqa: INP001, T201

from __future__ import annotations

import argparse
import ast
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from deploy.wheel import ROOT, build_wheel

# Importable only where the export extra is installed; examples and benchmarks use it.
EXPORT_SIDE = {"benchmarks", "examples", "headwaiter_export", "onnxscript", "safetensors", "torch"}
SUITES = ("tests/unit", "tests/e2e")
PACKAGES = ("headwaiter", "headwaiter_load", "headwaiter_proto", "headwaiter_server")

CHECK = f"""
import importlib, importlib.util, sys
from pathlib import Path
assert importlib.util.find_spec("torch") is None, "torch is installed"
for name in {PACKAGES!r}:
    place = Path(importlib.import_module(name).__file__)
    assert place.is_relative_to(sys.prefix), f"{{name}} comes from {{place}}, not from the wheel"
"""


def main() -> int:
    """Build, install and test; returns pytest's exit code."""
    parser = argparse.ArgumentParser(description="Test the built wheel in an environment without torch.")
    parser.add_argument("--models", type=Path, default=ROOT / "models", help="folder of exported models")
    parser.add_argument("--encoders", type=Path, required=True, help="folder of exported encoders, packed/ and padded/")
    arguments = parser.parse_args()
    folders = [f"--models-dir={arguments.models.resolve()}", f"--encoders-dir={arguments.encoders.resolve()}"]
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="headwaiter-wheel-") as folder:
        base = Path(folder)
        python = install(build_wheel(base), base / "venv")
        workdir = copy_tests(base / "copy")
        ignored = [f"--ignore={path}" for path in export_side_tests(workdir)]
        print(f"prove_wheel: installed in {time.monotonic() - started:.0f} s", flush=True)
        run([python, "-c", CHECK], workdir)
        options = ["-q", "-p", "no:cacheprovider", "-m", "not torch", *folders, *ignored, *SUITES]
        code = subprocess.run(  # noqa: S603
            [python, "-m", "pytest", *options], cwd=workdir, env=environment(), check=False
        ).returncode
    print(f"prove_wheel: {'ok' if code == 0 else 'FAILED'} in {time.monotonic() - started:.0f} s")
    return code


def install(wheel: Path, venv: Path) -> str:
    """Make an environment of the wheel, all its extras but the export, and the test tools; returns its interpreter."""
    run([sys.executable, "-m", "venv", "--without-pip", str(venv)], ROOT)
    python = str(venv / "bin" / "python")
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--constraint", "constraints.txt"]
    run([*pip, f"{wheel}[server,otel,load]", "--group", "test"], ROOT)
    return python


def copy_tests(folder: Path) -> Path:
    """Copy what tests need beside the packages; returns the copy's root."""
    for name in ("tests", "examples", "docs"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def export_side_tests(workdir: Path) -> list[Path]:
    """Find the test files that import the export side, and the folders whose conftest.py does."""
    paths = [path for suite in SUITES for path in sorted((workdir / suite).rglob("*.py"))]
    found = [path for path in paths if imported_packages(ast.parse(path.read_text())) & EXPORT_SIDE]
    return [path.parent if path.name == "conftest.py" else path for path in found]


def imported_packages(module: ast.Module) -> set[str]:
    """Name the top-level packages without which a module cannot be imported; what functions import, they may skip."""
    names: set[str] = set()
    for node in module.body:
        if isinstance(node, ast.Import):
            names.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


def environment() -> dict[str, str]:
    """Give this process's environment without what could lead an interpreter back to the working tree."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COV", "VIRTUAL_ENV"))}


def run(command: list[str], workdir: Path) -> None:
    """Run a command that must succeed."""
    subprocess.run(command, cwd=workdir, env=environment(), check=True)  # noqa: S603


if __name__ == "__main__":
    sys.exit(main())
