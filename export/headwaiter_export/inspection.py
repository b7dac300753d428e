"""Checks on a written graph that no run can make: its names and its axes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import onnx

from headwaiter_export.errors import GraphRejectedError, NameClashError, SpecialisedShapeError
from headwaiter_export.spec import GraphSpec, Tensor


def check_names(model: onnx.ModelProto, file_name: str) -> None:
    """Find values that are defined twice, the usual cause being an output named like an internal value.

    Raises:
        NameClashError: onnxruntime would refuse it as "Duplicate definition of name".
    """
    graph = model.graph
    # An initializer may repeat an input: it is the input's default.
    inputs = {value.name for value in graph.input}
    stored = [tensor.name for tensor in graph.initializer if tensor.name not in inputs]
    made = [name for node in graph.node for name in node.output if name]
    outputs = [value.name for value in graph.output]
    defined = Counter([*(value.name for value in graph.input), *stored, *made])
    twice = [name for name, count in [*defined.items(), *Counter(outputs).items()] if count > 1]
    if twice:
        raise NameClashError(f"{file_name}: {twice[0]!r} is the name of two values; rename the output or input")


def check_axes(model: onnx.ModelProto, spec: GraphSpec) -> None:
    """Hold every input and output to the spec.

    Raises:
        SpecialisedShapeError: A tensor is missing or its axes or element type are other than said.
    """
    _compare("input", model.graph.input, spec.inputs, spec.file_name)
    _compare("output", model.graph.output, spec.outputs, spec.file_name)


def tensors_of(values: Iterable[onnx.ValueInfoProto]) -> tuple[Tensor, ...]:
    """Inputs or outputs as a spec says them; axes that the graph leaves open and nameless get names of their own.

    Raises:
        GraphRejectedError: One is not a tensor of known rank.
    """
    tensors = []
    for value in values:
        tensor_type = value.type.tensor_type
        if not tensor_type.HasField("shape") or not tensor_type.elem_type:
            raise GraphRejectedError(f"{value.name} is not a tensor of a known number of axes")
        axes: list[int | str] = []
        for at, axis in enumerate(tensor_type.shape.dim):
            if axis.HasField("dim_value"):
                axes.append(axis.dim_value)
            else:
                if not axis.dim_param:
                    axis.dim_param = "batch" if at == 0 else f"{value.name}.{at}"
                axes.append(axis.dim_param)
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor_type.elem_type).name
        tensors.append(Tensor(value.name, dtype, tuple(axes)))
    return tuple(tensors)


def _compare(kind: str, values: Iterable[onnx.ValueInfoProto], expected: tuple[Tensor, ...], file_name: str) -> None:
    found = {value.name: value.type.tensor_type for value in values}
    if list(found) != [tensor.name for tensor in expected]:
        raise SpecialisedShapeError(
            f"{file_name}: its {kind}s are {', '.join(found)}, not {', '.join(tensor.name for tensor in expected)}"
        )
    for tensor in expected:
        tensor_type = found[tensor.name]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor_type.elem_type).name
        axes = tuple(axis.dim_param or axis.dim_value for axis in tensor_type.shape.dim)
        if dtype != tensor.dtype or len(axes) != len(tensor.shape):
            raise SpecialisedShapeError(
                f"{file_name}: {kind} {tensor.name} is {dtype} {list(axes)}, not {tensor.dtype} {list(tensor.shape)}"
            )
        for at, (axis, wanted) in enumerate(zip(axes, tensor.shape, strict=True)):
            if axis == wanted:
                continue
            how = f"fixed at {axis}" if isinstance(axis, int) else f"{axis!r}"
            raise SpecialisedShapeError(f"{file_name}: axis {at} of {kind} {tensor.name} is {how}, expected {wanted!r}")
