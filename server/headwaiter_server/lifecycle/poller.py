"""Watches the model repository: what has changed there and lies still is loaded, what has gone is unloaded."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

from headwaiter_server.errors import OverloadedError, RequestError
from headwaiter_server.lifecycle.repository import ModelFolder, scan
from headwaiter_server.log import get_logger

_log = get_logger(__name__)


class Poller:
    """Looks at the repository again and again.

    Exports are renamed into place, but other files may be copied slowly. A folder counts once two looks in a row have
    found the same names, sizes and times in it.
    """

    def __init__(
        self,
        repository: Path,
        seconds: float,
        found: Iterable[ModelFolder],
        reconcile: Callable[[str], Awaitable[None]],
    ) -> None:
        """Look at nothing yet.

        Args:
            repository: The repository.
            seconds: Between two looks.
            found: What is known of it.
            reconcile: Has a model serve as the repository says, by its name.
        """
        self._repository = repository
        self._seconds = seconds
        self._reconcile = reconcile
        self._done = {folder.name: folder for folder in found}
        self._seen = dict(self._done)
        self._acting: set[str] = set()
        self._readable = True

    async def run(self) -> None:
        """Look for ever. A model that takes its time, to load or to go, keeps no other waiting."""
        async with asyncio.TaskGroup() as group:
            while True:
                await asyncio.sleep(self._seconds)
                for name in await self._changed():
                    group.create_task(self._act(name))

    async def look(self) -> None:
        """Look once, and wait for what is to be done."""
        await asyncio.gather(*(self._act(name) for name in await self._changed()))

    async def _changed(self) -> list[str]:
        """Look; the models that have changed, lie still, and wait for nothing else. Each is to be acted upon."""
        try:
            folders = await asyncio.to_thread(scan, self._repository)
        except Exception as error:  # noqa: BLE001 - whatever it is, the next look may find it gone
            # Perhaps a disk that is away for a moment: what serves goes on.
            if self._readable:
                _log.error("repository_unreadable", reason=str(error))
            self._readable = False
            return []
        self._readable = True
        seen, self._seen = self._seen, {folder.name: folder for folder in folders}
        names = (self._seen.keys() | self._done.keys()) - self._acting
        changed = [name for name in names if self._seen.get(name) != self._done.get(name)]
        still = [name for name in sorted(changed) if self._seen.get(name) == seen.get(name)]
        self._acting.update(still)
        return still

    async def _act(self, name: str) -> None:
        folder = self._seen.get(name)
        try:
            await self._reconcile(name)
        except OverloadedError:
            return  # it is tried again
        except RequestError:
            pass  # logged where it was found out; it is not tried again until something changes
        except Exception:  # noqa: BLE001 - a bug, which must not end the watch over all other models
            _log.exception("reconcile_broken", model=name)
        finally:
            self._acting.discard(name)
        if folder is None:
            self._done.pop(name, None)
        else:
            self._done[name] = folder
