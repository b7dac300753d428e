"""Graphs come out as their spec says, or not at all."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from headwaiter_export import errors
from headwaiter_export.inspection import check_names
from headwaiter_export.runtime import Graph
from headwaiter_export.spec import GraphSpec, Tensor
from headwaiter_export.tracing import write_graph
from headwaiter_proto.v1 import bundle_pb2
from torch import nn

pytestmark = pytest.mark.torch


def _spec(output: str = "y") -> GraphSpec:
    tensors = [(Tensor(name, "float32", ("batch", 4)),) for name in ("x", output)]
    return GraphSpec(bundle_pb2.GRAPH_ROLE_ENCODER, "small.onnx", tensors[0], tensors[1])


def _write(module: nn.Module, folder: Path, output: str = "y") -> None:
    write_graph(module, (torch.ones(3, 4),), _spec(output), folder)


class _Relu(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(x)
        return torch.tanh(hidden) + hidden


class _Three(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(3, 4) * 2


class _Twice(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, x])


class _Branch(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum().item() > 0 else -x


def test_specialised_axis_is_refused(tmp_path: Path) -> None:
    """A module that works for one batch size only is refused, naming the axis and the size."""
    with pytest.raises(errors.SpecialisedShapeError, match=r"small\.onnx: axis 0 of input x is fixed at 3"):
        _write(_Three(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_derived_axis_is_refused(tmp_path: Path) -> None:
    """An output whose axis is another one than the spec's is refused, naming both."""
    with pytest.raises(errors.SpecialisedShapeError, match=r"axis 0 of output y is '2\*batch', expected 'batch'"):
        _write(_Twice(), tmp_path)


def test_name_clash_is_refused(tmp_path: Path) -> None:
    """An output named like an internal value is refused, naming it."""
    with pytest.raises(errors.NameClashError, match=r"small\.onnx: 'relu' is the name of two values"):
        _write(_Relu(), tmp_path, output="relu")
    assert list(tmp_path.iterdir()) == []


def test_onnxruntime_word_on_a_name_clash_is_understood(tmp_path: Path) -> None:
    """What onnxruntime says about a doubly defined value becomes the same error."""
    value = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    nodes = [onnx.helper.make_node(kind, ["x"], ["y"]) for kind in ("Relu", "Tanh")]
    given = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    model = onnx.helper.make_model(
        onnx.helper.make_graph(nodes, "g", [given], [value]), opset_imports=[onnx.helper.make_opsetid("", 22)]
    )
    path = tmp_path / "twice.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(errors.NameClashError, match=r"twice\.onnx: .*Duplicate definition"):
        Graph(path)
    with pytest.raises(errors.NameClashError, match="'y' is the name of two values"):
        check_names(model, path.name)


def test_untraceable_module_is_refused(tmp_path: Path) -> None:
    """A module that decides by its data is refused in one line."""
    with pytest.raises(errors.GraphRejectedError, match=r"small\.onnx: cannot be traced: \S") as caught:
        _write(_Branch(), tmp_path)
    assert "\n" not in str(caught.value)


def test_broken_file_is_refused(tmp_path: Path) -> None:
    """Bytes that are no graph are refused, naming the file."""
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"no graph")
    with pytest.raises(errors.GraphRejectedError, match=r"broken\.onnx: onnxruntime does not load it"):
        Graph(path)


def test_failing_run_is_refused(bundle: Path) -> None:
    """A run that onnxruntime refuses names the file and the shapes."""
    graph = Graph(bundle / "encoder.onnx")
    feeds = {name: torch.ones(1, 2).numpy() for name in ("input_ids", "position_ids", "segment")}
    with pytest.raises(errors.GraphRejectedError, match=r"encoder\.onnx: .* input_ids \[1, 2\]"):
        graph.run(feeds)


@pytest.mark.parametrize(("file_name", "most_nodes"), [("encoder.onnx", 75), ("decoder.onnx", 90)])
def test_graphs_are_lean(bundle: Path, file_name: str, most_nodes: int) -> None:
    """Norms are one node, no shape is computed twice, no path of this machine is inside."""
    content = (bundle / file_name).read_bytes()
    model = onnx.load_from_string(content)
    kinds = [node.op_type for node in model.graph.node]
    assert len(kinds) <= most_nodes
    assert not {"Expand", "Pow", "ReduceMean"} & set(kinds)
    assert kinds.count("Cast") <= 2  # the operator that writes the cache counts in 32 bits
    assert kinds.count("Shape") <= 3
    assert kinds.count("Where") <= 2
    assert b"/headwaiter_export/" not in content
