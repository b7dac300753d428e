"""Writes the lock files of the images, from pyproject.toml and constraints.txt.

Each holds every package that its environment needs, at the version that we test with, and the hash of each file that
the package index has for it: nothing else is installed, whoever answers in the index's place. The images install wheels
alone, as a source package would run code of its own while the image is built; that there are wheels for every
processor and Python that the images may have is tried at the end.

    python -m deploy.lock
"""
# A script, which prints; not a package.
# ruff: noqa: INP001, T201

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import tomllib
from itertools import product
from pathlib import Path

from deploy.locked import LEFT_OUT, LOCKS, ROOT, Lock, read_lock

PYTHONS = ("3.11", "3.12", "3.13")
# Debian 12, which the images are made from, has glibc 2.36.
_PLATFORM = "{}-manylinux_2_36"
_HEADER = """\
# Written by `python -m deploy.lock` from pyproject.toml and constraints.txt; not to be edited.
--only-binary :all:
"""
_ONLY_LINUX = re.compile(
    r" ; (?:\(platform_machine == 'aarch64' or platform_machine == 'x86_64'\)|platform_machine == 'x86_64')"
    r"(?: and platform_python_implementation == 'CPython')? and sys_platform == 'linux'"
)


def main() -> int:
    """Write all of them; returns the exit code."""
    for lock in LOCKS:
        with tempfile.TemporaryDirectory(prefix="headwaiter-lock-") as folder:
            resolved = resolve(requirements(lock), lock.machines, Path(folder))
        lock.path.write_text(_HEADER + tidy(resolved), encoding="utf-8")
        for machine, python in product(lock.machines, PYTHONS):
            try_wheels(lock.path, machine, python)
        print(f"{lock.file}: {len(read_lock(lock.path))} packages")
    return 0


def requirements(lock: Lock) -> list[str]:
    """What a lock's environment asks for by itself."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    own = project["dependencies"] if lock.extras else []
    extras = [each for extra in lock.extras for each in project["optional-dependencies"][extra]]
    return [*own, *extras, *lock.others]


def resolve(wanted: list[str], machines: tuple[str, ...], folder: Path) -> str:
    """Every package that is needed for some, with the hashes of its files."""
    environments = [f"sys_platform == 'linux' and platform_machine == '{machine}'" for machine in machines]
    overrides = [f"{name} ; sys_platform == 'never'" for name in sorted(LEFT_OUT)]
    (folder / "pyproject.toml").write_text(
        f'[project]\nname = "headwaiter"\nversion = "0"\nrequires-python = ">={PYTHONS[0]}"\n'
        f"dependencies = {json.dumps(wanted)}\n"
        f"[tool.uv]\nenvironments = {json.dumps(environments)}\noverride-dependencies = {json.dumps(overrides)}\n",
        encoding="utf-8",
    )
    constraints = ["--constraint", str(ROOT / "constraints.txt")]
    return uv("compile", "pyproject.toml", "--universal", "--generate-hashes", *constraints, "--no-header", cwd=folder)


def tidy(resolved: str) -> str:
    """The same without what is no news: where constraints were read, and that all of it is for Linux."""
    lines = [line for line in resolved.splitlines(keepends=True) if not line.startswith("    #   -c ")]
    return _ONLY_LINUX.sub("", "".join(lines))


def try_wheels(lock: Path, machine: str, python: str) -> None:
    """Fail unless every package has a wheel for a processor and a Python."""
    uv("compile", str(lock), "--no-deps", "--python-platform", _PLATFORM.format(machine), "--python-version", python)


def uv(*arguments: str, cwd: Path = ROOT) -> str:
    """Run uv, with wheels alone; returns what it printed."""
    command = [sys.executable, "-m", "uv", "pip", *arguments, "--only-binary", ":all:", "--no-config"]
    if "--universal" in arguments:
        command.remove("--no-config")
    done = subprocess.run([*command, "--quiet"], cwd=cwd, check=True, stdout=subprocess.PIPE, text=True)  # noqa: S603
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
