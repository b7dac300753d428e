"""Damage to ONNX graphs; and graphs on purpose that crash onnxruntime, hang it or take all memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from .hostile_places import Mutation

if TYPE_CHECKING:
    from .hostile_bundles import Draft

_SUFFIX = ".onnx"
_SMALLEST = -(1 << 63)


def crashing(graph: bytes) -> bytes:
    """A graph that kills the process which builds it: while onnxruntime folds its constants, the processor traps."""
    return _with_nodes(
        graph,
        [helper.make_node("Div", ["hostile_low", "hostile_one"], ["hostile"])],
        hostile_low=np.array([_SMALLEST]),
        hostile_one=np.array([-1]),
    )


def crashing_in_runs(graph: bytes) -> bytes:
    """A graph that can be built, and kills the process in its first run."""
    name = onnx.load_from_string(graph).graph.input[0].name
    return _with_nodes(
        graph,
        [
            helper.make_node("Shape", [name], ["hostile_shape"]),
            helper.make_node("ReduceMin", ["hostile_shape"], ["hostile_size"]),
            helper.make_node("Mul", ["hostile_size", "hostile_none"], ["hostile_zero"]),
            helper.make_node("Sub", ["hostile_zero", "hostile_one"], ["hostile_minus"]),
            helper.make_node("Div", ["hostile_low", "hostile_minus"], ["hostile"]),
        ],
        hostile_none=np.array([0]),
        hostile_one=np.array([1]),
        hostile_low=np.array([_SMALLEST]),
    )


def hanging(graph: bytes) -> bytes:
    """A graph whose first run does not end."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go_on"], ["still"]), helper.make_node("Identity", ["state"], ["next"])],
        "body",
        [
            helper.make_tensor_value_info("number", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.INT64, [1]),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.INT64, [1]),
        ],
    )
    return _with_nodes(
        graph,
        [helper.make_node("Loop", ["hostile_steps", "", "hostile_state"], ["hostile"], body=body)],
        hostile_steps=np.array(1 << 62),
        hostile_state=np.array([1]),
    )


def hungry(graph: bytes) -> bytes:
    """A graph whose runs take more memory than there is."""
    return _with_nodes(
        graph,
        [
            helper.make_node("ConstantOfShape", ["hostile_sizes"], ["hostile_rows"]),
            helper.make_node("ReduceSum", ["hostile_rows"], ["hostile_sum"], keepdims=0),
            helper.make_node("Cast", ["hostile_sum"], ["hostile_number"], to=TensorProto.INT64),
            helper.make_node("Unsqueeze", ["hostile_number", "hostile_axis"], ["hostile"]),
        ],
        hostile_sizes=np.array([1 << 18, 1 << 18]),
        hostile_axis=np.array([0]),
    )


