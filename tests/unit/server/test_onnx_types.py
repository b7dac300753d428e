"""Types of tensors that onnxruntime cannot be given together."""

from __future__ import annotations

import pytest
from headwaiter_server.errors import BundleError
from headwaiter_server.model.onnx import OnnxGraph
from onnx import TensorProto, helper

from .tensor_graphs import Axes, model_of

AXES: Axes = ("batch", 4)
BF16, TEXT = (TensorProto.BFLOAT16, AXES), (TensorProto.STRING, AXES)


def test_graph_of_texts_and_bf16_is_refused() -> None:
    """It would load, and then answer no request."""
    nodes = [helper.make_node("Identity", [f"in_{name}"], [f"out_{name}"]) for name in ("text", "number")]
    both = model_of(nodes, {"in_text": TEXT, "in_number": BF16}, {"out_text": TEXT, "out_number": BF16})
    with pytest.raises(BundleError, match=r"model\.onnx has tensors of BF16 and of BYTES"):
        OnnxGraph.load("model.onnx", both.SerializeToString(), 1)
