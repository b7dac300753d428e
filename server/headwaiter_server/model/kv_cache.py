"""Memory for keys and values: a lot of address space, of which the system gives only what is written.

Each row of a tensor lies in one piece and has places for the longest text, so that a graph finds and writes it in place
and nothing moves when a text grows. What nobody has written is zeros, and takes no memory, even when it is read.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import sys
from dataclasses import dataclass
from typing import Final

import numpy as np

from headwaiter_server.model.contract import FloatArray

# A row that has taken no more than this keeps it for its next text: to take memory from the system page by page costs
# more than a short text's steps may.
KEPT_ROW_BYTES: Final = 256 << 10

_FLOAT_BYTES: Final = 4
# Not every system has them: without the first a page is two megabytes, without the second nothing is given back before
# the end, and without the third it may be refused that more is asked for than the machine has.
_NO_HUGE_PAGES: Final = getattr(mmap, "MADV_NOHUGEPAGE", None)
_GIVE_BACK: Final = getattr(mmap, "MADV_DONTNEED", None)
_NO_RESERVE: Final = 0x4000 if sys.platform == "linux" else 0  # newer Pythons have a name for it


@dataclass(frozen=True)
class CacheGeometry:
    """Shape of what a decoder keeps of each token.

    Attributes:
        num_layers: Layers that attend.
        num_heads: Heads of a layer whose keys and values are kept.
        head_dim: Width of a head.
    """

    num_layers: int
    num_heads: int
    head_dim: int

    @property
    def tensors(self) -> int:
        """Tensors that hold it: keys and values of each layer."""
        return 2 * self.num_layers

    @property
    def token_bytes(self) -> int:
        """Of one token."""
        return self.tensors * self.num_heads * self.head_dim * _FLOAT_BYTES

    @property
    def page_bytes(self) -> int:
        """What a row may take beyond its tokens: the pages that their ends, in each head of each tensor, begin."""
        return self.tensors * self.num_heads * mmap.PAGESIZE

    def names(self, prefix: str = "") -> list[str]:
        """Names of the tensors, in their order."""
        return [f"{prefix}{part}_{layer}" for layer in range(self.num_layers) for part in ("key", "value")]


class KeyValueMemory:
    """Keys and values of some rows, of each layer, in zeros.

    Attributes:
        tensors: `(rows, heads, places, head_dim)` each, in the order of `CacheGeometry.names`.
    """

    def __init__(self, geometry: CacheGeometry, rows: int, places: int) -> None:
        """Take address space.

        Args:
            geometry: Shape of what is kept of each token.
            rows: Texts.
            places: Tokens of a text.

        Raises:
            MemoryError: The system does not give it.
        """
        shape = (rows, geometry.num_heads, places, geometry.head_dim)
        self._row_bytes = math.prod(shape[1:]) * _FLOAT_BYTES
        # Each tensor begins at a page of its own.
        self._tensor_bytes = -(-rows * self._row_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
        size = geometry.tensors * self._tensor_bytes
        try:
            self._pages = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NO_RESERVE)
        except (OSError, OverflowError, ValueError) as error:
            raise MemoryError(
                f"the system does not give {size >> 20} MiB of address space for the keys and values of {rows} texts"
            ) from error
        if _NO_HUGE_PAGES is not None:
            with contextlib.suppress(OSError):  # a kernel that has none does not know the word
                self._pages.madvise(_NO_HUGE_PAGES)
        count = math.prod(shape)
        self.tensors: list[FloatArray] = [
            np.frombuffer(self._pages, np.float32, count, number * self._tensor_bytes).reshape(shape)
            for number in range(geometry.tensors)
        ]

    def give_back(self, row: int) -> None:
        """Give a row's memory to the system; it is zeros then, but for what lies on pages of its neighbours."""
        for number in range(len(self.tensors)):
            self._give_back(number * self._tensor_bytes + row * self._row_bytes, self._row_bytes)

    def give_back_tensor(self, number: int) -> None:
        """Give the memory of one tensor to the system; it is zeros then."""
        self._give_back(number * self._tensor_bytes, self._tensor_bytes)

    def _give_back(self, begin: int, size: int) -> None:
        first = -(-begin // mmap.PAGESIZE) * mmap.PAGESIZE
        whole = (begin + size) // mmap.PAGESIZE * mmap.PAGESIZE - first
        if _GIVE_BACK is not None and whole > 0:
            self._pages.madvise(_GIVE_BACK, first, whole)
