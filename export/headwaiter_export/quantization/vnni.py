"""Whether this processor multiplies int8 at its full speed."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Final

SLOWER: Final = "int8: this processor has no VNNI; with it, int8 gains more speed"

_INFO: Final = Path("/proc/cpuinfo")
_X86: Final = frozenset({"x86_64", "AMD64"})
_VNNI: Final = frozenset({"avx512_vnni", "avx_vnni", "avx_vnni_int8"})


def lacks_vnni(machine: str | None = None, info: Path = _INFO) -> bool:
    """True on an x86 processor that does not say it has VNNI.

    There uint8 x int8 products are added in pairs in 16 bits, which hold any pair of 7-bit weights but not of 8-bit
    ones. Where weights have 8 bits onnxruntime is told to multiply in a wider and slower way: see `runtime`.

    Args:
        machine: Architecture; None asks the platform.
        info: Linux's list of what the processor can do.
    """
    if (machine or platform.machine()) not in _X86:
        return False
    try:
        words = set(info.read_text(encoding="utf-8", errors="replace").split())
    except OSError:
        return True
    return not words & _VNNI
