"""Models that nobody can call any more: each goes once its calls are answered."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from headwaiter_server.lifecycle.catalog import Catalog, ServedModel
from headwaiter_server.lifecycle.load_thread import on_load_thread
from headwaiter_server.lifecycle.making import Workshop
from headwaiter_server.lifecycle.states import Key, Known
from headwaiter_server.log import get_logger

_log = get_logger(__name__)

# A run whose callers have all gone ends soon, and tells nobody that it has.
_LAST_RUN_SECONDS = 0.005


class Drains:
    """Lets models go; on the event loop only."""

    def __init__(self, workshop: Workshop[Any], catalog: Catalog, known: Known) -> None:
        """Begin with none.

        Args:
            workshop: Takes them out of the scheduler.
            catalog: Where they could be found.
            known: Where it is noted that they have gone.
        """
        self._workshop = workshop
        self._catalog = catalog
        self._known = known
        # A version may be loaded and unloaded again before the calls of the first are answered.
        self._tasks: dict[Key, set[asyncio.Task[None]]] = {}

    def __contains__(self, key: Key) -> bool:
        """Whether a version is going."""
        return key in self._tasks

    def begin(self, model: ServedModel) -> None:
        """Let a model go that nobody can call any more, once its calls are answered."""
        key = (model.name, model.version)
        task = asyncio.get_running_loop().create_task(self._drained([model]))
        self._tasks.setdefault(key, set()).add(task)

        def ended(_: asyncio.Task[None]) -> None:
            self._tasks[key].discard(task)
            if not self._tasks[key]:
                del self._tasks[key]

        task.add_done_callback(ended)

    async def over(self, name: str) -> None:
        """Wait until every version of a model that is going has gone. They go on when this is abandoned."""
        tasks = [task for (other, _), of_version in self._tasks.items() if other == name for task in of_version]
        await asyncio.shield(asyncio.gather(*tasks))

    async def close(self) -> None:
        """Wait for nobody any more: the server ends."""
        tasks = [task for of_version in self._tasks.values() for task in of_version]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _drained(self, held: list[ServedModel]) -> None:
        """Wait until nobody works with a model, and let go of it: the list is the last to hold it."""
        await self._let_go(held[0])
        name, version = held[0].name, held[0].version
        held.clear()
        await on_load_thread(self._workshop.tidy)
        if version not in self._catalog.versions(name):
            self._known.unloaded((name, version))

    async def _let_go(self, model: ServedModel) -> None:
        began = time.monotonic()
        await model.leases.returned()
        while model.lane.running:  # noqa: ASYNC110 - see above
            await asyncio.sleep(_LAST_RUN_SECONDS)
        self._workshop.remove(model)
        self._catalog.forget(model)
        seconds = round(time.monotonic() - began, 3)
        _log.info("model_unloaded", model=model.name, version=model.version, seconds=seconds)
