"""PyTorch and onnxruntime side by side: no bundle without it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
from headwaiter_proto.v1 import bundle_pb2
from numpy.typing import NDArray

from headwaiter_export.errors import ToleranceExceededError

# Whatever describes what is tried; its words stand in the error.
Tried = TypeVar("Tried")


def certify(
    shapes: Sequence[Tried], tolerance: float, measure: Callable[[Tried], bundle_pb2.ParityPoint]
) -> Iterator[bundle_pb2.ParityPoint]:
    """Measure shape after shape and stop at the first that is out of tolerance.

    Raises:
        ToleranceExceededError: Naming the shape and the difference.
    """
    for shape in shapes:
        point = measure(shape)
        # Not `>`: a NaN is out of tolerance too.
        if not point.max_abs_diff <= tolerance:
            raise ToleranceExceededError(
                f"PyTorch and onnxruntime differ by {point.max_abs_diff:.3g}, more than the tolerance {tolerance:g},"
                f" at {shape}"
            )
        yield point


def scaled_difference(found: NDArray[Any], wanted: NDArray[Any]) -> float:
    """The largest difference, relative to the largest number where numbers exceed 1."""
    if found.shape != wanted.shape:
        return float("inf")
    if not found.size or np.array_equal(found, wanted):
        return 0.0
    one, other = found.astype(np.float64), wanted.astype(np.float64)
    return float(np.abs(one - other).max() / np.maximum(1.0, np.abs(other).max()))
