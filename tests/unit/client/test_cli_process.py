from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest
from headwaiter_proto.v1 import inference_pb2
from unit.client.scripted_generation import upper_case_stream

if TYPE_CHECKING:
    from collections.abc import Callable

    import grpc
    from unit.client.scripted_server import ScriptedServer

HEADWAITER = (sys.executable, "-c", "from headwaiter.cli import main; main()")


def _start(*arguments: str, stdin: int | None = None) -> subprocess.Popen[bytes]:
    return subprocess.Popen([*HEADWAITER, *arguments], stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_typed_lines_are_answered_at_once(server: ScriptedServer) -> None:
    """A line that came alone is not kept waiting for others; then Ctrl-C ends the command, quietly, with 130."""
    with _start("generate", "--target", server.target, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        for word in (b"one", b"two"):
            process.stdin.write(word + b"\n")
            process.stdin.flush()
            assert process.stdout.readline().strip() == word.upper()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 130
        assert process.stderr.read().strip() == b""


def test_ctrl_c_during_a_call(serve: Callable[..., ScriptedServer]) -> None:
    """A blocking call is interrupted at once and without a traceback."""
    entered, ended = threading.Event(), threading.Event()

    def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
        context.add_callback(ended.set)
        entered.set()
        ended.wait()
        return b""

    with _start("models", "--target", serve({"ListModels": answer}).target) as process:
        assert entered.wait(timeout=60)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
        assert process.stderr is not None
        assert process.stderr.read().strip() == b""


def test_a_closed_standard_input(server: ScriptedServer) -> None:
    """Where there is nothing to read from, the command says so."""
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" <&-', "sh", *HEADWAITER, "generate", "--target", server.target],
        capture_output=True,
        check=False,
    )
    assert done.returncode == 2
    assert b"standard input is closed" in done.stderr


def test_a_reader_that_leaves(server: ScriptedServer) -> None:
    """`| head` closes the pipe: the command ends without a word."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    done = subprocess.run(
        [*HEADWAITER, "generate", "a", "--target", server.target], stdout=write_end, stderr=subprocess.PIPE, check=False
    )
    os.close(write_end)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.parametrize("arguments", [("generate", "a"), ("explain", "a")])
def test_a_closed_standard_output(serve: Callable[..., ScriptedServer], arguments: tuple[str, str]) -> None:
    """Where there is nothing to write to, the call is made and nothing is said."""
    tokens = inference_pb2.TokenizeResponse(tokenizations=[inference_pb2.Tokenization(tokens=["a"])])
    server = serve({"Tokenize": lambda request, context: tokens.SerializeToString()})
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *HEADWAITER, *arguments, "--target", server.target],
        stderr=subprocess.PIPE,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert [call.method for call in server.calls].count("Generate") >= 1


@pytest.mark.parametrize("way", ["--stream", "--no-stream"])
def test_an_output_without_the_characters(serve: Callable[..., ScriptedServer], way: str) -> None:
    """What the encoding of the standard output has no form for is one line on the standard error, and 1."""
    server = serve(answer_streams={"GenerateStream": upper_case_stream})
    done = subprocess.run(
        [*HEADWAITER, "generate", "\N{GREEK SMALL LETTER ALPHA}", way, "--target", server.target],
        env={**os.environ, "PYTHONIOENCODING": "latin-1"},
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr == b"headwaiter: '\\u0391' cannot be written in latin-1\n"
