"""Constant factors go into the weights of the linear layer they follow."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from onnxscript import ir

from headwaiter_export.encoders.lean.constants import add_constant, constant, only_reader, remove_unused
from headwaiter_export.encoders.lean.linear import Linear, linear_of

# Operators that only move numbers about: a factor may pass them.
_MOVES: Final = frozenset({"Reshape", "Transpose", "Unsqueeze", "Squeeze", "Identity"})


def fold_factors(graph: ir.Graph) -> None:
    """Multiply weights and bias by the factor, and drop the product with it.

    Works on `x * c` and `x / c` where x is a linear layer's output, only moved about, or the matrix product of such
    an x with something else: attention scores.
    """
    for node in list(graph):
        factor = _factor(node)
        if factor is None:
            continue
        value, number = factor
        layer = _source(value)
        if layer is None:
            continue
        _replace(graph, layer.product, 1, layer.weight * number)
        if layer.sum is not None and layer.bias is not None:
            at = 0 if constant(layer.sum.inputs[0]) is not None else 1
            _replace(graph, layer.sum, at, layer.bias * number)
        ir.convenience.replace_all_uses_with(node.outputs[0], value)
    remove_unused(graph)


def _factor(node: ir.Node) -> tuple[ir.Value, np.float32] | None:
    """What a node multiplies, and by which number."""
    if node.op_type not in ("Mul", "Div") or node.domain or node.outputs[0].is_graph_output():
        return None
    first, second = node.inputs
    for value, other in ((first, second), (second, first)):
        number = constant(other)
        if number is not None and number.size == 1 and number.dtype == np.float32 and constant(value) is None:
            if node.op_type == "Mul":
                return value, np.float32(number.item())
            if other is second:
                return value, np.float32(1 / number.item())
    return None


def _source(value: ir.Value) -> Linear | None:
    """The linear layer that alone decides a value and is read by nothing else."""
    node = value.producer()
    passed_product = False
    while node is not None and only_reader(value) is not None:
        layer = linear_of(node)
        if layer is not None:
            return layer
        if node.op_type == "Add":
            product = next((each.producer() for each in node.inputs if constant(each) is None), None)
            layer = None if product is None else linear_of(product)
            return layer if layer is not None and layer.sum is node else None
        if node.op_type == "MatMul" and not passed_product:
            passed_product = True
        elif node.op_type not in _MOVES:
            return None
        value = node.inputs[0]
        node = value.producer()
    return None


def _replace(graph: ir.Graph, node: ir.Node, at: int, array: NDArray[Any]) -> None:
    old = node.inputs[at]
    node.replace_input_with(at, add_constant(graph, old.name, array))
