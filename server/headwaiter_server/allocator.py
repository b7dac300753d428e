"""How the C library gives freed memory back to the system."""

from __future__ import annotations

import asyncio
import ctypes
from collections.abc import Callable

# mallopt(3). Blocks from this size on are mapped one by one, and unmapped when they are freed; and the heap's end is
# given back when so much of it is free.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_THRESHOLD_BYTES = 1 << 20

_LOOK_SECONDS = 1.0
# Growth since it was last given back, after which freed memory is given back at once.
_PEAK_BYTES = 32 << 20
# Looks after which it is given back in any case, as long as the process holds so much more than it has at its least.
_LOOKS = 20
_WORTH_BYTES = 16 << 20


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


async def give_back_after_peaks(resident_bytes: Callable[[], int], look_seconds: float = _LOOK_SECONDS) -> None:
    """Give freed memory back after the process has grown, for as long as it runs.

    The thresholds hold for the main heap's end. But what gRPC's threads receive lies in heaps of their own, which keep
    what a burst of large messages has taken.

    Args:
        resident_bytes: What the process holds.
        look_seconds: How often to look.
    """
    level = least = resident_bytes()
    looks = 0
    while True:
        await asyncio.sleep(look_seconds)
        looks += 1
        held = resident_bytes()
        if held - level > _PEAK_BYTES or (looks >= _LOOKS and held - least > _WORTH_BYTES):
            await asyncio.to_thread(give_freed_memory_back)
            looks, level = 0, resident_bytes()
        least = min(least, held, level)
