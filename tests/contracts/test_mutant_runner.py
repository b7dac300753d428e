"""`make mutants` notices what it is for: a broken invariant that no test sees, and a patch that has gone stale."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

RUNNER = Path(__file__).resolve().parents[1] / "mutants" / "run.py"

PYPROJECT = (
    '[tool.hatch.build]\ndev-mode-dirs = ["src"]\n[tool.pytest.ini_options]\naddopts = ["--import-mode=importlib"]\n'
)
MODULE = "def double(number):\n    return 2 * number\n"
TESTS = """\
from sample_mutant import double

def test_sees():
    assert double(3) == 6

def test_blind():
    assert double(0) == 0
"""
DIFF = """\
--- a/src/sample_mutant.py
+++ b/src/sample_mutant.py
@@ -1,2 +1,2 @@
 def double(number):
-    return 2 * number
+    return {broken}
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A working tree with one module and two tests, of which one sees more than the other."""
    root = tmp_path / "tree"
    (root / "src").mkdir(parents=True)
    (root / "tests").mkdir()
    (root / "patches").mkdir()
    (root / "pyproject.toml").write_text(PYPROJECT)
    (root / "src" / "sample_mutant.py").write_text(MODULE)
    (root / "tests" / "test_sample.py").write_text(TESTS)
    subprocess.run(["git", "init", "--quiet"], cwd=root, check=True, env=os.environ | {"GIT_CONFIG_GLOBAL": os.devnull})
    return root


def write_patch(tree: Path, header: str, broken: str) -> None:
    """Write a patch that makes the module return something else."""
    (tree / "patches" / "01-doubling.patch").write_text(header + DIFF.format(broken=broken))


def mutants(tree: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the runner on a tree."""
    command = [sys.executable, str(RUNNER), "--root", str(tree), "--patches", str(tree / "patches"), *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def test_noticed_mutant_passes(tree: Path) -> None:
    """A mutant on which its test fails is counted as noticed, and the tree itself is left alone."""
    write_patch(tree, "# Doubling doubles.\n# Tests: tests/test_sample.py::test_sees\n", "3 * number")
    done = mutants(tree)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 of 1 mutants noticed" in done.stdout
    assert (tree / "src" / "sample_mutant.py").read_text() == MODULE


def test_unnoticed_mutant_fails(tree: Path) -> None:
    """A mutant on which its test still passes fails the run."""
    write_patch(tree, "# Tests: tests/test_sample.py::test_blind\n", "3 * number")
    done = mutants(tree)
    assert done.returncode == 1
    assert "01-doubling was not noticed (green)" in done.stdout


def test_mutant_that_does_not_import_is_no_proof(tree: Path) -> None:
    """Tests that cannot even be collected show nothing about the invariant."""
    write_patch(tree, "# Tests: tests/test_sample.py::test_sees\n", "(")
    done = mutants(tree)
    assert done.returncode == 1
    assert "01-doubling was not noticed (broken)" in done.stdout


def test_stale_patch_fails(tree: Path) -> None:
    """A patch that no longer applies fails the run and says so."""
    write_patch(tree, "# Tests: tests/test_sample.py::test_sees\n", "3 * number")
    (tree / "src" / "sample_mutant.py").write_text("def double(number):\n    return number + number\n")
    done = mutants(tree)
    assert done.returncode == 1
    assert "01-doubling.patch does not apply" in done.stdout


def test_red_without_a_patch_fails(tree: Path) -> None:
    """Tests that fail anyway prove nothing."""
    write_patch(tree, "# Tests: tests/test_sample.py::test_sees\n", "3 * number")
    (tree / "tests" / "test_sample.py").write_text(TESTS.replace("== 6", "== 7"))
    done = mutants(tree)
    assert done.returncode == 1
    assert "must pass without any patch" in done.stdout


@pytest.mark.parametrize("header", ["", "# What it breaks.\n", "# Tests:\n"])
def test_patch_without_tests_fails(tree: Path, header: str) -> None:
    """A patch must name the tests that are to notice it."""
    write_patch(tree, header, "3 * number")
    done = mutants(tree)
    assert done.returncode == 1
    assert "no line '# Tests: NODE_ID ...'" in done.stderr


def test_nothing_to_try_fails(tree: Path) -> None:
    """A name that fits no patch is a mistake, not a success."""
    write_patch(tree, "# Tests: tests/test_sample.py::test_sees\n", "3 * number")
    assert mutants(tree, "02").returncode == 1
