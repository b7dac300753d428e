"""Freed memory goes back to the system."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

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
