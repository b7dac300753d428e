"""Products of int8 are right on every processor."""

from __future__ import annotations

import numpy as np
import pytest
from headwaiter_server.model.onnx import OnnxGraph
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from .tensor_graphs import model_of

DEPTH, WIDTH = 64, 16


@pytest.mark.parametrize("largest", [127, 63])
def test_the_largest_products_are_exact(largest: int) -> None:
    """Two of them side by side do not fit 16 bits, in which x86 without VNNI would add them; small weights fit."""
    weights = np.full((DEPTH, WIDTH), largest, np.int8)
    levels: NDArray[np.uint8] = np.full((3, DEPTH), 255, np.uint8)
    model = model_of(
        [helper.make_node("MatMulInteger", ["levels", "weights"], ["sums"])],
        {"levels": (TensorProto.UINT8, ("rows", DEPTH))},
        {"sums": (TensorProto.INT32, ("rows", WIDTH))},
    )
    model.graph.initializer.append(numpy_helper.from_array(weights, "weights"))
    (sums,) = OnnxGraph.load("model.onnx", model.SerializeToString(), 1).run(["sums"], {"levels": levels})
    np.testing.assert_array_equal(sums, levels.astype(np.int32) @ weights.astype(np.int32))
