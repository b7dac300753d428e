"""Damaged bundles reach a real server: each is refused with a typed error, and nobody else notices."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import grpc
import psutil
from unit.server.hostile_bundles import Hostiles
from unit.server.hostile_graphs import crashing, hanging
from unit.server.test_load_encoder import Made

from .hostile_loads import HEALTHY, Answers, Outcome, RepositoryClient, Verdict, load_hostiles, write_healthy
from .process import COMMAND, FREE_PORTS, environment, run_command, running_server

COUNT = 120


def test_damaged_bundles_are_refused_and_nobody_notices(models_dir: Path, tmp_path: Path) -> None:
    """Of many damaged bundles, half of them with digests that are right, none takes the server or its answers along."""
    repository = tmp_path / "models"
    made = write_healthy(repository)
    bundles = {"small": made.folder, "pronounce": models_dir / "pronounce" / "1"}
    hostiles = Hostiles({name: _copied(folder, tmp_path / name) for name, folder in bundles.items()}, seed=5)
    outcomes: list[Outcome] = []
    with (
        (tmp_path / "log").open("w") as log,
        running_server(
            *("--models", str(repository), "--model-control", "explicit", "--lame-duck-seconds", "0"),
            *("--load-timeout-seconds", "20", "--calibration", "off"),
            log=log,
        ) as server,
    ):
        answers = Answers(server.grpc, made)

        async def attack() -> dict[str, str]:
            async with answers.all_along():
                await load_hostiles(server.grpc, repository, hostiles, range(COUNT), outcomes.append)
            async with grpc.aio.insecure_channel(server.grpc) as channel:
                return await RepositoryClient(channel).states()

        states = asyncio.run(attack())
        assert states[f"{HEALTHY}/1"] == "READY"
        assert not psutil.Process(server.process.pid).children(recursive=True)[1:]
        assert server.terminate() == 0
    assert [outcome for outcome in outcomes if outcome.verdict is None] == []
    assert answers.problem == ""
    assert answers.right
    found = Counter(outcome.verdict for outcome in outcomes)
    assert found[Verdict.CRASHED], "none of them even crashed the child"
    assert found[Verdict.IN_CHILD] > COUNT / 2
    assert found[Verdict.HARMLESS] < COUNT / 4
    assert sum(found.values()) == COUNT


def _copied(folder: Path, to: Path) -> Path:
    """A bundle's own files, elsewhere: what the server keeps beside them is none."""
    to.mkdir()
    for path in folder.iterdir():
        (to / path.name).write_bytes(path.read_bytes())
    return to


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
