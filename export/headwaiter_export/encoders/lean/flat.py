"""The leading axis of one row goes: `(1, tokens, width)` becomes `(tokens, width)`.

A value can lose its axis if every node that makes or reads it can do without. All values with such an axis are
taken for candidates, and those that some node needs as they are drop out, until all nodes agree.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from onnxscript import ir

from headwaiter_export.encoders.lean.constants import add_constant, constant, remove_unused

Flat = set[ir.Value]

_BY_ELEMENT: Final = (
    "Add",
    "Sub",
    "Mul",
    "Div",
    "Where",
    "Gelu",
    "Erf",
    "Tanh",
    "Relu",
    "Sigmoid",
    "Neg",
    "Cos",
    "Sin",
)
# With the axis that is meant where none is named.
_AXIS: Final = {"LayerNormalization": -1, "Softmax": -1, "Split": 0, "Concat": 0, "Gather": 0}
# Which input names the axes.
_AXES_INPUT: Final = {"Squeeze": 1, "Unsqueeze": 1, "Slice": 3}
_MATRIX: Final = 2  # axes


def _by_element(node: ir.Node, flat: Flat) -> bool:
    """Shorter operands are aligned at the other end and do not notice; the others go with the output."""
    output = node.outputs[0]
    highest = [value for value in node.inputs if value is not None and _rank(value) == _rank(output)]
    if output in flat:
        return all(value in flat for value in highest)
    return any(value not in flat for value in highest)


def _along_axis(node: ir.Node, flat: Flat) -> bool:
    """Whatever happens along another axis."""
    data = node.inputs if node.op_type == "Concat" else node.inputs[:1]
    parameters = node.inputs[len(data) :]
    together = [*data, *(output for output in node.outputs if output.name)]
    elsewhere = _axis(node) not in (0, -_rank(node.inputs[0]))
    return elsewhere and all(value in flat for value in together) and not any(value in flat for value in parameters)


def _product(node: ir.Node, flat: Flat) -> bool:
    """A product by a matrix, or of as many matrices as there are on the other side."""
    output, (first, second) = node.outputs[0], node.inputs
    if _rank(second) == _rank(output):
        return _rank(output) > _MATRIX and {output, first, second} <= flat
    return _rank(output) > _MATRIX and {output, first} <= flat and second not in flat and _rank(second) == _MATRIX


def _lookup(node: ir.Node, flat: Flat) -> bool:
    """Rows of a table: the indices' axes stand first in what comes out."""
    table, indices = node.inputs
    return _axis(node) == 0 and table not in flat and {indices, node.outputs[0]} <= flat


def _transpose(node: ir.Node, flat: Flat) -> bool:
    """Any order of the other axes."""
    return _ints(node, "perm")[:1] == [0] and {node.inputs[0], node.outputs[0]} <= flat


def _reshape(node: ir.Node, flat: Flat) -> bool:
    """Takes whatever comes, unless it copies an axis by its number, which 0 means."""
    shape = constant(node.inputs[1])
    return shape is not None and 0 not in shape and (node.outputs[0] not in flat or shape[0] == 1)


def _over_axes(node: ir.Node, flat: Flat) -> bool:
    """Other axes are counted anew; the leading one goes with what made or dropped it."""
    axes, output, first = _axes(node), node.outputs[0], node.inputs[0]
    if axes is None:
        return False
    if node.op_type == "Unsqueeze":
        return output in flat and (0 in axes) == (first not in flat)
    if node.op_type == "Squeeze" and output not in flat:
        return first in flat and axes.tolist() == [0]
    return {first, output} <= flat and 0 not in axes


_RULES: Final[dict[str, Callable[[ir.Node, Flat], bool]]] = {
    **dict.fromkeys((*_BY_ELEMENT, "Sqrt", "Cast"), _by_element),
    **dict.fromkeys(("LayerNormalization", "Softmax", "Split", "Concat"), _along_axis),
    **dict.fromkeys(_AXES_INPUT, _over_axes),
    "MatMul": _product,
    "Gather": _lookup,
    "Transpose": _transpose,
    "Reshape": _reshape,
}


def drop_leading_axis(graph: ir.Graph) -> None:
    """Drop it wherever that needs no operator more."""
    nodes = [node for node in graph if not node.domain]
    flat = {output for node in nodes for output in node.outputs if _has_leading_one(output)}
    while True:
        needed = {value for node in graph for value in _needed(node, flat)}
        if not needed:
            break
        flat -= needed
    for node in nodes:
        _rewrite(graph, node, flat)
    for value in flat:
        value.shape = ir.Shape(list(value.shape)[1:])
    remove_unused(graph)


def _has_leading_one(value: ir.Value) -> bool:
    shape = value.shape
    return shape is not None and len(shape) > 1 and shape[0] == 1 and not value.is_graph_output()


def _needed(node: ir.Node, flat: Flat) -> Flat:
    """Which of its flat values a node needs with their axis."""
    touched = {value for value in (*node.inputs, *node.outputs) if value in flat}
    rule = None if node.domain else _RULES.get(node.op_type)
    return touched if touched and (rule is None or not rule(node, flat)) else set()


def _rewrite(graph: ir.Graph, node: ir.Node, flat: Flat) -> None:
    """Make a node do without the axis of its flat values; it agreed to."""
    kind, output = node.op_type, node.outputs[0]
    if kind == "Squeeze" and output not in flat and node.inputs[0] in flat:
        ir.convenience.replace_all_uses_with(output, node.inputs[0], replace_graph_outputs=True)
    elif output not in flat:
        return
    elif kind in _AXIS and _axis(node) > 0:
        node.attributes["axis"] = ir.AttrInt64("axis", _axis(node) - 1)
    elif kind == "Transpose":
        node.attributes["perm"] = ir.AttrInt64s("perm", [axis - 1 for axis in _ints(node, "perm")[1:]])
    elif kind == "Reshape":
        _replace(graph, node, 1, _constant(node, 1)[1:])
    elif kind in _AXES_INPUT:
        axes = _axes(node)
        left = axes[axes != 0] - 1
        if len(left):
            _replace(graph, node, _AXES_INPUT[kind], left)
        else:
            ir.convenience.replace_all_uses_with(output, node.inputs[0])


def _rank(value: ir.Value) -> int:
    # An unknown shape has no rank that anything agrees with.
    return -1 if value.shape is None else len(value.shape)


def _axis(node: ir.Node) -> int:
    attribute = node.attributes.get("axis")
    return _AXIS[node.op_type] if attribute is None else int(attribute.as_int())


def _axes(node: ir.Node) -> Any:  # noqa: ANN401 (an array of integers, or None)
    """The axes that a node's input names, counted from the front; None if they are not constant."""
    at = _AXES_INPUT[node.op_type]
    axes = constant(node.inputs[at]) if len(node.inputs) > at else None
    counted = node.outputs[0] if node.op_type == "Unsqueeze" else node.inputs[0]
    return None if axes is None else np.where(axes < 0, axes + _rank(counted), axes)


def _ints(node: ir.Node, name: str) -> list[int]:
    attribute = node.attributes.get(name)
    return [] if attribute is None else list(attribute.as_ints())


def _constant(node: ir.Node, at: int) -> Any:  # noqa: ANN401 (an array of integers)
    return np.asarray(constant(node.inputs[at]))


def _replace(graph: ir.Graph, node: ir.Node, at: int, array: Any) -> None:  # noqa: ANN401 (an array of integers)
    node.replace_input_with(at, add_constant(graph, node.inputs[at].name, array))
