"""Vectors to files as they come: JSON lines, or numpy's `.npy`, without numpy."""

from __future__ import annotations

import json
import sys
from typing import IO, TYPE_CHECKING, Protocol

from headwaiter.errors import HeadwaiterError

if TYPE_CHECKING:
    from headwaiter.results import EmbedReply

# Format 1.0 of https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html: magic, version, length of the
# header, header. Its length is fixed here, so that the number of vectors can be filled in when all have come.
_NPY_MAGIC = b"\x93NUMPY\x01\x00"
_NPY_HEADER_BYTES = 128 - len(_NPY_MAGIC) - 2
# Numbers are written as they lie in memory.
_DESCR = "<f4" if sys.byteorder == "little" else ">f4"


class VectorFile(Protocol):
    """Where vectors go."""

    def write(self, texts: tuple[str, ...], reply: EmbedReply) -> None:
        """Add the vectors of one reply."""
        ...

    def finish(self) -> None:
        """Complete the file."""
        ...


class JsonLines:
    """One line for each text: `{"input": TEXT, "vector": [NUMBERS]}`.

    Args:
        file: Where to.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def write(self, texts: tuple[str, ...], reply: EmbedReply) -> None:
        """See `VectorFile`."""
        lines = []
        for text, vector in zip(texts, reply.vectors, strict=True):
            # Nine digits tell any two 32-bit floats apart; as many as Python writes by itself would double the file.
            numbers = ", ".join(format(number, ".9g") for number in vector.tolist())
            lines.append(f'{{"input": {json.dumps(text, ensure_ascii=False)}, "vector": [{numbers}]}}\n')
        self._file.write("".join(lines).encode())

    def finish(self) -> None:
        """See `VectorFile`."""
        self._file.flush()


class Npy:
    """A float32 array `(texts, dimension)`, as `numpy.load` reads it.

    Args:
        file: Where to; it can be sought in.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._shape = (0, 0)
        self._write_header()

    def write(self, texts: tuple[str, ...], reply: EmbedReply) -> None:
        """See `VectorFile`.

        Raises:
            HeadwaiterError: The vectors have another dimension than those before.
        """
        count, dimension = self._shape
        if count and reply.dimension != dimension:
            raise HeadwaiterError(f"vectors of {reply.dimension} numbers after vectors of {dimension}")
        self._file.write(reply.vectors.tobytes())
        self._shape = (count + len(texts), reply.dimension)

    def finish(self) -> None:
        """See `VectorFile`."""
        self._file.seek(0)
        self._write_header()
        self._file.flush()

    def _write_header(self) -> None:
        header = f"{{'descr': '{_DESCR}', 'fortran_order': False, 'shape': {self._shape}, }}".ljust(
            _NPY_HEADER_BYTES - 1
        )
        self._file.write(_NPY_MAGIC + _NPY_HEADER_BYTES.to_bytes(2, "little") + header.encode() + b"\n")
