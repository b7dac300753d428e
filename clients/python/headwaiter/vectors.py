"""Vectors as they come off the wire, without copying them number by number: with numpy where it is installed."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import math
import sys
from array import array
from collections.abc import Sequence
from typing import Any, overload

_FLOAT_BYTES = 4


class Vectors(Sequence[memoryview]):
    """Vectors of 32-bit floats for programs without numpy: a sequence of read-only views.

    `vectors[0]` is a vector, `vectors[0][2]` a number of it, `vectors[0].tolist()` all of them.
    `numpy.asarray(vectors)` works where numpy is there after all.

    Args:
        packed: The vectors end to end, as little-endian 32-bit floats.
        dimension: Numbers of a vector.

    Raises:
        ValueError: They are not whole vectors.
    """

    def __init__(self, packed: bytes, dimension: int) -> None:
        size_bytes = dimension * _FLOAT_BYTES
        if len(packed) % size_bytes if size_bytes else packed:
            raise ValueError(f"{len(packed)} bytes are no vectors of {dimension} numbers")
        self._numbers = _numbers(packed)
        self._dimension = dimension
        self.shape: tuple[int, int] = (len(packed) // size_bytes if size_bytes else 0, dimension)

    def __len__(self) -> int:
        return self.shape[0]

    @overload
    def __getitem__(self, index: int) -> memoryview: ...
    @overload
    def __getitem__(self, index: slice) -> list[memoryview]: ...

    def __getitem__(self, index: int | slice) -> memoryview | list[memoryview]:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        start = range(len(self))[index] * self._dimension
        return self._numbers[start : start + self._dimension]

    def tolist(self) -> list[list[float]]:
        """All vectors as lists of numbers."""
        numbers: list[list[float]] = [[float(number) for number in vector] for vector in self]
        return numbers

    def tobytes(self) -> bytes:
        """The vectors end to end, numbers as they lie in memory."""
        return self._numbers.tobytes()

    def __repr__(self) -> str:
        return f"Vectors(shape={self.shape})"


# Any, because numpy's types cannot be named without it.
def unpack(packed: bytes, dimension: int) -> Any:  # noqa: ANN401
    """Vectors of a reply.

    Args:
        packed: The vectors end to end, as little-endian 32-bit floats.
        dimension: Numbers of a vector.

    Returns:
        A read-only float32 array `(texts, dimension)` where numpy is installed, else `Vectors`.

    Raises:
        ValueError: They are not whole vectors.
    """
    numpy = _numpy()
    if numpy is None or not dimension:
        return Vectors(packed, dimension)
    little_endian = numpy.frombuffer(packed, "<f4").reshape(-1, dimension)
    return little_endian.astype(numpy.float32, copy=False)


def unpack_array(packed: bytes, shape: tuple[int, ...]) -> Any:  # noqa: ANN401 - as above
    """Numbers of a reply in more than two dimensions.

    Args:
        packed: The numbers, the last dimension's next to each other, as little-endian 32-bit floats.
        shape: How many there are in each dimension.

    Returns:
        A read-only float32 array of this shape where numpy is installed, else a read-only `memoryview`: of this shape,
        too, unless it is empty.

    Raises:
        ValueError: There are not as many.
    """
    count = math.prod(shape)
    if len(packed) != count * _FLOAT_BYTES:
        raise ValueError(f"{len(packed)} bytes are no {count} numbers")
    numpy = _numpy()
    if numpy is not None:
        return numpy.frombuffer(packed, "<f4").reshape(shape).astype(numpy.float32, copy=False)
    numbers = _numbers(packed)
    # A view cannot change its shape but by way of bytes, nor have one without numbers.
    return numbers.cast("B").cast("f", shape) if count else numbers


def _numbers(packed: bytes) -> memoryview:
    """Little-endian 32-bit floats as they lie in this machine's memory."""
    numbers = array("f", packed)
    if sys.byteorder == "big":
        numbers.byteswap()
    return memoryview(numbers).toreadonly()


@functools.cache
def _numpy() -> Any:  # noqa: ANN401 - a module that may not be there
    # Imported with the first vectors, not with this package: a program that never asks for any need not wait for it.
    return importlib.import_module("numpy") if importlib.util.find_spec("numpy") else None
