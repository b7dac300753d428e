"""Models of tensors in the folder layout of Triton: bare ONNX files, some with a `config.pbtxt`."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import TensorProto, helper

# As the protocol names them, and as ONNX does.
DATATYPES = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "BF16": TensorProto.BFLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}

# As the example that every page on Triton begins with.
SIMPLE_CONFIG = """\
name: "simple"
platform: "onnxruntime_onnx"
max_batch_size: 8
input [
  { name: "INPUT0" data_type: TYPE_INT32 dims: [ 16 ] },
  { name: "INPUT1" data_type: TYPE_INT32 dims: [ 16 ] }
]
output [
  { name: "OUTPUT0" data_type: TYPE_INT32 dims: [ 16 ] },
  { name: "OUTPUT1" data_type: TYPE_INT32 dims: [ 16 ] }
]
dynamic_batching { }
"""

Shape = list[int | str]


def write_models(folder: Path) -> None:
    """Write all of them into a model repository."""
    # Apart, as onnxruntime's Python interface gives no graph both texts and BF16.
    _write(folder / "numbers" / "1", _identity("numbers", [name for name in DATATYPES if name != "BYTES"]))
    _write(folder / "strings" / "1", _identity("strings", ["BYTES"]))
    _write(folder / "simple" / "1", _simple())
    (folder / "simple" / "config.pbtxt").write_text(SIMPLE_CONFIG)
    _write(folder / "slow" / "1", _slow())
    for version in (1, 2):
        _write(folder / "times" / str(version), _times(version))


def _identity(name: str, datatypes: list[str]) -> onnx.GraphProto:
    """Each output is the input of its datatype."""
    shape: Shape = ["rows", "columns"]
    return helper.make_graph(
        [helper.make_node("Identity", [f"in_{each}"], [f"out_{each}"]) for each in datatypes],
        name,
        [helper.make_tensor_value_info(f"in_{each}", DATATYPES[each], shape) for each in datatypes],
        [helper.make_tensor_value_info(f"out_{each}", DATATYPES[each], shape) for each in datatypes],
    )


def _simple() -> onnx.GraphProto:
    """OUTPUT0 is the sum, OUTPUT1 the difference."""
    shape: Shape = ["rows", 16]
    nodes = [
        helper.make_node("Add", ["INPUT0", "INPUT1"], ["OUTPUT0"]),
        helper.make_node("Sub", ["INPUT0", "INPUT1"], ["OUTPUT1"]),
    ]
    inputs = [helper.make_tensor_value_info(f"INPUT{number}", TensorProto.INT32, shape) for number in range(2)]
    outputs = [helper.make_tensor_value_info(f"OUTPUT{number}", TensorProto.INT32, shape) for number in range(2)]
    return helper.make_graph(nodes, "simple", inputs, outputs)


def _times(factor: int) -> onnx.GraphProto:
    """Y is X times the number of the version: an answer says who gave it."""
    shape: Shape = ["rows", "columns"]
    return helper.make_graph(
        [helper.make_node("Mul", ["X", "factor"], ["Y"])],
        "times",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, shape)],
        [helper.make_tensor("factor", TensorProto.FLOAT, [], [float(factor)])],
    )


def _slow() -> onnx.GraphProto:
    """Multiplies matrices `rounds` times if `really` is 42, which no warm-up says by chance; else not at all."""
    side = 256
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go_on"], ["still"]),
            helper.make_node("MatMul", ["before", "square"], ["after"]),
        ],
        "round",
        [
            helper.make_tensor_value_info("round", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("before", TensorProto.FLOAT, [side, side]),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("after", TensorProto.FLOAT, [side, side]),
        ],
    )
    nodes = [
        helper.make_node("Equal", ["really", "sure"], ["same"]),
        helper.make_node("Where", ["same", "rounds", "none"], ["trips"]),
        helper.make_node("Squeeze", ["trips"], ["trip_count"]),
        helper.make_node("Loop", ["trip_count", "", "square"], ["product"], body=body),
        helper.make_node("ReduceSum", ["product"], ["sum"], keepdims=0),
    ]
    return helper.make_graph(
        nodes,
        "slow",
        [helper.make_tensor_value_info(name, TensorProto.INT64, [1]) for name in ("rounds", "really")],
        [helper.make_tensor_value_info("sum", TensorProto.FLOAT, [])],
        [
            helper.make_tensor("sure", TensorProto.INT64, [1], [42]),
            helper.make_tensor("none", TensorProto.INT64, [1], [0]),
            helper.make_tensor("square", TensorProto.FLOAT, [side, side], [1.0 / side] * side**2),
        ],
    )


def _write(folder: Path, graph: onnx.GraphProto) -> None:
    folder.mkdir(parents=True)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, folder / "model.onnx")
