"""Who still works with a model: calls from before they are tokenized until they are answered."""

from __future__ import annotations

import asyncio


class Leases:
    """Counts the calls that work with one model; implements `scheduling.admission.Kept`. On the event loop only."""

    __slots__ = ("_nobody", "count")

    def __init__(self) -> None:
        self.count = 0
        self._nobody: asyncio.Event | None = None

    def take(self) -> None:
        """See `Kept`."""
        self.count += 1

    def release(self) -> None:
        """See `Kept`."""
        self.count -= 1
        if not self.count and self._nobody is not None:
            self._nobody.set()

    async def returned(self) -> None:
        """Wait until nobody works with it; whoever waits has seen to it that nobody new comes."""
        if self.count:
            self._nobody = asyncio.Event()
            await self._nobody.wait()