def _with_nodes(graph: bytes, nodes: Sequence[NodeProto], **constants: NDArray[Any]) -> bytes:
    """A graph whose first output has `hostile` of the nodes, made 0, added to it."""
    model = onnx.load_from_string(graph)
    for name, value in constants.items():
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    model.graph.initializer.append(numpy_helper.from_array(np.array([0.0], np.float32), "hostile_nothing"))
    output = model.graph.output[0].name
    for node in model.graph.node:
        for index, name in enumerate(node.output):
            if name == output:
                node.output[index] = "hostile_free"
    model.graph.node.extend(
        [
            *nodes,
            helper.make_node("Cast", ["hostile"], ["hostile_float"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["hostile_float", "hostile_nothing"], ["hostile_added"]),
            helper.make_node("Add", ["hostile_free", "hostile_added"], [output]),
        ]
    )
    return model.SerializeToString()


def _whole(make: Callable[[bytes], bytes]) -> Mutation:
    def mutation(rng: Random, draft: Draft) -> None:
        name = _graph_file(rng, draft)
        draft.files[name] = make(draft.files[name])

    mutation.__name__ = f"{make.__name__}_graph"
    return mutation


def _graph_file(rng: Random, draft: Draft) -> str:
    return rng.choice([name for name in sorted(draft.files) if name.endswith(_SUFFIX)])


def _changed(change: Callable[[Random, ModelProto], None]) -> Mutation:
    def mutation(rng: Random, draft: Draft) -> None:
        name = _graph_file(rng, draft)
        model = onnx.load_from_string(draft.files[name])
        change(rng, model)
        draft.files[name] = model.SerializeToString()

    mutation.__name__ = change.__name__
    return mutation


def huge_dimensions(rng: Random, model: ModelProto) -> None:
    tensor = rng.choice(list(model.graph.initializer))
    tensor.dims[:] = rng.choice([[1 << 40], [1 << 31] * 3, [-1, 4], [0], [1 << 20, 1 << 20]])


def wrong_opset(rng: Random, model: ModelProto) -> None:
    if rng.random() < 0.2:
        del model.opset_import[:]
    else:
        rng.choice(list(model.opset_import)).version = rng.choice([-1, 0, 1, 6, 99, 1 << 60])


def wrong_ir_version(rng: Random, model: ModelProto) -> None:
    model.ir_version = rng.choice([-1, 0, 1, 2, 99, 1 << 60])


def dropped_node(rng: Random, model: ModelProto) -> None:
    del model.graph.node[rng.randrange(len(model.graph.node))]


def repeated_node(rng: Random, model: ModelProto) -> None:
    model.graph.node.add().CopyFrom(rng.choice(list(model.graph.node)))


def weights_of_nan(rng: Random, model: ModelProto) -> None:
    tensors = [each for each in model.graph.initializer if each.data_type == TensorProto.FLOAT]
    tensor = rng.choice(tensors)
    values = np.full(list(tensor.dims), rng.choice([np.nan, np.inf]), np.float32)
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def cycle(rng: Random, model: ModelProto) -> None:
    nodes = list(model.graph.node)
    early, late = sorted(rng.sample(range(len(nodes)), 2))
    if nodes[early].input:
        nodes[early].input[rng.randrange(len(nodes[early].input))] = nodes[late].output[0]


def rewired(rng: Random, model: ModelProto) -> None:
    nodes = [each for each in model.graph.node if each.input]
    node = rng.choice(nodes)
    names = [name for each in model.graph.node for name in each.output] + ["nowhere", ""]
    node.input[rng.randrange(len(node.input))] = rng.choice(names)


def other_operator(rng: Random, model: ModelProto) -> None:
    kinds = ["Add", "MatMul", "Loop", "Conv", "Strange", "Gather", "Reshape", "ConstantOfShape", "Div", "Identity"]
    rng.choice(list(model.graph.node)).op_type = rng.choice(kinds)


def other_attribute(rng: Random, model: ModelProto) -> None:
    nodes = [each for each in model.graph.node if each.attribute] or list(model.graph.node)
    node = rng.choice(nodes)
    if not node.attribute:
        node.attribute.append(helper.make_attribute("axis", 99))
        return
    attribute = rng.choice(list(node.attribute))
    attribute.i = rng.choice([-1, 0, 99, 1 << 31, _SMALLEST, (1 << 63) - 1])
    if attribute.ints:
        attribute.ints[rng.randrange(len(attribute.ints))] = attribute.i


def other_input_type(rng: Random, model: ModelProto) -> None:
    tensor = rng.choice([*model.graph.input, *model.graph.output]).type.tensor_type
    tensor.elem_type = rng.choice([0, TensorProto.STRING, TensorProto.FLOAT, TensorProto.INT8, 999])


def other_input_shape(rng: Random, model: ModelProto) -> None:
    shape = rng.choice([*model.graph.input, *model.graph.output]).type.tensor_type.shape
    for each in shape.dim:
        each.dim_value = rng.choice([-1, 0, 1, 1 << 40])
    if rng.random() < 0.5:
        shape.dim.add().dim_value = 3


def other_constants(rng: Random, model: ModelProto) -> None:
    """Whatever the graph shapes and slices by."""
    tensors = [each for each in model.graph.initializer if each.data_type == TensorProto.INT64]
    if not tensors:
        return dropped_node(rng, model)
    tensor = rng.choice(tensors)
    values = np.full(list(tensor.dims), rng.choice([-2, 0, 7, 1 << 40, _SMALLEST]), np.int64)
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return None


def renamed_output(rng: Random, model: ModelProto) -> None:
    rng.choice([*model.graph.input, *model.graph.output]).name = rng.choice(["", "other", "x" * 100_000])


def file_elsewhere(rng: Random, model: ModelProto) -> None:
    """Weights that lie in a file of their own, wherever that is."""
    tensor = rng.choice(list(model.graph.initializer))
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key = "location"
    entry.value = rng.choice(["/etc/passwd", "../../golden.npz", "golden.npz", "*/_ORT_MEM_ADDR_/*", "", "/dev/zero"])


GRAPH_MUTATIONS: Sequence[Mutation] = [
    _whole(crashing),
    _whole(crashing_in_runs),
    _whole(hungry),
    *[
        _changed(each)
        for each in (
            huge_dimensions,
            wrong_opset,
            wrong_ir_version,
            dropped_node,
            repeated_node,
            weights_of_nan,
            cycle,
            rewired,
            other_operator,
            other_attribute,
            other_input_type,
            other_input_shape,
            other_constants,
            renamed_output,
            file_elsewhere,
        )
    ],
]
# Each of these takes the whole time limit.
SLOW_MUTATIONS: Sequence[Mutation] = [_whole(hanging)]
