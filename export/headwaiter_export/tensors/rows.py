"""Batches of rows: made from an example, run, and taken apart again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from headwaiter_export.parity import scaled_difference
from headwaiter_export.runtime import Graph

Arrays = dict[str, NDArray[Any]]

BATCHES: Final = (1, 2, 3, 7, 16)


def batch_of(example: Mapping[str, NDArray[Any]], size: int) -> Arrays:
    """As many rows as wanted, the example's over and over."""
    return {name: np.take(array, np.arange(size) % len(array), 0) for name, array in example.items()}


def batch_remark(graph: Graph, example: Mapping[str, NDArray[Any]], tolerance: float) -> str:
    """Run rows together and alone, and say in words whether that makes a difference.

    Raises:
        GraphRejectedError: onnxruntime does not run it.
    """
    if all((array == array[:1]).all() for array in example.values()):
        # Rows that are all alike may lean on one another unseen: their mean is each of them.
        return "whether a row's answer depends on its batch is not known: the example has no two different rows"
    together = batch_of(example, 3)
    answers = graph.run(together)
    if spoiled := sorted(name for name, array in answers.items() if not np.isfinite(array).all()):
        return (
            "whether a row's answer depends on its batch is not known:"
            f" the answers to the example hold NaN or infinity, in {', '.join(spoiled)}"
        )
    apart = [graph.run({name: array[row : row + 1] for name, array in together.items()}) for row in range(3)]
    worst = max(
        scaled_difference(answers[name][row : row + 1], apart[row][name]) for name in answers for row in range(3)
    )
    if worst <= tolerance:
        return f"a row is answered the same alone and in a batch: within {worst:.2g}"
    return f"a row's answer depends on its batch: by {worst:.2g} in a batch of 3, so it should be served one at a time"
