"""TLS of a whole server: who gets in and who does not, rotation under load, Prometheus and the load tester."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPSConnection
from pathlib import Path

import pytest
from authority import Authority, Pair
from e2e.process import run_command
from e2e.prometheus import running_prometheus
from headwaiter import TLS, AsyncClient, Client, HealthStatus, ServerUnreachableError
from headwaiter_server.metrics.rendering import AGE_HEADER
from reliability.sleeping_server import MODEL, TEXT, running_sleeping_server
from reliability.tls import rotate

TOKEN = "f6c0ffee2b5d4e7f"  # noqa: S105 - of this test


@dataclass(frozen=True)
class Secured:
    """A server that asks for certificates, with a plain socket beside, and what its clients need."""

    authority: Authority
    client: Pair
    own: Pair
    token_file: Path
    target: str
    unix: str
    metrics: str
    log: Path

    def tls(self, **others: object) -> TLS:
        """What a good client shows and trusts, but for what is given."""
        good = {
            "ca_file": self.authority.certificate,
            "cert_file": self.client.certificate,
            "key_file": self.client.key,
        }
        return TLS(**{**good, **others})  # type: ignore[arg-type]

    def metrics_page(self) -> str:
        """The metrics as they are now: what was rendered before this was called is not taken."""
        context = ssl.create_default_context(cafile=self.authority.certificate)
        called = time.monotonic()
        while True:
            began = time.monotonic()
            with closing(HTTPSConnection(self.metrics, timeout=30, context=context)) as connection:
                connection.request("GET", "/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
                response = connection.getresponse()
                text, age_seconds = response.read().decode(), float(response.headers[AGE_HEADER])
            if age_seconds <= began - called:
                return text
            time.sleep(0.01)


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("tls")
    authority = Authority(folder / "authority")
    own = authority.issue("server")
    token_file = folder / "token"
    token_file.write_text(TOKEN)
    flags = [*own.flags(), "--tls-client-ca", str(authority.certificate), *own.flags("--metrics-tls")]
    with (
        (folder / "log").open("w") as log,
        running_sleeping_server(
            *(
                "--listen",
                f"unix:{folder / 'socket'}",
                *flags,
                "--metrics-token-file",
                str(token_file),
                "--lame-duck-seconds",
                "0",
            ),
            run_seconds=0.001,
            log=log,
        ) as server,
    ):
        target, unix = server.grpc.split(",")
        client = authority.issue("client")
        yield Secured(authority, client, own, token_file, target, unix, server.metrics, folder / "log")
        assert server.terminate() == 0


async def test_who_shows_a_good_certificate_is_served(secured: Secured) -> None:
    """Both clients, and by every method there is a call of its kind: one answer, a stream, health."""
    with Client(secured.target, tls=secured.tls()) as client:
        assert len(client.embed(TEXT).vectors) == 1
        assert [item.get().model for item in client.embed_stream([TEXT, TEXT])] == [MODEL, MODEL]
        assert client.health() is HealthStatus.SERVING
    async with AsyncClient(secured.target, tls=secured.tls(), token=TOKEN) as async_client:
        assert len((await async_client.embed(TEXT)).vectors) == 1


def test_a_unix_socket_stays_plain(secured: Secured) -> None:
    """What does not leave the machine is guarded by the rights of the file."""
    with Client(secured.unix) as client:
        assert len(client.embed(TEXT).vectors) == 1


@pytest.mark.parametrize(
    "wrong", ["clear text", "no certificate", "another authority's", "expired", "its own trust", "the name"]
)
def test_anything_less_is_refused(secured: Secured, tmp_path: Path, wrong: str) -> None:
    """No such client has a call that reaches the server's methods; a good one is served after it as before."""
    stranger = Authority(tmp_path / "stranger")
    pairs = {
        "no certificate": None,
        "another authority's": stranger.issue("client"),
        "expired": secured.authority.issue("late", days=-1),
    }
    pair = pairs.get(wrong, secured.client)
    tls = TLS(
        ca_file=(stranger if wrong == "its own trust" else secured.authority).certificate,
        cert_file=None if pair is None else pair.certificate,
        key_file=None if pair is None else pair.key,
        server_name="elsewhere.test" if wrong == "the name" else None,
    )
    started = _calls_started(secured)
    with Client(secured.target, tls=None if wrong == "clear text" else tls, retries=False) as client:
        for _ in range(2):
            with pytest.raises(ServerUnreachableError):
                client.embed(TEXT)
    assert _calls_started(secured) == started
    with Client(secured.target, tls=secured.tls()) as client:
        client.embed(TEXT)


