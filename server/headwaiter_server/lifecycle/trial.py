"""First loads: a model that this machine does not know is built in a process of its own before the server builds it.

A model may crash onnxruntime, hang it, or take all memory. Then it does that there, and is refused like any other that
cannot serve.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from typing import Protocol

from headwaiter_server.config import AUTO, ServerSettings, user_cache_folder
from headwaiter_server.cpu import describe_cpus
from headwaiter_server.errors import BundleError
from headwaiter_server.lifecycle.building import digest_of
from headwaiter_server.lifecycle.load_thread import on_load_thread
from headwaiter_server.lifecycle.memory import TRIAL_PROCESS_BYTES, memory_limit_bytes, room_bytes
from headwaiter_server.lifecycle.repository import BundleLocation
from headwaiter_server.lifecycle.trial_host import TrialHost, TrialReport
from headwaiter_server.lifecycle.trial_records import TrialMachine, TrialRecords
from headwaiter_server.lifecycle.trying import DOING, NO_MEMORY, REFUSED, SAID, TRIED, tells_of_memory
from headwaiter_server.log import get_logger

_log = get_logger(__name__)

# Each takes memory like the model that it tries; and one that hangs should not keep all others waiting.
_AT_A_TIME = 2
# The process in which models are tried costs about a second to start, and memory to keep: `TRIAL_PROCESS_BYTES`.
_IDLE_SECONDS = 10.0
# It ends late trials itself, once it is up.
_BACKSTOP_SECONDS = 30.0


class Check(Protocol):
    """What tries models before they are loaded."""

    async def check(self, location: BundleLocation, variant: str) -> str:
        """Try a model, if it has not been tried before.

        Args:
            location: Where it lies.
            variant: Which variant of its weights.

        Returns:
            The digest of what was tried: what is loaded then must have the same. Empty if nothing was.

        Raises:
            BundleError: It is not fit to serve; the message says why.
        """
        ...

    async def close(self) -> None:
        """End what may still be tried."""
        ...


class NoTrials:
    """Lets every model be loaded untried; implements `Check`."""

    async def check(self, location: BundleLocation, variant: str) -> str:  # noqa: ARG002 - as `Check` has it
        """See `Check`."""
        return ""

    async def close(self) -> None:
        """See `Check`."""


class Trials:
    """Tries models in a process of their own; implements `Check`. On the event loop only."""

    def __init__(
        self, *, limit_seconds: float, threads: int, room_bytes: Callable[[], int], records: TrialRecords
    ) -> None:
        """Start nothing yet.

        Args:
            limit_seconds: What one trial may take.
            threads: Of a run, as it will serve.
            room_bytes: Memory that there is now for one more model.
            records: Those that need not be tried again.
        """
        self._limit_seconds = limit_seconds
        self._threads = threads
        self._room_bytes = room_bytes
        self._records = records
        self._slots = asyncio.Semaphore(_AT_A_TIME)
        self._starting = asyncio.Lock()
        self._host: TrialHost | None = None
        self._running = 0
        self._idle: asyncio.TimerHandle | None = None
        self._closing: set[asyncio.Task[None]] = set()

    async def check(self, location: BundleLocation, variant: str) -> str:
        """See `Check`. If this is cancelled, the trial ends."""
        try:
            # Not on a thread that tokenizes for callers: a bare file may take seconds.
            digest = await on_load_thread(partial(digest_of, location))
        except BundleError:
            raise
        except Exception as error:
            # A folder that may not be entered, a configuration that no parser foresaw.
            raise BundleError(f"{location.folder} cannot be read", error) from error
        if await asyncio.to_thread(self._records.has, digest, variant):
            return digest
        digest = await self._try(location, variant)
        _log.info("model_tried", model=location.name, version=location.version, variant=variant)
        await asyncio.to_thread(self._records.add, digest, variant)
        return digest

    async def _try(self, location: BundleLocation, variant: str) -> str:
        """Have a model built; the digest of its files."""
        async with self._slots:
            self._running += 1
            memory_bytes = self._room_bytes()
            try:
                host = await self._started()
                report = await host.run(
                    {
                        "name": location.name,
                        "version": location.version,
                        "folder": str(location.folder),
                        "variant": variant,
                        "threads": self._threads,
                        "seconds": self._limit_seconds,
                        "memory_bytes": memory_bytes,
                    },
                    self._limit_seconds + _BACKSTOP_SECONDS,
                )
            except BundleError as error:
                raise error.within(location.folder) from error
            finally:
                self._running -= 1
                self._rest()
        last = report.steps[-1] if report.steps else {}
        if REFUSED in last:  # which says where
            raise BundleError(last[REFUSED], last.get(SAID, ""))
        if NO_MEMORY in last or (os.WIFSIGNALED(report.status) and tells_of_memory(report.said)):
            raise BundleError(f"{location.folder}: it does not fit into the {memory_bytes >> 20} MiB left for it")
        if TRIED not in last:
            doing = last.get(DOING, "its process started")
            raise BundleError(f"{location.folder}: {_ending(report, self._limit_seconds)} while {doing}", report.said)
        return last[TRIED]

    async def close(self) -> None:
        """End the process in which models are tried."""
        self._retire()
        await asyncio.gather(*self._closing)

    async def _started(self) -> TrialHost:
        async with self._starting:
            if self._idle is not None:
                self._idle.cancel()
                self._idle = None
            if self._host is not None and self._host.ended:
                self._retire()
            if self._host is None:
                self._host = await TrialHost.start()
            return self._host

    def _rest(self) -> None:
        """End the process if nobody needs it for a while."""
        if not self._running and self._host is not None and self._idle is None:
            self._idle = asyncio.get_running_loop().call_later(_IDLE_SECONDS, self._retire)

    def _retire(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        host, self._host = self._host, None
        if host is not None:
            task = asyncio.get_running_loop().create_task(host.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)


def open_trials(settings: ServerSettings, runtime_version: str) -> Check:
    """What tries models before they are loaded, as the settings have it.

    Args:
        settings: The settings.
        runtime_version: Of onnxruntime.
    """
    if settings.trial_loads == "off":
        return NoTrials()
    limit = memory_limit_bytes(settings)
    folder = user_cache_folder() if settings.calibration_cache == AUTO else settings.calibration_cache
    machine = TrialMachine(describe_cpus(), runtime_version, version("headwaiter"))
    return Trials(
        limit_seconds=settings.load_timeout_seconds,
        threads=settings.effective_threads_per_run,
        room_bytes=lambda: max(0, room_bytes(limit) - TRIAL_PROCESS_BYTES),
        records=TrialRecords([] if folder is None else [folder], machine),
    )


def _ending(report: TrialReport, limit_seconds: float) -> str:
    """How a trial ended that did not say what came of it, in words for whoever runs the server."""
    if report.late:
        return f"it was not ready within {limit_seconds:g} s (--load-timeout-seconds allows more), and was ended"
    number = os.WTERMSIG(report.status) if os.WIFSIGNALED(report.status) else 0
    if number == signal.SIGXCPU:
        return "it took more processor time than is allowed, and was ended"
    if number == signal.SIGKILL:
        return "the process in which it was tried was killed, most likely for want of memory,"
    how = f"crashed ({signal.strsignal(number)})" if number else "ended"
    return f"the process in which it was tried {how}"
