"""The classification extension: in place of an output's elements, the best of its classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from headwaiter_server.errors import InvalidRequestError
from headwaiter_server.model.contract import Array, TensorSpec
from headwaiter_server.model.datatypes import BF16, BYTES
from headwaiter_server.rpc.open_inference.elements import BOOL, object_array
from headwaiter_server.rpc.open_inference.parameters import Parameters, expect, read_value

CLASSES: Final = "classification"

# Neither numbers nor, to numpy, in their order.
_NO_SCORES = (BYTES, BOOL, BF16)


def read_classes(parameters: Parameters, field: str, spec: TensorSpec) -> int:
    """How many classes a request wants of an output.

    Args:
        parameters: Of the requested output.
        field: Its path in the request.
        spec: Which output.

    Returns:
        0 where it wants the elements.

    Raises:
        InvalidRequestError: There are no such classes.
    """
    if CLASSES not in parameters:
        return 0
    where = f"{field}.parameters[{CLASSES}]"
    count = expect(where, read_value(where, parameters[CLASSES]), int)
    if count < 1:
        raise InvalidRequestError(where, f"is {count}, expected 1 or more")
    if spec.datatype in _NO_SCORES:
        raise InvalidRequestError(where, f"cannot be had: elements of {spec.datatype} are no scores")
    return count


def top_classes(scores: Array, count: int, labels: Sequence[str], *, rows: bool) -> Array:
    """The classes with the highest scores, best first, each as `SCORE:INDEX` or `SCORE:INDEX:LABEL`.

    Args:
        scores: The output.
        count: Most classes of each row.
        labels: Names of the classes; none where they have none.
        rows: Whether the first axis is one of rows, each with classes of its own.

    Returns:
        Elements of BYTES, `(rows, classes)` or `(classes,)`.
    """
    height = scores.shape[0] if rows else 1
    width = scores.size // height if height else 0
    table = scores.reshape(height, width)
    # Sorted up from the last class to the first, and read from its end: so of equal scores the first class is first.
    best = (width - 1 - np.argsort(table[:, ::-1], axis=1, kind="stable"))[:, ::-1][:, :count]
    values = np.take_along_axis(table, best, axis=1)
    shown = "{:f}:{}" if table.dtype.kind == "f" else "{}:{}"
    names = [f":{label}" for label in labels] if len(labels) == width else [""] * width
    elements = [
        (shown.format(value, index) + names[index]).encode()
        for value, index in zip(values.ravel().tolist(), best.ravel().tolist(), strict=True)
    ]
    return object_array(elements, best.shape if rows else best.shape[1:])
