"""Small ONNX graphs of tensors, and the models of them as they would be loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from headwaiter_server.lifecycle.building import BuiltModel, build_model
from headwaiter_server.lifecycle.repository import BundleLocation
from headwaiter_server.lifecycle.subject import TensorSubject
from headwaiter_server.model.contract import Graph, Signature, TensorSpec
from headwaiter_server.model.onnx import OnnxGraph
from headwaiter_server.model.tensors import TensorModel
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

Axes = Sequence[int | str]
FLOAT = TensorProto.FLOAT


def model_of(
    nodes: Sequence[NodeProto],
    inputs: Mapping[str, tuple[int, Axes]],
    outputs: Mapping[str, tuple[int, Axes]],
    constants: Mapping[str, object] | None = None,
) -> ModelProto:
    """An ONNX model of these nodes; tensors by name with their type and axes."""
    graph = helper.make_graph(
        list(nodes),
        "graph",
        [helper.make_tensor_value_info(name, kind, axes) for name, (kind, axes) in inputs.items()],
        [helper.make_tensor_value_info(name, kind, axes) for name, (kind, axes) in outputs.items()],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def identity(kind: int = FLOAT, axes: Axes = ("batch", 4)) -> ModelProto:
    """`y` is `x`."""
    return model_of([helper.make_node("Identity", ["x"], ["y"])], {"x": (kind, axes)}, {"y": (kind, axes)})


def doubled(axes: Axes = ("batch", "length")) -> ModelProto:
    """`double` is twice `x`, and `sum` the sum of each of its rows."""
    nodes = [
        helper.make_node("Add", ["x", "x"], ["double"]),
        helper.make_node("ReduceSum", ["x", "one"], ["sum"], keepdims=0),
    ]
    outputs = {"double": (FLOAT, axes), "sum": (FLOAT, axes[:1])}
    return model_of(nodes, {"x": (FLOAT, axes)}, outputs, {"one": np.array([1], np.int64)})


def centred() -> ModelProto:
    """`y` is `x` less the mean of the batch: rows that lean on one another."""
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[0], keepdims=1),
        helper.make_node("Sub", ["x", "mean"], ["y"]),
    ]
    return model_of(nodes, {"x": (FLOAT, ["batch", 4])}, {"y": (FLOAT, ["batch", 4])})


def shifted() -> ModelProto:
    """`y` is the softmax of `x`, by way of the largest number of the whole batch.

    Rows lean on one another only where a batch-mate holds a number far beyond theirs.
    """
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["largest"], axes=[0, 1], keepdims=1),
        helper.make_node("Sub", ["x", "largest"], ["lower"]),
        helper.make_node("Softmax", ["lower"], ["y"], axis=1),
    ]
    return model_of(nodes, {"x": (FLOAT, ["batch", 4])}, {"y": (FLOAT, ["batch", 4])})


def spread() -> ModelProto:
    """`y` is `x` plus nothing of the whole batch, which is NaN as soon as one number is."""
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["total"], keepdims=1),
        helper.make_node("Mul", ["total", "zero"], ["nothing"]),
        helper.make_node("Add", ["x", "nothing"], ["y"]),
    ]
    axes: Axes = ["batch", 4]
    return model_of(nodes, {"x": (FLOAT, axes)}, {"y": (FLOAT, axes)}, {"zero": np.zeros(1, np.float32)})


def picked() -> ModelProto:
    """`y` is the row of a table of 4 that `index` names; another index makes onnxruntime raise."""
    nodes = [helper.make_node("Gather", ["table", "index"], ["y"])]
    return model_of(
        nodes,
        {"index": (TensorProto.INT64, ["batch"])},
        {"y": (FLOAT, ["batch", 2])},
        {"table": np.arange(8, dtype=np.float32).reshape(4, 2)},
    )


def scaled(default: Sequence[float] = (2.0,), axes: Axes = ("count",)) -> ModelProto:
    """`y` is `x` times `scale`, which has a default."""
    nodes = [helper.make_node("Mul", ["x", "scale"], ["y"])]
    inputs: dict[str, tuple[int, Axes]] = {"x": (FLOAT, ["batch", 4]), "scale": (FLOAT, axes)}
    scale = np.array(default, np.float32)
    return model_of(nodes, inputs, {"y": (FLOAT, ["batch", 4])}, {"scale": scale})


def tensor_model(
    graph: ModelProto,
    *,
    max_batch_size: int = 64,
    joined: bool = True,
    inputs: Sequence[TensorSpec] = (TensorSpec("x", "FP32", (-1, -1)),),
    outputs: Sequence[TensorSpec] = (TensorSpec("double", "FP32", (-1, -1)), TensorSpec("sum", "FP32", (-1,))),
) -> TensorModel:
    """A model of a graph in onnxruntime, with a signature that is as it is said here."""
    signature = Signature(tuple(inputs), tuple(outputs), max_batch_size, joined=joined)
    return TensorModel(OnnxGraph.load("test", graph.SerializeToString(), 1), signature)


def open_graph(
    name: str, graph: bytes, *, files: Mapping[str, bytes] | None = None, threads: int | None = None
) -> Graph:
    """Opens a graph as a server does."""
    return OnnxGraph.load(name, graph, threads or 1, files=files)


def bare(repository: Path, graph: ModelProto, config: str | None = None, name: str = "m") -> BundleLocation:
    """Lays a model out without a bundle."""
    folder = repository / name / "1"
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(graph.SerializeToString())
    if config is not None:
        (folder.parent / "config.pbtxt").write_text(config)
    return BundleLocation(name, 1, folder)


def built(location: BundleLocation) -> BuiltModel:
    """The model at a place, built."""
    return build_model(location, "fp32", open_graph)


def subject_of(location: BundleLocation) -> TensorSubject:
    """The model at a place, built, with what its runs are planned by."""
    subject = built(location).body
    assert isinstance(subject, TensorSubject)
    return subject
