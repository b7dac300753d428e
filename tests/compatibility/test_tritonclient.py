"""Triton's own client library, unmodified, gets from this server what it expects of Triton."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from e2e.process import ServerProcess

from .environments import ENVIRONMENTS, ROOT, Environment, clean_environment
from .record import Record, Seen

MODULES = sorted(path.stem for path in (Path(__file__).parent / "triton").glob("[a-z]*.py") if path.stem != "checks")


@pytest.mark.parametrize("environment", ENVIRONMENTS, ids=lambda each: each.version)
@pytest.mark.parametrize("module", MODULES)
def test_every_check_passes(served: ServerProcess, record: Record, module: str, environment: Environment) -> None:
    """The checks of a module, run in the library's own environment, see what they should."""
    done = subprocess.run(
        [environment.python, "-m", "compatibility.triton", module, served.grpc, served.metrics],
        env=clean_environment(PYTHONPATH=str(ROOT / "tests"), PYTHONDONTWRITEBYTECODE="1"),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    outcomes = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    failed = "\n".join(f"{each['name']}:\n{each['error']}" for each in outcomes if each["error"])
    assert not failed, failed
    assert done.returncode == 0, done.stderr
    assert outcomes
    for each in outcomes:
        ran = f"{module}.{each['name'].removeprefix('check_')}"
        tool = f"tritonclient {environment.version}"
        record.seen.append(Seen(tuple(each["shows"]), tool, ran, each["what"].removesuffix("."), each["said"]))


@pytest.mark.parametrize("environment", ENVIRONMENTS, ids=lambda each: each.version)
def test_the_example_runs(served: ServerProcess, environment: Environment) -> None:
    """examples/triton_client.py finds the text that means the same more alike than the other."""
    example = ROOT / "examples" / "triton_client.py"
    done = subprocess.run(
        [environment.python, example, served.grpc, "minilm", "the soup of the day", "today's soup", "the bill, please"],
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    soup, bill = (line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert (soup[1], bill[1]) == ("today's soup", "the bill, please")
    assert float(soup[0]) > 0.6 > float(bill[0])
