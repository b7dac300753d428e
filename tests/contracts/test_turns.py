"""Tests side by side: what is marked `alone` has the machine to itself, and what is shared is made once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
CONFTEST = """
import pytest
import turns

def pytest_configure(config):
    config.addinivalue_line("markers", "alone: as in the real tests")
    turns.take_part(config)

@pytest.fixture(scope="session")
def dear(request, tmp_path_factory):
    def make(folder):
        with open("made", "a") as file:
            file.write("x")
        (folder / "it").write_text("dear")
    return turns.made_once(request.config, "dear", tmp_path_factory.mktemp("dear"), make)
"""
# Each says in a file of its own that it runs, and looks at the others' files while it does.
FILE = """
import time
from pathlib import Path
import pytest

def run(own, forbidden):
    own.touch()
    until = time.monotonic() + {seconds}
    try:
        while time.monotonic() < until:
            assert list(Path("running").glob(forbidden)) == []
            time.sleep(0.001)
    finally:
        own.unlink()

@pytest.mark.parametrize("number", range({count}))
def test_with_others(number, dear):
    assert (dear / "it").read_text() == "dear"
    run(Path("running/other-{name}"), "alone-*")

@pytest.mark.alone
@pytest.mark.parametrize("number", range({count}))
def test_alone(number):
    run(Path("running/alone-{name}"), "other-*")
"""


def run_tests(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run four such files."""
    (folder / "running").mkdir()
    (folder / "conftest.py").write_text(CONFTEST)
    for name in "abcd":
        (folder / f"test_{name}.py").write_text(FILE.format(name=name, seconds=0.03, count=6))
    environment = os.environ | {"PYTHONPATH": str(TESTS)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir=."]
    return subprocess.run(
        [*command, *options], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_alone_means_alone(tmp_path: Path) -> None:
    """With two processes no test runs beside one that is alone, and a shared folder is made by one of them only."""
    done = run_tests(tmp_path, "--numprocesses=2", "--dist=loadfile")
    assert done.returncode == 0, done.stdout
    assert "48 passed" in done.stdout.splitlines()[-1]
    assert (tmp_path / "made").read_text() == "x"


def test_one_process_takes_no_turns(tmp_path: Path) -> None:
    """Without processes beside it there is nothing to wait for."""
    done = run_tests(tmp_path)
    assert done.returncode == 0, done.stdout
    assert (tmp_path / "made").read_text() == "x"