@pytest.mark.parametrize("port", ["grpc", "metrics"])
def test_tls_1_1_is_refused(secured: Secured, port: str) -> None:
    """By both ports, to a client that would speak it: with a server of its kind it does."""
    address = {"grpc": secured.target, "metrics": secured.metrics}[port]
    host, _, number = address.rpartition(":")
    with socket.create_connection((host, int(number)), timeout=30) as plain, pytest.raises((ssl.SSLError, OSError)):
        _old(secured, server=False).wrap_socket(plain, server_hostname="localhost")
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = _old(secured, server=False).wrap_bio(to_client, to_server, server_hostname="localhost")
    _shake(client, _old(secured, server=True).wrap_bio(to_server, to_client, server_side=True))
    assert client.version() == "TLSv1.1"


def _old(secured: Secured, *, server: bool) -> ssl.SSLContext:
    """One that speaks nothing but TLS 1.1."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    pair = secured.own if server else secured.client
    context.load_cert_chain(pair.certificate, pair.key)
    context.load_verify_locations(secured.authority.certificate)
    return context


def _shake(*sides: ssl.SSLObject) -> None:
    done: set[ssl.SSLObject] = set()
    for _ in range(10):
        for side in sides:
            try:
                side.do_handshake()
                done.add(side)
            except ssl.SSLWantReadError:
                pass
    assert len(done) == len(sides)


def _calls_started(secured: Secured) -> list[str]:
    return [
        line for line in secured.metrics_page().splitlines() if line.startswith("headwaiter_requests_started_total")
    ]


def test_prometheus_scrapes_with_tls_and_a_token(secured: Secured, tmp_path: Path) -> None:
    """Debian's own, with the configuration that the documentation shows."""
    access = {
        "scheme": "https",
        "tls_config": {"ca_file": str(secured.authority.certificate)},
        "authorization": {"credentials_file": str(secured.token_file)},
    }
    with running_prometheus(tmp_path, secured.metrics, access) as prometheus:
        expiry = prometheus.instant("headwaiter_tls_certificate_expiry_timestamp_seconds")
        assert sorted(dict(labels)["listener"] for labels in expiry) == ["grpc", "metrics"]


def test_the_load_tester_reads_it_all_with_tls(secured: Secured, tmp_path: Path) -> None:
    """Calls and metrics, with the token in its file; the result holds no token."""
    output = tmp_path / "result.json"
    tls = ["--ca-file", str(secured.authority.certificate), "--cert-file", str(secured.client.certificate)]
    metrics = ["--metrics-url", f"https://{secured.metrics}/metrics", "--metrics-token-file", str(secured.token_file)]
    subprocess.run(
        [
            *(sys.executable, "-m", "headwaiter_load", "run", "--target", secured.target, "--outstanding", "2"),
            *("--words", "fixed:1", "--seconds", "1", "--warmup-seconds", "0", "--quiet", "--output", str(output)),
            *(*tls, "--key-file", str(secured.client.key), *metrics),
        ],
        check=True,
        capture_output=True,
        timeout=60,
    )
    told = output.read_text()
    assert json.loads(told)["server"]["readings"]
    assert TOKEN not in told


def test_the_command_line_goes_in_with_its_options(secured: Secured) -> None:
    access = ["--ca-file", str(secured.authority.certificate), "--cert-file", str(secured.client.certificate)]
    command = [str(Path(sys.executable).with_name("headwaiter")), "health", "--target", secured.target, *access]
    told = subprocess.run(
        [*command, "--key-file", str(secured.client.key)], capture_output=True, text=True, timeout=60, check=True
    )
    assert told.stdout == "SERVING\n"


def test_nothing_secret_is_told(secured: Secured) -> None:
    """Neither a part of the key nor the token: in the log, the metrics, the settings, an error."""
    flags = ["--models", "m", *secured.own.flags(), "--metrics-token-file", str(secured.token_file)]
    printed = run_command(*flags, "--print-config")
    assert printed.returncode == 0
    broken = secured.token_file.with_name("broken")
    broken.write_text(f"{TOKEN} {secured.own.key.read_text()}")
    failed = run_command(*flags, "--metrics-token-file", str(broken))
    assert failed.returncode == 1
    assert "--metrics-token-file" in failed.stderr
    told = f"{secured.log.read_text()}{secured.metrics_page()}{printed.stdout}{failed.stdout}{failed.stderr}"
    assert not [secret for secret in [TOKEN, *secured.own.key.read_text().splitlines()[1:-1]] if secret in told]


async def test_rotations_fail_no_call(tmp_path: Path) -> None:
    """The short form of `tls.py`: both ways to put a certificate into the old one's place, and a broken one before."""
    outcome = await rotate(tmp_path, 2, lambda: None)
    assert not outcome.failed
    assert (len(outcome.taken_seconds), outcome.broken, outcome.kept, outcome.secrets) == (2, 1, 1, 0)
    assert min(outcome.calls["keeping"], outcome.calls["opening"]) > 0
