"""What runs have taken, and no longer use."""

from __future__ import annotations

import numpy as np
import pytest
from headwaiter_server.lifecycle.memory import resident_bytes
from headwaiter_server.model import onnx
from headwaiter_server.model.onnx import OnnxGraph
from onnx import TensorProto, helper

from .tensor_graphs import model_of

MIB = 1 << 20
COLUMNS = MIB // 4
ROWS = 200


def widening() -> OnnxGraph:
    """A graph that takes a MiB for each row while it runs, and gives back a number."""
    nodes = [
        helper.make_node("MatMul", ["x", "ones"], ["wide"]),
        helper.make_node("ReduceSum", ["wide", "axis"], ["y"], keepdims=1),
    ]
    column = (TensorProto.FLOAT, ("batch", 1))
    constants = {"ones": np.ones((1, COLUMNS), np.float32), "axis": np.array([1])}
    model = model_of(nodes, {"x": column}, {"y": column}, constants)
    return OnnxGraph.load("model.onnx", model.SerializeToString(), 1)


def run(graph: OnnxGraph, rows: int) -> None:
    (answer,) = graph.run(["y"], {"x": np.ones((rows, 1), np.float32)})
    assert (answer == COLUMNS).all()


def test_memory_of_a_large_run_is_given_back_by_a_later_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by the next one, which may well be as large, but after some seconds."""
    graph = widening()
    run(graph, 1)
    before = resident_bytes()
    run(graph, ROWS)
    run(graph, 1)
    assert resident_bytes() - before > ROWS / 2 * MIB
    monkeypatch.setattr(graph, "_trims_at", 0.0)
    run(graph, 1)
    assert resident_bytes() - before < ROWS / 4 * MIB
    run(graph, ROWS)
    assert resident_bytes() - before > ROWS / 2 * MIB, "it is trimmed anew in each run"
    assert graph._trims_at - onnx._TRIM_SECONDS > 0
