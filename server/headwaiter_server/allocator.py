"""How the C library gives freed memory back to the system."""

from __future__ import annotations

import ctypes

# mallopt(3). Blocks from this size on are mapped one by one, and unmapped when they are freed; and the heap's end is
# given back when so much of it is free.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_THRESHOLD_BYTES = 1 << 20


def hold_no_freed_memory() -> bool:
    """Have the process hold about what it uses, from now on.

    By default glibc raises both thresholds to the largest blocks that it has seen freed, up to 32 MiB. The buffers of
    batches, which are of every size, then lie between small blocks that live long, and their memory stays taken: the
    resident size of a server under load goes up and down by a fifth. With fixed thresholds it stays within a few
    percent, for the same processor time.

    Returns:
        Whether the C library can be told so: glibc can.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all(mallopt(option, _THRESHOLD_BYTES) == 1 for option in (_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD))


def give_freed_memory_back() -> bool:
    """Give what was freed back to the system, also from between what is in use. Takes some milliseconds.

    Returns:
        Whether the C library can be told so: glibc can.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is None:
        return False
    trim(0)
    return True
