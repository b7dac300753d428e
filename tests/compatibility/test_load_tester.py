"""Our own load tester speaks the protocol to our own server."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from e2e.process import ServerProcess, environment
from headwaiter_load import results
from headwaiter_load.results import RunResult

from .record import Record, Seen

SHORT = ("--seconds", "1", "--warmup-seconds", "0.3", "--quiet")


@pytest.mark.parametrize(
    "options",
    [
        "--model minilm --outstanding 4",
        "--model minilm --outstanding 4 --stream --texts-per-call 4",
        "--model minilm --rate 50 --deadline-seconds 10",
        "--model simple --outstanding 4 --texts-per-call 8 --integers -9:9",
        "--model simple --outstanding 8 --stream",
        "--model pronounce --outstanding 2 --words fixed:1",
    ],
)
def test_every_call_is_answered(served: ServerProcess, record: Record, tmp_path: Path, options: str) -> None:
    """The load tester asks the server what its models take, and every call is answered well."""
    output = tmp_path / "result.json"
    command = ["run", "--protocol", "oip", "--target", served.grpc, *options.split(), *SHORT]
    done = subprocess.run(
        [sys.executable, "-m", "headwaiter_load", *command, "--output", str(output)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = results.load(output)
    assert isinstance(result, RunResult)
    assert result.errors == ()
    assert result.answered > 0
    shows = ("ModelStreamInfer",) if "--stream" in options else ("ModelInfer",)
    ran, said = f"headwaiter-load run --protocol oip {options}", f"{result.answered} calls answered, none failed"
    what = "Load over the Open Inference Protocol"
    record.seen.append(Seen(shows, f"headwaiter-load {version('headwaiter')}", ran, what, said))
