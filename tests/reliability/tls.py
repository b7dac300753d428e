"""Certificates rotated under load: every new one is shown, broken ones are not, and no call fails.

    python tests/reliability/tls.py [--rotations 100]

The server asks for clients' certificates. Beside callers that keep their connections there are some that open a new one
for every call, as each of them is a handshake that could go wrong. Certificates change as people change them: written
over the old files, one after the other, or by a link that is turned; each fifth time files that cannot be taken come
first.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import ssl
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]  # run as a file, from anywhere

from authority import Authority, Pair  # noqa: E402 - after the path is set
from headwaiter import TLS, AsyncClient, HeadwaiterError  # noqa: E402
from reliability.figures import Figure, report  # noqa: E402
from reliability.sleeping_server import TEXT, running_sleeping_server  # noqa: E402
from rich.progress import Progress  # noqa: E402

ROTATIONS = 100
# Of files that cannot be taken: one time in so many.
BROKEN_EVERY = 5
_KEEPING, _OPENING = 3, 2
# A look at the files a second, and the writing of the next ones; far more than that is a failure.
_PATIENCE_SECONDS = 20.0
_MOST_SECONDS = 3.0
_LOOK_SECONDS = 0.02
_REFUSED = "changed_files_not_taken"


@dataclass
class Outcome:
    """What became of it all.

    Attributes:
        taken_seconds: Of each new certificate, when it was first shown.
        broken: Times at which files came that could not be taken.
        kept: Of these, those at which the old certificate was shown on.
        calls: Calls that were answered, by who made them.
        failed: Those that were not, by why.
        secrets: Lines of the log that hold a part of a key.
    """

    taken_seconds: list[float] = field(default_factory=list)
    broken: int = 0
    kept: int = 0
    calls: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    secrets: int = 0

    def figures(self, rotations: int) -> list[Figure]:
        """What is held to an aim."""
        failed, slowest = self.failed.total(), max(self.taken_seconds, default=float("inf"))
        return [
            Figure("new certificates", rotations),
            Figure("of these, shown", len(self.taken_seconds), "", "all", len(self.taken_seconds) == rotations),
            Figure("slowest to be shown", slowest, "s", f"<= {_MOST_SECONDS:g} s", slowest <= _MOST_SECONDS),
            Figure("broken files", self.broken),
            Figure("of these, old certificate shown on", self.kept, "", "all", self.kept == self.broken),
            Figure("calls over connections that are kept", self.calls["keeping"]),
            Figure("calls over a new connection each", self.calls["opening"]),
            Figure("calls that failed", failed, "", "0", failed == 0),
            Figure("lines of the log with a part of a key", self.secrets, "", "0", self.secrets == 0),
        ]


def shown_certificate(target: str, tls: TLS) -> bytes:
    """The certificate that a server shows to somebody new, in DER.

    Raises:
        OSError: The handshake failed.
    """
    context = ssl.create_default_context(cafile=tls.ca_file)
    if tls.cert_file is not None:
        context.load_cert_chain(tls.cert_file, tls.key_file)
    context.set_alpn_protocols(["h2"])
    host, _, port = target.rpartition(":")
    with (
        socket.create_connection((host, int(port)), timeout=_PATIENCE_SECONDS) as plain,
        context.wrap_socket(plain, server_hostname=host) as secure,
    ):
        return secure.getpeercert(binary_form=True) or b""


class Rotation:
    """The files that a server reads, and what comes into their place."""

    def __init__(self, folder: Path) -> None:
        """Make an authority, a client's certificate and the first one of the server."""
        self._folder = folder
        self._authority = Authority(folder / "authority")
        client = self._authority.issue("client")
        self.tls = TLS(self._authority.certificate, client.certificate, client.key)
        self._link = folder / "current"
        # The server knows these paths only.
        self.served = Pair(self._link / "tls.pem", self._link / "tls.key")
        self.pairs: list[Pair] = []
        self._turn_link(self.new())

    @property
    def flags(self) -> list[str]:
        """Of the server."""
        return [*self.served.flags(), "--tls-client-ca", str(self._authority.certificate)]

    def new(self) -> Pair:
        """Another certificate with another key."""
        self.pairs.append(self._authority.issue(f"server-{len(self.pairs)}"))
        return self.pairs[-1]

    def put(self, pair: Pair) -> None:
        """Have the server find it, in one of the two ways, taking turns."""
        if len(self.pairs) % 2:
            self._turn_link(pair)
        else:
            pair.copy_to(self.served)

    def break_it(self, pair: Pair) -> None:
        """Have it find what cannot be taken: half a certificate, or one with another's key."""
        content = pair.certificate.read_bytes()
        self.served.certificate.write_bytes(content if len(self.pairs) % 2 else content[: len(content) // 2])

    def secret_lines(self) -> set[str]:
        """What must be seen nowhere."""
        return {line for pair in self.pairs for line in pair.key.read_text().splitlines()[1:-1]}

    def _turn_link(self, pair: Pair) -> None:
        """As Kubernetes does it: the new files lie in a folder of their own."""
        folder = self._folder / pair.certificate.stem
        folder.mkdir()
        pair.copy_to(Pair(folder / "tls.pem", folder / "tls.key"))
        turned = self._folder / "turned"
        turned.symlink_to(folder)
        turned.replace(self._link)


async def rotate(folder: Path, rotations: int, watch: Callable[[], None], broken_every: int = BROKEN_EVERY) -> Outcome:
    """Rotate a server's certificates so many times while it is called.

    Args:
        folder: Of the certificates, and of the server's log.
        rotations: How many times.
        watch: Called after each.
        broken_every: How often files that cannot be taken come first.
    """
    outcome, rotation, log = Outcome(), Rotation(folder), folder / "log"
    with _server(rotation, log) as target:
        async with _load(target, rotation.tls, outcome):
            for number in range(rotations):
                pair = await asyncio.to_thread(rotation.new)
                if number % broken_every == 0:
                    outcome.broken += 1
                    outcome.kept += await asyncio.to_thread(_keeps_the_old_one, target, rotation, pair, log)
                rotation.put(pair)
                seconds = await asyncio.to_thread(_until_shown, target, rotation.tls, pair)
                if seconds is not None:
                    outcome.taken_seconds.append(seconds)
                watch()
    secrets = rotation.secret_lines()
    outcome.secrets = sum(any(secret in line for secret in secrets) for line in log.read_text().splitlines())
    return outcome


@contextmanager
def _server(rotation: Rotation, log: Path) -> Iterator[str]:
    with (
        log.open("w") as file,
        running_sleeping_server(*rotation.flags, "--lame-duck-seconds", "0", log=file) as server,
    ):
        yield server.grpc
        assert server.terminate() == 0


@asynccontextmanager
async def _load(target: str, tls: TLS, outcome: Outcome) -> AsyncIterator[None]:
    """Callers, until the block ends; each finishes its last call, and all have made one before the block begins."""
    ending = asyncio.Event()
    begun = [asyncio.Event() for _ in range(_KEEPING + _OPENING)]

    async def call(client: AsyncClient, kind: str, first: asyncio.Event) -> None:
        try:
            await client.embed(TEXT, timeout_seconds=_PATIENCE_SECONDS)
        except HeadwaiterError as error:
            outcome.failed[f"{kind}: {error}"] += 1
        else:
            outcome.calls[kind] += 1
        first.set()

    async def keep(first: asyncio.Event) -> None:
        async with AsyncClient(target, tls=tls, retries=False) as client:
            while not ending.is_set():
                await call(client, "keeping", first)

    async def open_anew(first: asyncio.Event) -> None:
        while not ending.is_set():
            async with AsyncClient(target, tls=tls, retries=False) as client:
                await call(client, "opening", first)

    async with asyncio.TaskGroup() as group:
        for number, first in enumerate(begun):
            group.create_task(keep(first) if number < _KEEPING else open_anew(first))
        try:
            for first in begun:
                await first.wait()
            yield
        finally:
            ending.set()


def _until_shown(target: str, tls: TLS, pair: Pair) -> float | None:
    """Seconds until a certificate is shown; None if that does not come to pass."""
    awaited, began = _der(pair), time.monotonic()
    while (passed := time.monotonic() - began) < _PATIENCE_SECONDS:
        if shown_certificate(target, tls) == awaited:
            return passed
        time.sleep(_LOOK_SECONDS)
    return None


def _keeps_the_old_one(target: str, rotation: Rotation, pair: Pair, log: Path) -> bool:
    """Put broken files into the place of good ones; whether the server says so, and shows the good ones on."""
    shown, told = shown_certificate(target, rotation.tls), _refusals(log)
    rotation.break_it(pair)
    began = time.monotonic()
    while _refusals(log) == told:
        if time.monotonic() - began > _PATIENCE_SECONDS:
            return False
        time.sleep(_LOOK_SECONDS)
        shown_certificate(target, rotation.tls)
    return shown_certificate(target, rotation.tls) == shown


def _refusals(log: Path) -> int:
    events = [json.loads(line)["event"] for line in log.read_text().splitlines() if line.startswith("{")]
    return events.count(_REFUSED)


def _der(pair: Pair) -> bytes:
    return ssl.PEM_cert_to_DER_cert(pair.certificate.read_text())


def main() -> int:
    """Run the long form."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rotations", type=int, default=ROTATIONS, help="how many")
    options = parser.parse_args()
    with Progress() as progress, tempfile.TemporaryDirectory(prefix="headwaiter-tls-") as folder:
        task = progress.add_task("rotations", total=options.rotations)
        outcome = asyncio.run(rotate(Path(folder), options.rotations, lambda: progress.advance(task)))
    for why, number in outcome.failed.items():
        sys.stdout.write(f"{number} x {why}\n")
    conditions = f"{_KEEPING} callers that keep their connections, {_OPENING} that open one for each call; mutual TLS"
    return report("tls", conditions, outcome.figures(options.rotations))


if __name__ == "__main__":
    sys.exit(main())
