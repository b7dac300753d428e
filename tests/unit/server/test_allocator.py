"""Freed memory goes back to the system."""

from __future__ import annotations

import asyncio
import platform
import subprocess
import sys

import pytest
from headwaiter_server import allocator
from headwaiter_server.allocator import give_back_after_peaks

# Frees one large block, after which glibc by itself takes the next ones from the heap; then buffers between others
# that stay.
_PROGRAM = """
import ctypes, sys
from headwaiter_server.allocator import hold_no_freed_memory
from headwaiter_server.lifecycle.memory import resident_bytes

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]

def block(size):
    address = libc.malloc(size)
    ctypes.memset(address, 1, size)
    return address

if sys.argv[1] == "told":
    assert hold_no_freed_memory()
libc.free(block(16 << 20))
before, buffers, kept = resident_bytes(), [], []
for _ in range(32):
    buffers.append(block(2 << 20))
    kept.append(block(64 << 10))
for buffer in buffers:
    libc.free(buffer)
print((resident_bytes() - before) >> 20)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have other ways")
def test_freed_buffers_go_back_to_the_system() -> None:
    """64 MiB of buffers are gone when they are freed; the C library by itself would keep them."""
    held = {
        told: int(subprocess.run([sys.executable, "-c", _PROGRAM, told], capture_output=True, check=True).stdout)
        for told in ("told", "untold")
    }
    assert held["told"] < 8
    assert held["untold"] > 32


MB = 1 << 20


@pytest.mark.parametrize(
    ("held", "looks_then"),
    [
        ([100] * 60, None),  # nothing has grown
        ([100, 110] * 30, None),  # a little, as always
        ([100, 100, 140] + [140] * 40, 2),  # at once
        ([100] * 30 + [120] * 40, 30),  # in time
    ],
)
async def test_memory_is_given_back_after_a_peak(
    monkeypatch: pytest.MonkeyPatch, held: list[int], looks_then: int | None
) -> None:
    """At once where it is large, in time where it is small; a process that holds what it always has is left alone."""
    given_back: list[int] = []
    looks = iter(held)
    count = 0

    def resident_bytes() -> int:
        nonlocal count
        count += 1
        return next(looks) * MB

    monkeypatch.setattr(allocator, "give_freed_memory_back", lambda: given_back.append(count))
    work = asyncio.create_task(give_back_after_peaks(resident_bytes, look_seconds=0))
    with pytest.raises(RuntimeError, match="StopIteration"):
        await work
    if looks_then is None:
        assert not given_back
    else:
        assert given_back
        assert given_back[0] == looks_then + 1
