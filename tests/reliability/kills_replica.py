"""A server process that is killed and started again, always at the same addresses; and what it leaves behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.request import urlopen

import psutil
from e2e.process import COMMAND, environment
from reliability.replicas import free_port

_READY = re.compile(rb"ready grpc=\S+ metrics=(\S+) ")
_STARTED = b"headwaiter_requests_started_total{"
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - looked at
_READY_SECONDS = 120.0
_GONE_SECONDS = 30.0
_SCRAPE_SECONDS = 30.0


@dataclass
class Replica:
    """One of the servers behind a service.

    Attributes:
        folder: All that is its own: models, socket, what it keeps, its temporary files, its log.
        port: Of its gRPC service.
        flags: Of the command, beside addresses and models.
        process: It, while it runs.
        shared: Names of shared memory that it, or what it had started, held when it was killed.
        metrics: Where its metrics are, once it is ready.
        started: When it was started last.
        gone_seconds: The longest time that what it had started was there after it was killed.
    """

    folder: Path
    flags: tuple[str, ...] = ()
    port: int = field(default_factory=free_port)
    process: Process | None = None
    shared: set[str] = field(default_factory=set)
    metrics: str = ""
    started: float = 0.0
    gone_seconds: float = 0.0

    @property
    def models(self) -> Path:
        """Its model repository."""
        return self.folder / "models"

    @property
    def kept(self) -> Path:
        """What it has found out before."""
        return self.folder / "kept"

    @property
    def unix(self) -> Path:
        """The socket at which it listens, beside its port."""
        return self.folder / "it.sock"

    @property
    def temporary(self) -> Path:
        """Where it would put temporary files."""
        return self.folder / "tmp"

    async def start(self) -> None:
        """Start it; not ready yet."""
        self.temporary.mkdir(parents=True, exist_ok=True)
        with (self.folder / "log.txt").open("ab") as log:
            self.started = time.monotonic()
            self.process = await asyncio.create_subprocess_exec(
                *COMMAND,
                *("--models", str(self.models), "--calibration-cache", str(self.kept)),
                *("--listen", f"127.0.0.1:{self.port}", "--listen", f"unix:{self.unix}"),
                *("--metrics-listen", "127.0.0.1:0", *self.flags),
                env=environment() | {"TMPDIR": str(self.temporary), "PYTHONUNBUFFERED": "1"},
                stdout=PIPE,
                stderr=log,
            )

    async def ready(self) -> float:
        """Wait until it is; the seconds since it was started.

        Raises:
            RuntimeError: It has ended instead.
        """
        assert self.process is not None
        assert self.process.stdout is not None
        async with asyncio.timeout(_READY_SECONDS):
            line = await self.process.stdout.readline()
        match = _READY.match(line)
        if match is None:
            raise RuntimeError(f"{self.folder.name} ended before it was ready; its log is {self.folder}/log.txt")
        self.metrics = match[1].decode()
        return time.monotonic() - self.started

    async def kill(self) -> list[psutil.Process]:
        """Kill it, and nothing else.

        Returns:
            What it had started and is still there after a while.
        """
        assert self.process is not None
        family: list[psutil.Process] = []
        with contextlib.suppress(psutil.NoSuchProcess):
            family = psutil.Process(self.process.pid).children(recursive=True)
        for pid in (self.process.pid, *(each.pid for each in family)):
            self.shared |= _shared_memory(pid)
        self.process.send_signal(signal.SIGKILL)
        await self.process.wait()
        killed = time.monotonic()
        while (alive := [each for each in family if _alive(each)]) and time.monotonic() < killed + _GONE_SECONDS:
            await asyncio.sleep(0.01)
        self.gone_seconds = max(self.gone_seconds, time.monotonic() - killed)
        return alive

    def children(self) -> int:
        """Processes that it has started, and theirs."""
        assert self.process is not None
        try:
            return len(psutil.Process(self.process.pid).children(recursive=True))
        except psutil.NoSuchProcess:
            return 0

    async def calls(self) -> float:
        """Calls that have come in since it was started."""
        return await asyncio.to_thread(self._calls)

    def _calls(self) -> float:
        with urlopen(f"http://{self.metrics}/metrics", timeout=_SCRAPE_SECONDS) as page:
            return sum(float(line.split()[-1]) for line in page if line.startswith(_STARTED))

    def litter(self) -> list[str]:
        """Files, and names of shared memory, that have no business to be there."""
        stray = [str(path) for path in self.temporary.rglob("*")]
        stray += [str(path) for path in self.folder.rglob("*.tmp")]
        return stray + [name for name in sorted(self.shared) if Path(name).exists()]

    async def terminate(self) -> int:
        """SIGTERM; the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return await self.process.wait()


def _shared_memory(pid: int) -> set[str]:
    """Names of the shared memory that a process has mapped or open: its own, whoever else makes some meanwhile."""
    names = set[str]()
    with contextlib.suppress(OSError):  # it ends in this moment
        names.update(
            line.partition(f"{_SHARED_MEMORY}/")[2] for line in Path(f"/proc/{pid}/maps").read_text().splitlines()
        )
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                names.add(os.readlink(link).partition(f"{_SHARED_MEMORY}/")[2])  # noqa: PTH115 - text: what is gone has no path
    return {str(_SHARED_MEMORY / name) for name in names if name and not name.endswith(" (deleted)")}


def _alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@contextlib.asynccontextmanager
async def ended(*replicas: Replica) -> AsyncIterator[None]:
    """Have none of them run in the end, whatever happens."""
    try:
        yield
    finally:
        for each in replicas:
            if each.process is not None and each.process.returncode is None:
                await each.kill()
                each.process = None
