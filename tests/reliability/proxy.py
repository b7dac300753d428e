"""Envoy, with the configuration of deploy/envoy/envoy.yaml, in front of servers on this machine."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from .replicas import free_port

CONFIG = Path(__file__).resolve().parents[2] / "deploy" / "envoy" / "envoy.yaml"
# What the certificate is made out to.
NAME = "headwaiter.test"
_READY_SECONDS = 60


@dataclass(frozen=True)
class Proxy:
    """An Envoy that runs.

    Attributes:
        target: Where it takes calls.
        ca_file: Whom to trust for that.
        admin: Where it is asked how it is.
    """

    target: str
    ca_file: Path
    admin: str

    def stats(self, beginning: str) -> dict[str, int]:
        """What it has counted under names that begin so."""
        with urlopen(f"http://{self.admin}/stats?filter=^{re.escape(beginning)}", timeout=30) as answer:
            lines = answer.read().decode().splitlines()
        pairs = (line.rpartition(": ") for line in lines)
        return {name.removeprefix(beginning): int(value) for name, _, value in pairs if value.isdigit()}


def envoy() -> Path:
    """The program."""
    spec = find_spec("envoy")
    assert spec is not None, "make setup installs Envoy"
    assert spec.origin is not None
    return Path(spec.origin).parent / "_bin" / "envoy"


def write_config(folder: Path, servers: Sequence[str], port: int = 8443, admin_port: int = 9901) -> Path:
    """Write the published configuration with other addresses and certificate files; all else is as published.

    Args:
        folder: Where; the certificate is made here, too.
        servers: HOST:PORT of each server.
        port: Where calls are taken, on this machine only.
        admin_port: Of the administration.
    """
    _make_certificate(folder)
    text = CONFIG.read_text()
    endpoint = re.search(
        r"( *)- endpoint:\n(.*\n)*? *socket_address: (\{ address: headwaiter, port_value: 8001 \})\n", text
    )
    assert endpoint is not None
    endpoints = ""
    for server in servers:
        host, _, server_port = server.rpartition(":")
        endpoints += endpoint[0].replace(endpoint[3], f"{{ address: {host}, port_value: {server_port} }}")
    for old, new in (
        (endpoint[0], endpoints),
        ("{ address: 0.0.0.0, port_value: 8443 }", f"{{ address: 127.0.0.1, port_value: {port} }}"),
        ("{ address: 127.0.0.1, port_value: 9901 }", f"{{ address: 127.0.0.1, port_value: {admin_port} }}"),
        ("/etc/envoy/", f"{folder}/"),
    ):
        assert old in text
        text = text.replace(old, new)
    file = folder / "envoy.yaml"
    file.write_text(text)
    return file


@contextmanager
def running_proxy(folder: Path, servers: Sequence[str], through: Sequence[str] = ()) -> Iterator[Proxy]:
    """Envoy before these servers, once it has found one that serves; ended in the end.

    Args:
        folder: Where its files are.
        servers: HOST:PORT of each server.
        through: A command that becomes Envoy.
    """
    port, admin_port = free_port(), free_port()
    config = write_config(folder, servers, port, admin_port)
    proxy = Proxy(f"localhost:{port}", folder / "tls.crt", f"127.0.0.1:{admin_port}")
    command: list[str | Path] = [*through, envoy(), "--config-path", config, "--log-path", folder / "envoy.log"]
    alone = ("--concurrency", "1", "--use-dynamic-base-id")
    with subprocess.Popen([*command, *alone], stderr=subprocess.DEVNULL) as process:
        try:
            _wait_for(proxy, len(servers))
            yield proxy
        finally:
            process.kill()


def _wait_for(proxy: Proxy, servers: int) -> None:
    until = time.monotonic() + _READY_SECONDS
    while True:
        try:
            if proxy.stats("cluster.headwaiter.").get("membership_healthy") == servers:
                return
        except (URLError, ConnectionError):
            pass
        if time.monotonic() > until:
            raise TimeoutError("Envoy has not found the servers; envoy.log says why")
        time.sleep(0.02)


def _make_certificate(folder: Path) -> None:
    made_out_to = ("-subj", f"/CN={NAME}", "-addext", f"subjectAltName=DNS:{NAME}")
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", folder / "tls.key")
    command = ("openssl", "req", "-x509", *key, "-out", folder / "tls.crt", "-days", "2", *made_out_to)
    subprocess.run(command, check=True, capture_output=True)
