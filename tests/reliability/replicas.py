"""Sleeping servers that come back at their own address, and whose answers say which of them gave them."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from e2e.process import ServerProcess
from headwaiter_proto.v1 import inference_pb2

from .sleeping_server import MODEL, ONE_BY_ONE, TEXT, running_sleeping_server, write_sleeper

REQUEST: Final = inference_pb2.EmbedRequest(texts=[TEXT]).SerializeToString()
# Below the ports that systems give to those who call: nobody else's call takes a replica's port while it is away.
_PORTS = range(20_000, 32_000)
# Some are given out long before anybody listens there.
_given: set[int] = set()
# Of the log, told when a server does not start.
_LOG_CHARACTERS = 2000


class Replica:
    """One of several servers with the same model; each has it as a version of its own.

    Attributes:
        number: Which one it is, and the version that its answers name.
        address: Where it is, also after it was started again.
        server: Its process; that of the last start when it does not run.
    """

    server: ServerProcess

    def __init__(self, number: int, folder: Path, *flags: str, through: Sequence[str] = ()) -> None:
        """Set up, start nothing.

        Args:
            number: Which one it is, from 1.
            folder: Where its model repository is written.
            flags: Of headwaiter-server.
            through: A command that becomes the server.
        """
        self.number = number
        self.address = f"127.0.0.1:{free_port()}"
        repository = folder / f"replica-{number}"
        write_sleeper(repository)
        version = repository / MODEL / "1"
        version.rename(version.with_name(str(number)))
        self._flags = ("--models", str(repository), "--listen", self.address, *ONE_BY_ONE, *flags)
        self._through = through
        self._log = folder / f"replica-{number}.log"
        self._running = ExitStack()

    def start(self) -> None:
        """Start it, and wait until it is ready."""
        self._running.close()
        log = self._running.enter_context(self._log.open("a"))
        try:
            self.server = self._running.enter_context(
                running_sleeping_server(*self._flags, log=log, through=self._through)
            )
        except AssertionError as error:
            error.add_note(self._log.read_text()[-_LOG_CHARACTERS:])
            raise

    def kill(self) -> None:
        """End it at once, if it runs."""
        self._running.close()


@contextmanager
def running_replicas(count: int, folder: Path, *flags: str, through: Sequence[str] = ()) -> Iterator[list[Replica]]:
    """Replicas that serve, started one beside the other; killed in the end. For the arguments see `Replica`."""
    replicas = [Replica(number, folder, *flags, through=through) for number in range(1, count + 1)]
    with ExitStack() as stack:
        for replica in replicas:
            stack.callback(replica.kill)
        start_together(replicas)
        yield replicas


def start_together(replicas: Sequence[Replica]) -> None:
    """Start replicas, one beside the other, and wait until all are ready."""
    with ThreadPoolExecutor(len(replicas)) as threads:
        list(threads.map(Replica.start, replicas))


def free_port() -> int:
    """A port that nobody listens on, that no system gives to those who call, and that was not given out before."""
    while True:
        port = random.choice(_PORTS)
        if port in _given:
            continue
        _given.add(port)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port
