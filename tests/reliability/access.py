"""Tokens are rotated again and again while clients call; roles and quotas hold to the letter.

    python tests/reliability/access.py [--rotations 100]

Each rotation goes as docs/access.md says: a new token beside the old one, clients change, the old one goes. Quotas are
counted from outside, against a client that sends as much as it can.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]  # run as a file, from anywhere

import grpc  # noqa: E402 - after the path is set
from headwaiter_server.access.roles import METHOD_ROLES, Role  # noqa: E402
from headwaiter_server.access.tokens import new_token  # noqa: E402
from reliability.access_calls import EMBED, METHODS, OK, bearer, code_of, connected, embed_request  # noqa: E402
from reliability.figures import Figure, report  # noqa: E402
from reliability.sleeping_server import running_sleeping_server  # noqa: E402
from rich.progress import Progress  # noqa: E402
from unit.server.access_files import client, write_access  # noqa: E402

_CALLERS = 8
_PAUSE_SECONDS = 0.005
_LOOK_SECONDS = 0.05
_PATIENCE_SECONDS = 20.0
# A look each second, and what a busy machine takes beside.
_MOST_SECONDS = 3.0
_QUOTA = 50.0
_BURST = 20
_QUOTA_SECONDS = 10.0
_REFUSED = "UNAUTHENTICATED"


@dataclass
class Seen:
    """What became of calls.

    Attributes:
        answered: How many were answered.
        failed: Codes of those that were not.
        waits: From when a file was written to when it counted, in seconds.
    """

    answered: int = 0
    failed: list[str] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)


class Rotation:
    """Clients that call, and the file that says with which token."""

    def __init__(self, target: str, path: Path, token: str) -> None:
        self.seen = Seen()
        self._token = token
        self._path = path
        self._channel = grpc.aio.insecure_channel(target, [("grpc.enable_retries", 0)])
        self._embed: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(f"/{EMBED}")

    async def run(self, rotations: int, done: Callable[[], None]) -> Seen:
        """Rotate the token while clients call."""
        callers = [asyncio.create_task(self._call_for_ever()) for _ in range(_CALLERS)]
        for _ in range(rotations):
            await self._rotate()
            done()
        for caller in callers:
            caller.cancel()
        await asyncio.gather(*callers, return_exceptions=True)
        await self._channel.close()
        return self.seen

    async def _rotate(self) -> None:
        old, new = self._token, new_token()
        await self._write([old, new], lambda: self._is(new, OK))
        self._token = new
        # Calls with the old one that are under way are over before it goes.
        await asyncio.sleep(_LOOK_SECONDS)
        await self._write([new], lambda: self._is(old, _REFUSED))

    async def _write(self, tokens: list[str], counts: Callable[[], Awaitable[bool]]) -> None:
        write_access(self._path, client("rotating", *tokens))
        written = time.monotonic()
        while not await counts():
            assert time.monotonic() - written < _PATIENCE_SECONDS, "the server does not read its file"
            await asyncio.sleep(_LOOK_SECONDS)
        self.seen.waits.append(time.monotonic() - written)

    async def _is(self, token: str, code: str) -> bool:
        return await self._call(token) == code

    async def _call(self, token: str) -> str:
        try:
            await self._embed(embed_request(), metadata=bearer(token), timeout=_PATIENCE_SECONDS)
        except grpc.aio.AioRpcError as error:
            return error.code().name
        return OK

    async def _call_for_ever(self) -> None:
        while True:
            code = await self._call(self._token)
            if code == OK:
                self.seen.answered += 1
            else:
                self.seen.failed.append(code)
            await asyncio.sleep(_PAUSE_SECONDS)


def rotate(rotations: int, done: Callable[[], None]) -> list[Figure]:
    """Rotate tokens under load."""
    with tempfile.TemporaryDirectory(prefix="headwaiter-access-") as folder:
        token = new_token()
        path = write_access(Path(folder) / "access.toml", client("rotating", token))
        with running_sleeping_server("--access-file", str(path), "--log-level", "error", run_seconds=0.001) as server:

            async def run() -> Seen:
                return await Rotation(server.grpc, path, token).run(rotations, done)

            seen = asyncio.run(run())
    slowest = max(seen.waits)
    return [
        Figure("rotations of tokens under load", rotations),
        Figure("calls meanwhile", seen.answered + len(seen.failed)),
        Figure("of these failed", len(seen.failed), aim="0", reached=not seen.failed),
        Figure(
            "from writing the file until it counts, at most",
            slowest,
            "s",
            aim=f"{_MOST_SECONDS:g}",
            reached=slowest <= _MOST_SECONDS,
        ),
    ]


def hold(done: Callable[[], None]) -> list[Figure]:
    """Ask every method for every role, and send more than a quota."""
    tokens = {role.value: new_token() for role in Role} | {"quota": new_token()}
    clients = [client(role, tokens[role], roles=f'"{role}"') for role in Role]
    more = f"max_calls_per_second = {_QUOTA}\ncalls_burst = {_BURST}"
    with tempfile.TemporaryDirectory(prefix="headwaiter-access-") as folder:
        path = write_access(Path(folder) / "access.toml", *clients, client("quota", tokens["quota"], more=more))
        flags = ("--access-file", str(path), "--health-access", "closed", "--log-level", "error")
        with running_sleeping_server(*flags, run_seconds=0.001) as server, connected(server.grpc) as channel:
            wrong = sum(code_of(channel, method) != _REFUSED for method in METHODS)
            for role in Role:
                denied = {method for method in METHODS if role not in METHOD_ROLES[method]}
                for method in METHODS:
                    told = code_of(channel, method, bearer(tokens[role])) == "PERMISSION_DENIED"
                    wrong += told != (method in denied)
            done()
            began, codes = time.monotonic(), list[str]()
            while time.monotonic() - began < _QUOTA_SECONDS:
                codes.append(code_of(channel, EMBED, bearer(tokens["quota"]), embed_request()))
            allowed = _BURST + _QUOTA * (time.monotonic() - began)
            done()
    ratio = codes.count(OK) / allowed
    return [
        Figure("methods", len(METHODS)),
        Figure("wrong answers of these to no token and to each role", wrong, aim="0", reached=not wrong),
        Figure(f"calls against a quota of {_QUOTA:g} a second and {_BURST} at once", len(codes)),
        Figure("let in, of what the quota allows", ratio, aim="0.95 to 1", reached=0.95 <= ratio <= 1),
    ]


def main() -> int:
    """Measure, and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rotations", type=int, default=100, help="of a token, under load")
    options = parser.parse_args()
    with Progress() as progress:
        task = progress.add_task("rotating", total=options.rotations + 2)

        def done() -> None:
            progress.advance(task)

        figures = [*rotate(options.rotations, done), *hold(done)]
    return report("access", f"{_CALLERS} callers in a closed loop, tokens in an access file", figures)


if __name__ == "__main__":
    sys.exit(main())
