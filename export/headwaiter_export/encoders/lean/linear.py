"""A linear layer as a traced graph has it: `MatMul` by a constant matrix, and an `Add` of a constant vector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from onnxscript import ir

from headwaiter_export.encoders.lean.constants import add_constant, constant, only_reader, remove_unused

_MATRIX: Final = 2  # axes


@dataclass(frozen=True)
class Linear:
    """One linear layer.

    Attributes:
        product: Its `MatMul`.
        weight: `(in, out)`.
        sum: Its `Add`, if it has a bias.
        bias: `(out,)`, if it has one.
    """

    product: ir.Node
    weight: NDArray[Any]
    sum: ir.Node | None = None
    bias: NDArray[Any] | None = None

    @property
    def output(self) -> ir.Value:
        """What it computes."""
        return (self.sum or self.product).outputs[0]


def linear_of(product: ir.Node) -> Linear | None:
    """The linear layer that a node begins, or None."""
    if product.op_type != "MatMul" or product.domain:
        return None
    weight = constant(product.inputs[1])
    if weight is None or weight.ndim != _MATRIX or weight.dtype != np.float32:
        return None
    after = only_reader(product.outputs[0])
    if after is not None and after.op_type == "Add":
        others = [value for value in after.inputs if value is not product.outputs[0]]
        bias = constant(others[0]) if len(others) == 1 else None
        if bias is not None and bias.shape == weight.shape[1:]:
            return Linear(product, weight, after, bias)
    return Linear(product, weight)


def name_weights(graph: ir.Graph) -> None:
    """Call each weight after its bias; the exporter, which transposed it, calls it `val_39`."""
    for node in graph:
        layer = linear_of(node)
        if layer is None or layer.sum is None:
            continue
        bias = next(value for value in layer.sum.inputs if value is not node.outputs[0])
        if bias.name.endswith(".bias"):
            name = f"{bias.name.removesuffix('bias')}weight"
            node.replace_input_with(1, add_constant(graph, name, layer.weight))
    remove_unused(graph)
