"""Whether a model's largest runs, on all workers at one time, fit into the memory that the server may take.

A server that is killed in its busiest minute is worse than one that does not start: the check is made at load.
"""

from __future__ import annotations

import functools
import os
import resource
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from headwaiter_server.config import AUTO, ServerSettings
from headwaiter_server.cpu import CGROUP_ROOT, OWN_CGROUP, own_cgroups, read_text
from headwaiter_server.errors import BundleError
from headwaiter_server.log import get_logger

_log = get_logger(__name__)

_OWN_PAGES = Path("/proc/self/statm")
_MACHINE_MEMORY = Path("/proc/meminfo")
# Calls and their texts need room, too, and malloc keeps what it was given back: beyond this part of the limit it is
# said how near the limit is.
_COMFORTABLE_PART = 0.8
# What the process in which models are tried takes, for some seconds after a trial. Containers count it in.
TRIAL_PROCESS_BYTES = 96 << 20
_REMEDY = "lower --workers, --max-batch-tokens or the model's longest text"


def container_limit_bytes(cgroup_root: Path = CGROUP_ROOT, own_cgroup: Path = OWN_CGROUP) -> int | None:
    """Memory that this process's cgroups allow.

    Args:
        cgroup_root: Where the cgroup file system is mounted.
        own_cgroup: The file that names this process's cgroups.

    Returns:
        The tightest limit from its own cgroup up to the root; None if the machine's memory is the only one.
    """
    limits = [
        int(text)
        for folder in own_cgroups("memory", cgroup_root, own_cgroup)
        for name in ("memory.max", "memory.limit_in_bytes")  # cgroup v2 and v1
        if (text := read_text(folder / name).strip()).isdecimal()
    ]
    # v1 has no word for "no limit": it says a number beyond any machine's memory.
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min((limit for limit in limits if limit < machine), default=None)


def memory_limit_bytes(settings: ServerSettings) -> int | None:
    """Memory that this process may take; None for no limit but the machine's."""
    return container_limit_bytes() if settings.memory_limit_bytes == AUTO else settings.memory_limit_bytes


def resident_bytes() -> int:
    """Memory that this process holds now."""
    # Asked for most where descriptors may run out: the file stays open.
    return int(os.pread(_pages_of(os.getpid()), 100, 0).split()[1]) * resource.getpagesize()


@functools.cache
def _pages_of(_process: int) -> int:
    # By its number, as a forked process has its parent's open files.
    return os.open(_OWN_PAGES, os.O_RDONLY | os.O_CLOEXEC)


def room_bytes(limit_bytes: int | None, machine: Path = _MACHINE_MEMORY) -> int:
    """Memory that may be taken now beyond what this process holds.

    Args:
        limit_bytes: Most that the process may hold; None for no limit but the machine's.
        machine: The kernel's description of the machine's memory.
    """
    rooms = [int(line.split()[1]) << 10 for line in read_text(machine).splitlines() if line.startswith("MemAvailable:")]
    if limit_bytes is not None:
        rooms.append(limit_bytes - resident_bytes())
    return max(0, min(rooms, default=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")))


@dataclass(slots=True, eq=False)
class MemoryShare:
    """One model's part in a `MemoryPlan`.

    Attributes:
        expected_bytes: What its largest runs will take beyond what the process holds.
    """

    expected_bytes: int


class MemoryPlan:
    """What the loaded models hold and will take more in their largest runs, against the limit.

    Shares are counted in by whoever loads models, and out on another thread.

    Attributes:
        limit_bytes: Most that the process may hold; None for no limit.
    """

    def __init__(self, limit_bytes: int | None, resident: Callable[[], int] = resident_bytes) -> None:
        """Begin with no model.

        Args:
            limit_bytes: Most that the process may hold; None for no limit.
            resident: What it holds when asked.
        """
        self.limit_bytes = limit_bytes
        self._resident = resident
        self._shares: list[MemoryShare] = []
        self._seen_bytes: int | None = None

    def look(self) -> None:
        """Take note of what the process holds, before a model is loaded and after one has gone.

        By what it has grown since the last time, the runs of the loaded models have come nearer to what was expected of
        them: it is not to be expected once more.
        """
        held = self._resident()
        grown = 0 if self._seen_bytes is None else max(0, held - self._seen_bytes)
        shares = list(self._shares)
        expected = sum(each.expected_bytes for each in shares)
        if expected:
            left = max(0.0, 1 - grown / expected)
            for each in shares:
                each.expected_bytes = int(each.expected_bytes * left)
        self._seen_bytes = held

    def has_room(self, size_bytes: int) -> bool:
        """Whether something fits that could be done without: beside all that is expected, and the trials' process.

        Args:
            size_bytes: What it takes.
        """
        if self.limit_bytes is None:
            return True
        expected = sum(each.expected_bytes for each in list(self._shares))
        return self._resident() + expected + size_bytes + TRIAL_PROCESS_BYTES <= self.limit_bytes

    def remove(self, share: MemoryShare) -> None:
        """Count a model out that has gone."""
        self._shares.remove(share)

    def add(self, name: str, run_bytes: int, taken_bytes: int, remedy: str = _REMEDY) -> MemoryShare:
        """Count a model in that has just been loaded.

        Args:
            name: Its name.
            run_bytes: What its largest runs take, one on each worker, beyond what the process held when the model had
                run its golden texts and nothing else: what those took is in what it holds.
            taken_bytes: How much of that the process has taken already, by trying.
            remedy: What may be done, beside allowing more memory, if it does not fit.

        Returns:
            Its part, to be counted out when it goes.

        Raises:
            BundleError: It does not fit, and was not counted in.
        """
        share = MemoryShare(max(0, run_bytes - taken_bytes))
        held, limit = self._resident(), self.limit_bytes
        total = held + share.expected_bytes + sum(each.expected_bytes for each in list(self._shares))
        if limit is not None and total > limit:
            raise BundleError(
                f"its largest runs on all workers take {_mib(run_bytes)} MiB, which makes {_mib(total)} MiB with all "
                f"that is loaded, the limit is {_mib(limit)} MiB: allow more memory, or {remedy}"
            )
        self._shares.append(share)
        self._seen_bytes = held
        figures = {"model": name, "largest_runs_mib": _mib(run_bytes), "total_mib": _mib(total)}
        if limit is not None and total > limit * _COMFORTABLE_PART:
            _log.warning("memory_nearly_full", limit_mib=_mib(limit), **figures)
        else:
            _log.info("memory_planned", limit_mib=None if limit is None else _mib(limit), **figures)
        return share


def _mib(size_bytes: int) -> int:
    return round(size_bytes / (1 << 20))
