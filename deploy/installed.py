"""Looks at the installed packages from inside: nothing is missing, and nothing comes from elsewhere.

    PYTHON -I deploy/installed.py

where PYTHON is an interpreter whose environment holds the wheel and its extras, but the export's, and nothing else. So
it uses the standard library alone.
"""
# A script, which prints; not a package.
# ruff: noqa: INP001, T201

from __future__ import annotations

import ast
import importlib
import importlib.util
import pkgutil
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

PACKAGES = ("headwaiter", "headwaiter_load", "headwaiter_proto", "headwaiter_server")


def main() -> int:
    """Look at everything; returns the exit code."""
    problems = [*foreign(), *unimportable(), *missing_dependencies(), *broken_commands()]
    if importlib.util.find_spec("torch") is not None:
        problems.append("torch is installed")
    print(*problems, sep="\n", file=sys.stderr)
    return 1 if problems else 0


def foreign() -> list[str]:
    """Packages that come from elsewhere than this environment."""
    places = {name: _folder(name) for name in PACKAGES}
    return [f"{name} comes from {place}" for name, place in places.items() if not place.is_relative_to(sys.prefix)]


def unimportable() -> list[str]:
    """Modules that raise when they are imported."""
    problems = []
    for name in modules():
        try:
            importlib.import_module(name)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told
            problems.append(f"import {name}: {error!r}")
    return problems


def modules() -> list[str]:
    """Every module of the packages, but those that are commands."""
    found = [
        each.name
        for package in PACKAGES
        for each in pkgutil.walk_packages([str(_folder(package))], prefix=f"{package}.")
    ]
    return [name for name in found if not name.endswith("__main__")]


def missing_dependencies() -> list[str]:
    """Packages that are imported somewhere, if only within a function, and are not installed."""
    wanted = {
        name: str(path)
        for package in PACKAGES
        for path in sorted(_folder(package).rglob("*.py"))
        for name in imported_packages(ast.parse(path.read_text(encoding="utf-8")))
    }
    return [
        f"{path} imports {name}, which no extra brings"
        for name, path in wanted.items()
        if importlib.util.find_spec(name) is None
    ]


def imported_packages(module: ast.Module) -> set[str]:
    """Name the top-level packages that a module imports anywhere."""
    names: set[str] = set()
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            names.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


def broken_commands() -> list[str]:
    """Commands that cannot say what they are for."""
    own = [each.name for each in entry_points(group="console_scripts") if each.module.partition(".")[0] in PACKAGES]
    problems = [] if own else ["no command is installed"]
    for name in own:
        path = Path(sys.prefix) / "bin" / name
        done = subprocess.run([path, "--help"], capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode or name not in done.stdout:
            problems.append(f"{name} --help: exit code {done.returncode}\n{done.stderr}")
    return problems


def _folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(package)
    return Path(next(iter(spec.submodule_search_locations)))


if __name__ == "__main__":
    sys.exit(main())
