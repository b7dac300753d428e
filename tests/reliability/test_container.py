"""The hardened example, confined as a container is: not root, nothing to write to, no capability, no way to one.

`make prove-image` does the same with what the Dockerfile installs, and its own settings.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import ssl
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.client import HTTPSConnection
from pathlib import Path

import grpc
import psutil
import pytest
from authority import Authority, Pair
from e2e.process import ServerProcess, running_server
from headwaiter import TLS, Client, UnauthenticatedError
from headwaiter_server.config import ServerSettings
from unit.server.test_load_encoder import Made

from deploy.sandbox import Sandbox

from .told import ask

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "deploy" / "hardened"
OPEN = "/inference.GRPCInferenceService"
USER = 10001
SCRAPER = "reads-the-metrics-port"
# What a server that is told to poll takes over is there after two looks and a trial, which take a busy machine long.
SECONDS = 120.0
# Kernel file systems, and the one place that a hardened container may write to.
WRITABLE = {"/tmp", "/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue"}  # noqa: S108


@dataclass
class Confined:
    """A server in a sandbox, and what it is given from outside."""

    server: ServerProcess
    inner: psutil.Process
    models: Path
    secrets: Path
    trusted: Path

    def client(self, token: str) -> Client:
        """Somebody who calls with a token."""
        return Client(self.server.grpc, tls=TLS(self.trusted), token=token, retries=False)

    def status(self) -> dict[str, str]:
        """What the kernel says of the server's process."""
        lines = Path(f"/proc/{self.inner.pid}/status").read_text().splitlines()
        return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _let_in(secrets: Path, **tokens: str) -> None:
    """Write the example's access file with hashes of tokens in place of its own."""
    text = (EXAMPLE / "access.toml").read_text()
    for number, token in enumerate((tokens["application"], tokens["operator"])):
        text = text.replace(f"{number:064}", hashlib.sha256(token.encode()).hexdigest())
    new = secrets / "access.new"
    new.write_text(text)
    new.chmod(0o444)
    new.rename(secrets / "access.toml")


