"""k6 calls the service by reflection and by our .proto file."""

from __future__ import annotations

import json
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest
from e2e.process import ServerProcess

from .environments import ROOT, clean_environment, tool
from .record import Record, Seen

SCRIPT = Path(__file__).with_name("k6.js")


@pytest.mark.parametrize("proto", ["", str(ROOT / "proto")], ids=["reflection", "proto"])
def test_every_call_is_answered_as_it_should_be(
    served: ServerProcess, record: Record, tmp_path: Path, proto: str
) -> None:
    """100 rounds by four callers: ready, embed, add, and a model that is not there."""
    done = subprocess.run(
        [tool("k6"), "run", "--quiet", "--no-usage-report", SCRIPT],
        env=clean_environment(TARGET=served.grpc, PROTO=proto, HOME=str(tmp_path)),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(done.stdout)
    assert (figures["passes"], figures["fails"]) == (500, 0)
    said = f"{figures['passes']} checks passed, {figures['fails']} failed"
    what = f"ModelReady and ModelInfer, {'by the .proto' if proto else 'by reflection'}"
    shows = ("ModelInfer", "ModelReady") if proto else ("ModelInfer", "ModelReady", "reflection")
    record.seen.append(Seen(shows, f"k6 {version('k6')}", "k6 run k6.js", what, said))


@pytest.mark.parametrize("proto", ["", str(ROOT / "proto")], ids=["reflection", "proto"])
def test_generated_texts_are_streamed(served: ServerProcess, record: Record, tmp_path: Path, proto: str) -> None:
    """40 streams by four callers: each adds up to what a unary call answers."""
    done = subprocess.run(
        [tool("k6"), "run", "--quiet", "--no-usage-report", SCRIPT.with_name("k6_generation.js")],
        env=clean_environment(TARGET=served.grpc, PROTO=proto, HOME=str(tmp_path)),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(done.stdout)
    assert (figures["passes"], figures["fails"]) == (160, 0)
    said = f"{figures['passes']} checks passed, {figures['fails']} failed"
    what = f"Generate and GenerateStream, {'by the .proto' if proto else 'by reflection'}"
    shows = ("GenerateStream",) if proto else ("GenerateStream", "reflection")
    record.seen.append(Seen(shows, f"k6 {version('k6')}", "k6 run k6_generation.js", what, said))
