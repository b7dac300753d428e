"""Triton's own client library over mutual TLS, blocking and with asyncio."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from authority import Authority
from reliability.sleeping_server import running_sleeping_server

from .environments import ENVIRONMENTS, Environment, clean_environment

_PROGRAM = """
import asyncio, sys
import tritonclient.grpc
import tritonclient.grpc.aio

target, authority, key, certificate = sys.argv[1:]
tls = dict(ssl=True, root_certificates=authority, private_key=key, certificate_chain=certificate)

async def ask():
    async with tritonclient.grpc.aio.InferenceServerClient(target, **tls) as client:
        return await client.is_server_ready()

with tritonclient.grpc.InferenceServerClient(target, **tls) as client:
    print(client.is_server_ready(), client.is_model_ready("sleeper"), asyncio.run(ask()))
"""


@pytest.mark.parametrize("environment", ENVIRONMENTS, ids=lambda each: each.version)
def test_it_is_served_with_its_own_options(tmp_path: Path, environment: Environment) -> None:
    """What it has for TLS, and nothing else, is enough."""
    authority = Authority(tmp_path / "authority")
    client = authority.issue("client")
    flags = [*authority.issue("server").flags(), "--tls-client-ca", str(authority.certificate)]
    with running_sleeping_server(*flags, "--lame-duck-seconds", "0") as server:
        done = subprocess.run(
            [environment.python, "-c", _PROGRAM, server.grpc, authority.certificate, client.key, client.certificate],
            env=clean_environment(),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert server.terminate() == 0
    assert done.stdout == "True True True\n", done.stderr
