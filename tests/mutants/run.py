"""Breaks each invariant on purpose and requires that its tests notice.

Every `NN-name.patch` in this folder breaks one invariant. Above the diff stand lines `# Tests: NODE_ID ...` that name
the tests which must fail with it; other `#` lines say what it breaks. Each patch is applied to a copy of the working
tree of its own, and without any patch all named tests must pass.

    python tests/mutants/run.py [NAME ...]
"""
# ruff: noqa: T201 - a script, which prints

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
HERE = Path(__file__).resolve().parent
JOBS = 2
# A mutant may hang what it breaks; a test that does is cut off after this.
TEST_SECONDS = 30
RUN_SECONDS = 300

PYTEST_PASSED = 0
PYTEST_FAILED = 1


class MutantError(Exception):
    """A patch cannot be used as it stands."""


class Verdict(StrEnum):
    """What the tests said to a mutant, or to the tree as it is."""

    RED = "red"
    """Tests failed."""
    GREEN = "green"
    """All tests passed."""
    HUNG = "hung"
    """Tests did not end in time, which is noticed too."""
    BROKEN = "broken"
    """The tests could not be run: a wrong name, or a patch that no longer imports."""


@dataclass(frozen=True)
class Mutant:
    """One way to break an invariant.

    Attributes:
        name: Name of its file, without the suffix.
        patch: Its file.
        tests: pytest node ids of the tests that must notice.
    """

    name: str
    patch: Path
    tests: tuple[str, ...]


@dataclass(frozen=True)
class Result:
    """What came of one run.

    Attributes:
        verdict: The tests' verdict.
        seconds: How long it took.
        output: What pytest printed.
    """

    verdict: Verdict
    seconds: float
    output: str


def read_mutants(folder: Path) -> list[Mutant]:
    """Read the patches of a folder, in the order of their names.

    Raises:
        MutantError: One names no tests.
    """
    mutants = []
    for patch in sorted(folder.glob("*.patch")):
        tests: list[str] = []
        for line in patch.read_text().splitlines():
            if not line.startswith("#"):
                break
            label, _, value = line.removeprefix("#").strip().partition(":")
            if label == "Tests":
                tests += value.split()
        if not tests:
            raise MutantError(f"{patch.name}: no line '# Tests: NODE_ID ...' above the diff")
        mutants.append(Mutant(patch.stem, patch, tuple(tests)))
    return mutants


def copy_tree(root: Path, folder: Path) -> None:
    """Copy the files that git tracks or would track."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        source, target = root / name, folder / name
        # A file may be deleted and still be tracked.
        if source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)


def apply_patch(patch: Path, folder: Path) -> None:
    """Apply a patch to a copy.

    Raises:
        MutantError: It does not apply.
    """
    # A temporary folder may lie inside some other repository, whose rules are not meant.
    environment = os.environ | {"GIT_CEILING_DIRECTORIES": str(folder.parent)}
    done = subprocess.run(
        ["git", "apply", "--whitespace=nowarn", str(patch)],
        cwd=folder,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        raise MutantError(f"{patch.name} does not apply:\n{done.stderr.strip()}")


def run_tests(folder: Path, tests: tuple[str, ...]) -> Result:
    """Run tests of a copy, with the copy's own packages."""
    pyproject = tomllib.loads((folder / "pyproject.toml").read_text())
    # Before site-packages, where an editable install points at the original.
    sources = [str(folder / name) for name in pyproject["tool"]["hatch"]["build"]["dev-mode-dirs"]]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    environment |= {"PYTHONPATH": os.pathsep.join(sources), "PYTHONDONTWRITEBYTECODE": "1"}
    options = ["-q", "--no-header", "-p", "no:cacheprovider", "-p", "no:randomly", f"--timeout={TEST_SECONDS}"]
    started = time.monotonic()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *options, *tests],
            cwd=folder,
            env=environment,
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=RUN_SECONDS,
        )
    except subprocess.TimeoutExpired as expired:
        return Result(Verdict.HUNG, time.monotonic() - started, str(expired.output or ""))
    verdict = {PYTEST_PASSED: Verdict.GREEN, PYTEST_FAILED: Verdict.RED}.get(done.returncode, Verdict.BROKEN)
    return Result(verdict, time.monotonic() - started, done.stdout)


def try_mutant(mutant: Mutant, root: Path) -> Result:
    """Apply a mutant to a copy of its own and run its tests there."""
    with tempfile.TemporaryDirectory(prefix=f"mutant-{mutant.name}-") as folder:
        copy = Path(folder) / "copy"
        copy_tree(root, copy)
        try:
            apply_patch(mutant.patch, copy)
        except MutantError as error:
            return Result(Verdict.BROKEN, 0.0, str(error))
        return run_tests(copy, mutant.tests)


def try_original(mutants: list[Mutant], root: Path) -> Result:
    """Run the tests of all mutants on an unpatched copy."""
    with tempfile.TemporaryDirectory(prefix="mutant-none-") as folder:
        copy = Path(folder) / "copy"
        copy_tree(root, copy)
        tests = tuple(dict.fromkeys(test for mutant in mutants for test in mutant.tests))
        return run_tests(copy, tests)


def run(mutants: list[Mutant], root: Path) -> int:
    """Try all mutants and print a table; returns the exit code."""
    original = try_original(mutants, root)
    print(f"{'mutant':44}{'tests':>6}{'verdict':>9}{'seconds':>9}")
    print(f"{'(none)':44}{'':6}{original.verdict:>9}{original.seconds:9.1f}", flush=True)
    if original.verdict is not Verdict.GREEN:
        print(f"\nThe tests must pass without any patch:\n{original.output}")
        return 1
    failed = []
    with ThreadPoolExecutor(JOBS) as pool:
        for mutant, result in zip(mutants, pool.map(lambda mutant: try_mutant(mutant, root), mutants), strict=True):
            print(f"{mutant.name:44}{len(mutant.tests):6}{result.verdict:>9}{result.seconds:9.1f}", flush=True)
            if result.verdict not in {Verdict.RED, Verdict.HUNG}:
                failed.append((mutant, result))
    for mutant, result in failed:
        print(f"\n{mutant.name} was not noticed ({result.verdict}):\n{result.output}")
    print(f"\n{len(mutants) - len(failed)} of {len(mutants)} mutants noticed")
    return 1 if failed else 0


def main() -> int:
    """Run the mutants that are named, or all; returns the exit code."""
    parser = argparse.ArgumentParser(description="Break each invariant on purpose and require that tests notice.")
    parser.add_argument("names", nargs="*", help="only mutants whose name starts so")
    parser.add_argument("--root", type=Path, default=ROOT, help="working tree to copy")
    parser.add_argument("--patches", type=Path, default=HERE, help="folder of the patches")
    arguments = parser.parse_args()
    try:
        mutants = read_mutants(arguments.patches)
    except MutantError as error:
        print(f"mutants: {error}", file=sys.stderr)
        return 1
    if arguments.names:
        mutants = [mutant for mutant in mutants if mutant.name.startswith(tuple(arguments.names))]
    if not mutants:
        print("mutants: there is none to try", file=sys.stderr)
        return 1
    return run(mutants, arguments.root)


if __name__ == "__main__":
    sys.exit(main())
