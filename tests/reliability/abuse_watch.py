"""What an attack does to a server and to its good callers: steady calls, memory, and how late the event loop is."""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import grpc
from e2e.process import ServerProcess, running_server
from headwaiter import Client, HeadwaiterError
from reliability.sleeping_server import MODEL, TEXT, write_sleeper

ROOT = Path(__file__).resolve().parents[2]
_PAGE_BYTES = 4096
_LOOK_SECONDS = 0.02
_CALL_SECONDS = 10.0
_PAUSE_SECONDS = 0.01


@dataclass
class AbusedServer:
    """A server that is attacked.

    Attributes:
        process: The server.
        lags: The file in which it writes down how late its event loop was.
    """

    process: ServerProcess
    lags: Path

    @property
    def target(self) -> str:
        """HOST:PORT."""
        return self.process.grpc

    @property
    def resident_mb(self) -> float:
        """Memory that it holds."""
        pages = Path(f"/proc/{self.process.process.pid}/statm").read_text(encoding="utf-8").split()[1]
        return int(pages) * _PAGE_BYTES / 1e6

    def longest_lag(self, began: float, ended: float) -> float:
        """By how many seconds its event loop was late at the most, between two times of the monotonic clock."""
        found = 0.0
        for line in self.lags.read_text(encoding="utf-8").splitlines():
            when, _, late = line.partition(" ")
            # The last line may be in the middle of being written.
            if late and began <= float(when) <= ended:
                found = max(found, float(late))
        return found


@contextmanager
def abused_server(models: Path, log: IO[str] | None = None) -> Iterator[AbusedServer]:
    """A server on free ports with a small encoder and the models of another repository.

    Args:
        models: The repository.
        log: Where its log goes, if not to stderr.
    """
    with tempfile.TemporaryDirectory(prefix="headwaiter-abuse-") as folder:
        repository, lags = Path(folder) / "models", Path(folder) / "lags"
        repository.mkdir()
        write_sleeper(repository)
        for model in models.iterdir():
            (repository / model.name).symlink_to(model.resolve())
        command = [sys.executable, str(ROOT / "tests" / "reliability" / "abuse_server.py"), "--lags", str(lags)]
        # Everything that may be asked for at all.
        flags = (
            "--models",
            str(repository),
            "--model-control",
            "explicit",
            "--shared-memory",
            "on",
            "--lame-duck-seconds",
            "0",
        )
        with running_server(*flags, log=log, command=command) as process:
            yield AbusedServer(process, lags)


@dataclass
class Window:
    """What was seen for a while.

    Attributes:
        seconds: How long each good call took.
        errors: What good calls ended with that should not have.
        peak_mb: The most memory that the server held.
    """

    seconds: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    peak_mb: float = 0.0

    def quantile(self, share: float) -> float:
        """The time within which so large a share of the good calls was answered."""
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("inf")


@contextmanager
def watched(server: AbusedServer) -> Iterator[Window]:
    """Make steady calls on a connection of their own, and look at memory, as long as the block lasts."""
    window, over = Window(), threading.Event()
    threads = [threading.Thread(target=work, args=(server, window, over), daemon=True) for work in (_call, _look)]
    for thread in threads:
        thread.start()
    try:
        yield window
    finally:
        over.set()
        for thread in threads:
            thread.join()


def wait_until(condition: Callable[[], bool], seconds: float) -> float | None:
    """Wait until something holds.

    Returns:
        How long that took; None if it does not hold after so many seconds.
    """
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > seconds:
            return None
        time.sleep(_LOOK_SECONDS)
    return time.monotonic() - began


def send(server: AbusedServer, method: str, data: bytes, *, streamed: bool = False) -> str:
    """Send raw bytes as a message.

    Args:
        server: Where to.
        method: `/package.Service/Method`.
        data: The message.
        streamed: Whether the method reads and writes streams.

    Returns:
        The name of the status; "OK" too for an answer on a stream that says what is wrong.
    """
    with grpc.insecure_channel(server.target, options=[("grpc.max_send_message_length", -1)]) as channel:
        one: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(method)
        many: grpc.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(method)
        try:
            if streamed:
                next(many(iter([data]), timeout=_CALL_SECONDS))
            else:
                one(data, timeout=_CALL_SECONDS)
        except grpc.RpcError as error:
            return str(error.code().name)
    return "OK"


def _call(server: AbusedServer, window: Window, over: threading.Event) -> None:
    with Client(server.target) as client:

        def answer() -> list[float]:
            return list(client.embed(TEXT, model=MODEL, timeout_seconds=_CALL_SECONDS).vectors[0])

        try:
            expected = answer()
        except HeadwaiterError as error:
            window.errors.append(f"at first: {error!r}")
            return
        while not over.is_set():
            began = time.perf_counter()
            try:
                if answer() != expected:
                    window.errors.append("another answer")
            except HeadwaiterError as error:
                window.errors.append(repr(error))
            window.seconds.append(time.perf_counter() - began)
            over.wait(_PAUSE_SECONDS)


def _look(server: AbusedServer, window: Window, over: threading.Event) -> None:
    while not over.is_set():
        window.peak_mb = max(window.peak_mb, server.resident_mb)
        over.wait(_LOOK_SECONDS)
