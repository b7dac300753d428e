"""Operations on models, those on one model one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable

from headwaiter_server.errors import DrainingError, QueueFullError
from headwaiter_server.scheduling.admission import RETRY_SECONDS

# A caller may ask for as many as it likes; each that waits is a task.
_MOST_WAITING = 1024


class Turns:
    """Gives operations their turn. They go on when whoever asked for them has gone, and end with the server."""

    def __init__(self) -> None:
        self._locks: dict[str, asyncio.Lock] = {}
        # Of each model, the latest operation that has not begun.
        self._latest: dict[str, tuple[Hashable, asyncio.Task[None]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    async def take(self, name: str, what: Hashable, operate: Callable[[], Awaitable[None]]) -> None:
        """Do an operation when all earlier ones on the same model are over.

        Whoever asks for the same as the one before, while that waits, shares its turn.

        Args:
            name: Of the model.
            what: Tells operations on it apart.
            operate: Does it; what it raises reaches everybody who asked.

        Raises:
            DrainingError: The server is shutting down.
            QueueFullError: Very many wait already.
        """
        if self._closed:
            raise DrainingError("the server is shutting down", RETRY_SECONDS)
        latest = self._latest.get(name)
        if latest is not None and latest[0] == what:
            task = latest[1]
        elif len(self._tasks) >= _MOST_WAITING:
            raise QueueFullError(f"{_MOST_WAITING} loads and unloads are waiting already", RETRY_SECONDS)
        else:
            task = asyncio.get_running_loop().create_task(self._operate(name, operate))
            self._latest[name] = what, task
            self._tasks.add(task)
            task.add_done_callback(self._ended)
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            if not task.cancelled():  # it is the caller who has gone
                raise
            raise DrainingError("the server is shutting down", RETRY_SECONDS) from None

    async def close(self) -> None:
        """End what is under way, refuse what waits and what comes."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _operate(self, name: str, operate: Callable[[], Awaitable[None]]) -> None:
        lock = self._locks.setdefault(name, asyncio.Lock())
        async with lock:
            latest = self._latest.get(name)
            if latest is not None and latest[1] is asyncio.current_task():
                del self._latest[name]
            await operate()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever asked may have gone; it is logged where it happened
        if not self._tasks:
            self._locks.clear()
            self._latest.clear()
