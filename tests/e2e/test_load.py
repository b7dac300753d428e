"""The load tester's command against the real server, for each task."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from headwaiter_load import results
from headwaiter_load.results import RunResult

from .process import ServerProcess, environment

# No call may fail, so the server must keep up.
pytestmark = pytest.mark.alone

COMMAND = [sys.executable, "-m", "headwaiter_load"]
SHORT = ("--seconds", "1", "--warmup-seconds", "0.3", "--quiet")


def run_load(output: Path, *arguments: str) -> RunResult:
    """Run the command to a good end; what it wrote."""
    done = subprocess.run(
        [*COMMAND, "run", *arguments, *SHORT, "--output", str(output)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = results.load(output)
    assert isinstance(result, RunResult)
    return result


@pytest.mark.parametrize(
    ("task", "arguments"),
    [
        ("embed", ()),
        ("embed", ("--stream", "--connections", "2")),
        ("classify", ()),
        ("tag", ()),
        ("rerank", ("--query", "soup")),
        ("tokenize", ("--task", "tokenize")),
    ],
    ids=["embed", "embed-stream", "classify", "tag", "rerank", "tokenize"],
)
def test_every_task_of_an_encoder_is_measured(
    encoder_server: ServerProcess, tmp_path: Path, task: str, arguments: tuple[str, ...]
) -> None:
    """The task is what the model does unless another is asked for; every call is answered well."""
    result = run_load(
        tmp_path / "result.json",
        *("--target", encoder_server.grpc, "--model", "embed" if task == "tokenize" else task, "--outstanding", "4"),
        *("--words", "uniform:1-3", "--texts-per-call", "3", *arguments),
    )
    assert (result.settings.task, result.errors) == (task, ())
    assert result.answered > 0
    assert result.texts == 3 * result.answered
    assert 0 < result.latency.p50_seconds <= result.latency.p99_seconds


def test_generation_is_measured(server: ServerProcess, tmp_path: Path) -> None:
    """A server with one model need not be told which; texts come from a file."""
    words = tmp_path / "words.txt"
    words.write_text("onomatopoeia\nwaiter\nhead\n")
    arguments = ("--target", server.grpc, "--rate", "20", "--processes", "2", "--texts", str(words))
    result = run_load(tmp_path / "result.json", *arguments, "--max-new-tokens", "8", "--deadline-seconds", "20")
    assert (result.settings.task, result.errors, len(result.tester.processes)) == ("generate", (), 2)
    assert result.answered == result.scheduled > 0
    assert result.generation is not None
    assert result.generation.tokens > result.answered
    assert result.generation.first_token is None


def test_pieces_are_measured(server: ServerProcess, tmp_path: Path) -> None:
    """Each text has its first token before its call has its end, and a gap before each further piece."""
    words = tmp_path / "words.txt"
    words.write_text("onomatopoeia\nwaiter\nhead\n")
    arguments = ("--target", server.grpc, "--outstanding", "4", "--texts", str(words), "--texts-per-call", "2")
    result = run_load(tmp_path / "result.json", *arguments, "--stream")
    generation = result.generation
    assert generation is not None
    assert generation.first_token is not None
    assert generation.between_tokens is not None
    assert (result.failed, generation.first_token.count) == (0, result.texts)
    assert 0 < generation.first_token.p50_seconds <= result.latency.p50_seconds
    assert result.texts < generation.first_token.count + generation.between_tokens.count <= generation.tokens
    assert generation.tokens_per_second > 0


def test_refused_calls_are_counted_as_the_server_refused_them(encoder_server: ServerProcess, tmp_path: Path) -> None:
    """Texts over the model's limit are INVALID_ARGUMENT, with the server's words; cut, they are answered."""
    arguments = ("--target", encoder_server.grpc, "--model", "embed", "--rate", "20", "--words", "fixed:500")
    refused = run_load(tmp_path / "refused.json", *arguments)
    assert refused.answered == 0
    assert [each.code for each in refused.errors] == ["INVALID_ARGUMENT"]
    assert "texts[0]" in refused.errors[0].example
    cut = run_load(tmp_path / "cut.json", *arguments, "--truncate")
    assert (cut.failed, cut.errors) == (0, ())


def test_an_unknown_model_ends_the_run_before_it_begins(encoder_server: ServerProcess) -> None:
    """One line, exit code 1."""
    arguments = ["run", "--target", encoder_server.grpc, "--model", "nobody", "--rate", "5"]
    done = subprocess.run([*COMMAND, *arguments], env=environment(), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "NOT_FOUND" in done.stderr


def test_ctrl_c_writes_what_there_is(encoder_server: ServerProcess, tmp_path: Path) -> None:
    """SIGINT to all processes of the terminal's group, as Ctrl-C is; exit code 130 and a file."""
    output = tmp_path / "result.json"
    arguments = ["run", "--target", encoder_server.grpc, "--model", "embed", "--outstanding", "2", "--seconds", "90"]
    begun = encoder_server.scrape().get(REQUESTS, 0.0)
    with subprocess.Popen(
        [*COMMAND, *arguments, "--warmup-seconds", "0", "--processes", "2", "--output", str(output)],
        env=environment(),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            while encoder_server.scrape().get(REQUESTS, 0.0) < begun + 20:
                assert process.poll() is None
                time.sleep(0.1)
            os.killpg(process.pid, signal.SIGINT)
            _, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130, err
    result = results.load(output)
    assert isinstance(result, RunResult)
    assert not result.finished
    assert result.answered > 0
    assert result.measured_seconds < 90
    assert "Traceback" not in err


REQUESTS = (
    'headwaiter_requests_total{code="OK",method="headwaiter.v1.InferenceService/Embed",model="embed",version="1"}'
)
