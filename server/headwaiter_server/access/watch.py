"""Watches the access file: what it says counts within about a second, and a broken one changes nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from headwaiter_server.access.clients import Clients
from headwaiter_server.access.file import read_clients
from headwaiter_server.access.gate import Gate
from headwaiter_server.log import get_logger
from headwaiter_server.rereading import LOOK_SECONDS, Reread

_log = get_logger(__name__)


class AccessWatch:
    """Reads the file at the start, and again whenever it has changed; beside the calls, none of which waits for it.

    Attributes:
        gate: Lets in whom the file names.
    """

    def __init__(self, path: Path, *, health_open: bool, clock: Callable[[], float] = time.monotonic) -> None:
        """Read the file for the first time.

        Args:
            path: The file.
            health_open: See `Gate`.
            clock: See there.

        Raises:
            ConfigError: It cannot be used.
        """
        self._before: Clients | None = None
        self._file = Reread("the access file", [path], lambda: read_clients(path, self._before))
        self._before = self._file.current()
        self.gate = Gate(self._before, health_open=health_open, clock=clock)

    @property
    def failing(self) -> bool:
        """Whether the file holds what cannot be taken, and what it said before is in force."""
        return self._file.failing

    async def run(self) -> None:
        """Look for ever."""
        while True:
            # A little more than the file's own patience, so that every turn looks.
            await asyncio.sleep(LOOK_SECONDS * 1.05)
            await self.look()

    async def look(self) -> None:
        """Look once, on a thread, as the disk may be slow; what has changed counts from the next call on."""
        try:
            clients = await asyncio.to_thread(self._file.current)
        except Exception:  # noqa: BLE001 - as said below
            # A bug must not end the watch: who is let in now would be for ever.
            _log.exception("access_file_watch_broken")
            return
        if clients is not self.gate.clients:
            self._before = self.gate.clients = clients