def _need_a_sandbox() -> None:
    """Skip where none can be made; `make prove-image`, which everything has to pass, fails there."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user without capabilities")
    tried = subprocess.run(Sandbox(user=(USER, USER)).command(["true"]), capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        pytest.skip(f"no sandbox can be made on this machine: {tried.stderr.strip()}")


def _until(happened: Callable[[], bool]) -> None:
    ends = time.monotonic() + SECONDS
    while not happened():
        assert time.monotonic() < ends
        time.sleep(0.05)


@pytest.fixture(scope="module")
def confined(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Confined]:
    _need_a_sandbox()
    folder = tmp_path_factory.mktemp("container")
    models, secrets = folder / "models", folder / "secrets"
    Made(models / "small").write()
    authority = Authority(folder / "authority")
    secrets.mkdir()
    authority.issue("server").copy_to(Pair(secrets / "tls.crt", secrets / "tls.key"))
    (secrets / "metrics.token").write_text(f"{SCRAPER}\n")
    _let_in(secrets, application="first", operator="boss")
    for path in (secrets / "tls.key", secrets / "metrics.token", secrets / "access.toml"):
        os.chown(path, USER, USER)
        path.chmod(0o444)  # the access file is written anew, by root
    # The stranger must be able to read what is mounted, whatever this user's umask.
    for path in (models, secrets, *models.rglob("*"), secrets / "tls.crt"):
        path.chmod(0o755 if path.is_dir() else 0o444)
    code = {ROOT / part: ROOT / part for part in (".venv", "proto", "server", "clients")}
    mounts = {Path("/models"): models, Path("/secrets"): secrets, Path("/etc-headwaiter"): EXAMPLE}
    box = Sandbox(
        readable={**code, **mounts},
        environment={"PATH": "/usr/bin:/bin", "HEADWAITER_CONFIG": "/etc-headwaiter/headwaiter.toml"},
        workdir="/tmp",  # noqa: S108
        user=(USER, USER),
        network=True,
    )
    command = box.command([sys.executable, "-m", "headwaiter_server"])
    flags = ("--model-control", "poll", "--poll-seconds", "0.1", "--lame-duck-seconds", "0.2")
    with running_server(*flags, command=command) as server:
        inner = next(each for each in psutil.Process(server.process.pid).children(recursive=True) if _is_server(each))
        yield Confined(server, inner, models, secrets, authority.certificate)
        # As a container's engine ends it.
        inner.send_signal(signal.SIGTERM)
        assert server.process.wait(SECONDS) == 0


def _is_server(process: psutil.Process) -> bool:
    command: list[str] = process.cmdline()
    return command[:3] == [sys.executable, "-m", "headwaiter_server"]


def test_example_sets_what_exists() -> None:
    """And all that it leaves to its defaults it says, where they matter."""
    settings = tomllib.loads((EXAMPLE / "headwaiter.toml").read_text())
    assert settings.keys() <= ServerSettings.model_fields.keys()
    assert settings["trial_loads"] == ServerSettings.model_fields["trial_loads"].default


def test_process_can_become_nobody_else_and_write_nothing(confined: Confined) -> None:
    """By what the kernel says: user, capabilities, and every mount but /tmp."""
    status = confined.status()
    assert status["Uid"].split() == [str(USER)] * 4
    assert status["Gid"].split() == [str(USER)] * 4
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[name], 16) == 0
    assert status["NoNewPrivs"] == "1"
    mounts = [line.split() for line in Path(f"/proc/{confined.inner.pid}/mountinfo").read_text().splitlines()]
    written = {fields[4] for fields in mounts if "rw" in fields[5].split(",")}
    assert {"/", "/models", "/secrets", str(ROOT / "server")} <= {fields[4] for fields in mounts} - written
    assert {place for place in written if not place.startswith("/dev/")} <= WRITABLE


def test_callers_are_told_apart(confined: Confined) -> None:
    """By TLS and tokens; who may have texts answered may load no model."""
    with confined.client("first") as client:
        assert len(client.embed(["w1 w2"], timeout_seconds=SECONDS).vectors) == 1
    for token in ("nobody", SCRAPER, "0" * 64):
        with confined.client(token) as client, pytest.raises(UnauthenticatedError):
            client.embed(["w1"], timeout_seconds=SECONDS)
    credentials = grpc.ssl_channel_credentials(confined.trusted.read_bytes())
    with grpc.secure_channel(confined.server.grpc, credentials) as channel:
        codes = [
            ask(channel, f"{OPEN}/RepositoryModelUnload", b"", metadata=[("authorization", f"Bearer {token}")]).code
            for token in ("nobody", "first", "boss")
        ]
    # The last might, if callers could have models loaded here at all.
    assert codes == [grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNIMPLEMENTED]


def test_metrics_want_their_own_token(confined: Confined) -> None:
    host, _, port = confined.server.metrics.rpartition(":")
    context = ssl.create_default_context(cafile=confined.trusted)
    found = {}
    for token in (SCRAPER, "first", ""):
        connection = HTTPSConnection(host, int(port), context=context, timeout=SECONDS)
        connection.request("GET", "/metrics", headers={"Authorization": f"Bearer {token}"} if token else {})
        found[token] = connection.getresponse().status
        connection.close()
    assert found == {SCRAPER: 200, "first": 401, "": 401}


def test_tokens_are_changed_without_a_restart(confined: Confined) -> None:
    """The old one is good no more, and the server is the same process."""

    def comes_in(token: str) -> bool:
        with confined.client(token) as client:
            try:
                client.embed(["w1"], timeout_seconds=SECONDS)
            except UnauthenticatedError:
                return False
            return True

    _let_in(confined.secrets, application="second", operator="boss")
    _until(lambda: comes_in("second"))
    assert not comes_in("first")
    _let_in(confined.secrets, application="first", operator="boss")
    _until(lambda: comes_in("first"))


def test_models_are_changed_without_a_restart(confined: Confined) -> None:
    """A version that appears is tried, in a process of its own, and takes over; taken away, it is rolled back."""

    def serving() -> list[int]:
        with confined.client("boss") as client:
            return [model.version for model in client.models()]

    assert serving() == [1]
    shutil.copytree(confined.models / "small" / "1", confined.models / "small" / ".2")
    (confined.models / "small" / ".2").rename(confined.models / "small" / "2")
    _until(lambda: serving() == [2])
    with confined.client("first") as client:
        assert len(client.embed(["w1 w2"], timeout_seconds=SECONDS).vectors) == 1
    shutil.rmtree(confined.models / "small" / "2")
    _until(lambda: serving() == [1])
