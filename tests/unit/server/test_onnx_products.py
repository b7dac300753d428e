"""Products of int8 are right on every processor, in the server and where the export looks at what it wrote."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from headwaiter_export.runtime import Graph
from headwaiter_server.model.session import open_session
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper

from .tensor_graphs import Axes, model_of

DEPTH, WIDTH, SIDE = 64, 16, 3
SETTING = "session.x64quantprecision"

Open = Callable[[ModelProto, Path], onnxruntime.InferenceSession]


def in_the_server(model: ModelProto, _: Path) -> onnxruntime.InferenceSession:
    return open_session("model.onnx", model.SerializeToString(), 1)


def in_the_export(model: ModelProto, folder: Path) -> onnxruntime.InferenceSession:
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return Graph(folder / "model.onnx").session


EVERYWHERE = pytest.mark.parametrize("opened", [in_the_server, in_the_export])


def graph_of(node: NodeProto, given: int, taken: Axes, made: int, sums: Axes, kept: Mapping[str, object]) -> ModelProto:
    """A graph of one product, whose weights it knows."""
    model = model_of([node], {"levels": (given, taken)}, {"sums": (made, sums)}, kept)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return model


@EVERYWHERE
@pytest.mark.parametrize("largest", [127, 63])
def test_the_largest_products_are_exact(opened: Open, largest: int, tmp_path: Path) -> None:
    """Two of them side by side do not fit 16 bits, in which x86 without VNNI would add them; small weights fit."""
    weights = np.full((DEPTH, WIDTH), largest, np.int8)
    levels: NDArray[np.uint8] = np.full((3, DEPTH), 255, np.uint8)
    names = ["levels", "weights", "one", "one"]
    node = helper.make_node("MatMulIntegerToFloat", names, ["sums"], domain="com.microsoft")
    kept = {"weights": weights, "one": np.float32(1.0)}
    graph = graph_of(node, TensorProto.UINT8, ["rows", DEPTH], TensorProto.FLOAT, ["rows", WIDTH], kept)
    session = opened(graph, tmp_path)
    (sums,) = session.run(["sums"], {"levels": levels})
    np.testing.assert_array_equal(sums, levels.astype(np.int32) @ weights.astype(np.int32))
    # Elsewhere the sums would be right without it, too.
    assert session.get_session_options().get_session_config_entry(SETTING) == "1"


@EVERYWHERE
def test_products_of_int8_with_int8_are_exact(opened: Open, tmp_path: Path) -> None:
    """Activations below zero need no help, and must not be refused because there is none for them."""
    weights = np.full((4, 2, SIDE, SIDE), 127, np.int8)
    levels: NDArray[np.int8] = np.full((1, 2, SIDE, SIDE), -128, np.int8)
    names = ["levels", "one", "zero", "weights", "one", "zero", "scale", "zero"]
    kept = {"weights": weights, "one": np.float32(1.0), "zero": np.int8(0), "scale": np.float32(2**12)}
    node = helper.make_node("QLinearConv", names, ["sums"])
    graph = graph_of(node, TensorProto.INT8, levels.shape, TensorProto.INT8, (1, len(weights), 1, 1), kept)
    (sums,) = opened(graph, tmp_path).run(["sums"], {"levels": levels})
    np.testing.assert_array_equal(sums.ravel(), np.full(4, round(2 * SIDE**2 * 127 * -128 / 2**12)))
