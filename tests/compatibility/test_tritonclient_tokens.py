"""Triton's own client library with a token, blocking, with asyncio and in a stream."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from reliability.sleeping_server import running_sleeping_server
from unit.server.access_files import ADA, BOB, client, write_access

from .environments import ENVIRONMENTS, Environment, clean_environment

_PROGRAM = """
import asyncio, queue, sys
import numpy
import tritonclient.grpc
import tritonclient.grpc.aio
from tritonclient.utils import InferenceServerException

target, token = sys.argv[1:]
headers = {"authorization": f"Bearer {token}"}
texts = tritonclient.grpc.InferInput("text", [1, 1], "BYTES")
texts.set_data_from_numpy(numpy.array([[b"w1 w2"]], dtype=object))

async def ask():
    async with tritonclient.grpc.aio.InferenceServerClient(target) as client:
        answer = await client.infer("sleeper", [texts], headers=headers)
        return len(answer.get_response().outputs)

with tritonclient.grpc.InferenceServerClient(target) as client:
    print(client.is_server_ready(), client.get_model_metadata("sleeper", headers=headers).name)
    print(len(client.infer("sleeper", [texts], headers=headers).get_response().outputs), asyncio.run(ask()))
    answers = queue.Queue()
    client.start_stream(lambda result, error: answers.put(error or "streamed"), headers=headers)
    client.async_stream_infer("sleeper", [texts])
    print(answers.get(timeout=20))
    client.stop_stream()
    for call in (
        lambda: client.get_model_metadata("sleeper"),
        lambda: client.load_model("sleeper", headers=headers),
    ):
        try:
            call()
        except InferenceServerException as error:
            print(error.status())
"""


@pytest.mark.parametrize("environment", ENVIRONMENTS, ids=lambda each: each.version)
def test_headers_are_enough(tmp_path: Path, environment: Environment) -> None:
    """The token goes with the headers that every method takes; what it may not, its own errors say."""
    path = write_access(tmp_path / "access.toml", client("ada", ADA), client("bob", BOB))
    with running_sleeping_server("--access-file", str(path), "--lame-duck-seconds", "0") as server:
        done = subprocess.run(
            [environment.python, "-c", _PROGRAM, server.grpc, ADA],
            env=clean_environment(),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.stdout.splitlines() == [
        "True sleeper",
        "1 1",
        "streamed",
        "StatusCode.UNAUTHENTICATED",
        "StatusCode.PERMISSION_DENIED",
    ], done.stderr
