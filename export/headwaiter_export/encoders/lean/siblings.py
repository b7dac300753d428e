"""Linear layers that read the same value become one, whose output is split."""

from __future__ import annotations

import numpy as np
from onnxscript import ir

from headwaiter_export.encoders.lean.constants import add_constant, remove_unused
from headwaiter_export.encoders.lean.linear import Linear, linear_of


def join_siblings(graph: ir.Graph) -> None:
    """Join all linear layers of one input that agree on whether there is a bias."""
    families: dict[tuple[ir.Value, bool], list[Linear]] = {}
    for node in graph:
        layer = linear_of(node)
        if layer is not None and node.inputs[0] is not None:
            families.setdefault((node.inputs[0], layer.bias is None), []).append(layer)
    for (value, _), layers in families.items():
        if len(layers) > 1 and not any(layer.output.is_graph_output() for layer in layers):
            _join(graph, value, layers)
    remove_unused(graph)


def _join(graph: ir.Graph, value: ir.Value, layers: list[Linear]) -> None:
    first = layers[0]
    weight_name, width = first.product.inputs[1].name, sum(layer.weight.shape[1] for layer in layers)
    weight = add_constant(graph, weight_name, np.concatenate([layer.weight for layer in layers], 1))
    product = ir.node("MatMul", [value, weight])
    nodes = [product]
    if first.sum is not None:
        bias = add_constant(
            graph, f"{weight_name}.bias", np.concatenate([layer.bias for layer in layers if layer.bias is not None])
        )
        nodes.append(ir.node("Add", [product.outputs[0], bias]))
    sizes = add_constant(graph, f"{weight_name}.sizes", np.array([layer.weight.shape[1] for layer in layers]))
    split = ir.node("Split", [nodes[-1].outputs[0], sizes], {"axis": -1}, num_outputs=len(layers))
    shape = first.output.shape
    for node in nodes:
        output = node.outputs[0]
        output.type = first.output.type
        if shape is not None:
            output.shape = ir.Shape([*shape[:-1], width])
    # Before the first reader of any of them, which stands behind the first of them.
    graph.insert_before(first.product, [*nodes, split])
    for layer, output in zip(layers, split.outputs, strict=True):
        output.shape, output.type = layer.output.shape, layer.output.type
        ir.convenience.replace_all_uses_with(layer.output, output)
