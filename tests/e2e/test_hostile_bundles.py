"""Damaged bundles reach a real server: each is refused with a typed error, and nobody else notices."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from e2e.hostile_loads import HEALTHY, Outcome, Verdict, write_healthy
from mutated_bundles import Result, figures, load_damaged
from unit.server.hostile_bundles import Hostile
from unit.server.hostile_graphs import crashing, hanging
from unit.server.test_load_encoder import Made

from .process import COMMAND, FREE_PORTS, environment, run_command, running_server

COUNT = 120


def test_damaged_bundles_are_refused_and_nobody_notices(models_dir: Path, tmp_path: Path) -> None:
    """Of many damaged bundles, half of them with digests that are right, none takes the server or its answers along."""
    bundles = {"pronounce": models_dir / "pronounce" / "1"}
    result = load_damaged(tmp_path, bundles, COUNT, seed=5, load_timeout_seconds=20)
    assert [outcome for outcome in result.outcomes if outcome.verdict is None] == []
    assert result.problem == ""
    assert [figure for figure in figures(result) if figure.reached is False] == []
    assert result.counted(Verdict.CRASHED), "none of them even crashed the child"
    assert result.counted(Verdict.IN_CHILD) > COUNT / 2


REFUSED = Outcome(Hostile(1, "small: bits", rehashed=True), Verdict.IN_CHILD, "FAILED_PRECONDITION: hostile-1: bits")
WELL = Result(
    2, [replace(REFUSED, hostile=Hostile(0, "small: bits", rehashed=False)), REFUSED], 1, "", 0.1, "READY", 0, 0, [1, 1]
)


@pytest.mark.parametrize(
    ("result", "missed"),
    [
        (WELL, set()),
        (replace(WELL, outcomes=WELL.outcomes[1:]), {"damaged bundles"}),
        (replace(WELL, outcomes=[REFUSED] * 2), {"with digests made right"}),
        (
            replace(WELL, outcomes=[*WELL.outcomes[:1], replace(REFUSED, verdict=Verdict.HARMLESS)]),
            {"harmless: every check passed, golden outputs among them"},
        ),
        (
            replace(WELL, outcomes=[*WELL.outcomes[:1], replace(REFUSED, verdict=None, message="UNKNOWN: ...")]),
            {"neither refused with a typed error nor harmless"},
        ),
        (
            replace(WELL, outcomes=[*WELL.outcomes[:1], replace(REFUSED, verdict=None, message="DEADLINE_EXCEEDED: ")]),
            {"neither refused with a typed error nor harmless", "loads without an answer after 120 s"},
        ),
        (replace(WELL, exit_code=-11, state=""), {"crashes of the server", "the sound model in the end"}),
        (replace(WELL, right=0), {"answers of a sound model between them, all golden"}),
        (replace(WELL, problem="another answer"), {"wrong or failed"}),
        (replace(WELL, children=1), {"child processes left"}),
    ],
)
def test_what_must_not_happen_misses_an_aim(result: Result, missed: set[str]) -> None:
    """Whatever a long run may find is told by name, and makes it end with 1."""
    assert {figure.name for figure in figures(result) if figure.reached is False} == missed


def _damaged(repository: Path, change: Callable[[bytes], bytes]) -> Path:
    made = Made(repository / "bad")
    made.graph = change(made.graph)
    made.write()
    return repository


def test_model_that_crashes_its_trial_keeps_the_server_from_starting(tmp_path: Path) -> None:
    """The server ends with 1 and says how the model crashed; with --allow-partial the others serve."""
    repository = _damaged(tmp_path / "models", crashing)
    ended = run_command("--models", str(repository), *FREE_PORTS)
    assert ended.returncode == 1
    assert "model 'bad' failed to load" in ended.stderr
    assert "crashed (Floating point exception) while onnxruntime was building its graph" in ended.stderr
    assert "Traceback" not in ended.stderr
    write_healthy(repository)
    with running_server("--models", str(repository), "--allow-partial", "--lame-duck-seconds", "0") as server:
        assert server.models == f"{HEALTHY}:1"
        assert server.terminate() == 0


def test_server_told_to_end_while_a_model_hangs_ends(tmp_path: Path) -> None:
    """A signal during the first load ends the server and the trial, whatever time that still had."""
    repository = _damaged(tmp_path / "models", hanging)
    command = [*COMMAND, "--models", str(repository), *FREE_PORTS, "--lame-duck-seconds", "0"]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True) as process:
        try:
            server = psutil.Process(process.pid)
            while len(trial := server.children(recursive=True)) < 2:
                assert process.poll() is None
                time.sleep(0.01)
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        finally:
            process.kill()
    gone, left = psutil.wait_procs(trial, timeout=60)
    assert len(gone) == 2
    assert left == []
