"""Constants of a graph, read and added."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnxscript import ir


def constant(value: ir.Value | None) -> NDArray[Any] | None:
    """The number or tensor that a value always is, or None."""
    if value is None or value.const_value is None or value.is_graph_input():
        return None
    array: NDArray[Any] = value.const_value.numpy()
    return array


def add_constant(graph: ir.Graph, like: str, array: NDArray[Any]) -> ir.Value:
    """A new initializer, named after the value that it takes the place of."""
    names = (like, *(f"{like}.{at}" for at in range(len(graph.initializers))))
    name = next(each for each in names if each not in graph.initializers)
    value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(ir.DataType.from_numpy(array.dtype)))
    value.const_value = ir.tensor(np.ascontiguousarray(array), name=name)
    graph.register_initializer(value)
    return value


def only_reader(value: ir.Value) -> ir.Node | None:
    """The one node that reads a value, or None if there are others or the graph answers it."""
    uses = list(value.uses())
    return uses[0].node if len(uses) == 1 and not value.is_graph_output() else None


def remove_unused(graph: ir.Graph) -> None:
    """Drop nodes and initializers that nobody reads."""
    for node in reversed(list(graph)):
        if not any(output.uses() or output.is_graph_output() for output in node.outputs):
            graph.remove(node, safe=True)
    for name in [
        name for name, value in graph.initializers.items() if not value.uses() and not value.is_graph_output()
    ]:
        del graph.initializers[name]
