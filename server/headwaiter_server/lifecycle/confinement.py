"""Limits that a process sets itself before it tries a model: what it then does to itself, it does to nobody else."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import resource
import signal
from pathlib import Path

from headwaiter_server.cpu import read_text

_STATUS = Path("/proc/self/status")
_OOM_SCORE = Path("/proc/self/oom_score_adj")
_KILLED_FIRST = "1000"
# As prctl(2) numbers them.
_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
_MOST_FILES = 64
# Whatever is printed; nothing else is written.
MOST_WRITTEN_BYTES = 64 << 10
# Who serves meanwhile comes first.
_NICE = 10
# After the soft limit, which ends the process as well, unless it has been told not to mind.
_MERCY_SECONDS = 1


def die_with_parent(parent: int) -> None:
    """Be killed when the process that has started this one ends.

    Args:
        parent: Its id, as it knew it itself.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it has ended before this was said
        os._exit(1)


def confine(memory_bytes: int, cpu_seconds: float) -> None:
    """Limit this process for good.

    Args:
        memory_bytes: Memory that it may take beyond what it has already.
        cpu_seconds: Processor time of all its threads together.
    """
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_NOFILE, _MOST_FILES)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the write fails then
    _limit(resource.RLIMIT_FSIZE, MOST_WRITTEN_BYTES)
    seconds = math.ceil(cpu_seconds)
    _limit(resource.RLIMIT_CPU, seconds, seconds + _MERCY_SECONDS)
    # Of what it can write to. The address space says little: libraries and stacks take much of it and no memory.
    _limit(resource.RLIMIT_DATA, _data_bytes() + memory_bytes)
    # Should the machine's or the container's memory run out all the same, this process goes, not the server.
    with contextlib.suppress(OSError):  # a sandbox may not let it
        _OOM_SCORE.write_text(_KILLED_FIRST, encoding="ascii")
    os.nice(_NICE)


def _limit(what: int, soft: int, hard: int | None = None) -> None:
    """Lower a limit; one that is lower already stays."""
    _, ceiling = resource.getrlimit(what)
    hard = soft if hard is None else hard
    if ceiling != resource.RLIM_INFINITY:
        soft, hard = min(soft, ceiling), min(hard, ceiling)
    resource.setrlimit(what, (soft, hard))


def _data_bytes() -> int:
    for line in read_text(_STATUS).splitlines():
        name, _, value = line.partition(":")
        if name == "VmData":
            return int(value.split()[0]) << 10
    return 0


def _prctl(option: int, value: int) -> None:
    """Set an attribute of this process; kernels that lack it have other means."""
    ctypes.CDLL(None).prctl(option, ctypes.c_ulong(value), 0, 0, 0)
