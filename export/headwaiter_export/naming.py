"""Names of a graph's outputs, kept apart from the names that the exporter gave to values inside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import onnx

from headwaiter_export.spec import GraphSpec


def unnamed(spec: GraphSpec) -> GraphSpec:
    """The spec with outputs named as no operator is: what to trace with before `name_outputs`."""
    return replace(spec, outputs=tuple(replace(tensor, name=f"output:{tensor.name}") for tensor in spec.outputs))


def name_outputs(model: onnx.ModelProto, names: Sequence[str]) -> None:
    """Give the outputs their names; values inside that are called so get other ones.

    The exporter calls values after the operators they come from, and `embedding` is one: both a value inside and
    an output of that name would be a file that onnxruntime does not load.
    """
    graph = model.graph
    renamed = {value.name: name for value, name in zip(graph.output, names, strict=True)}
    taken = {each for node in graph.node for each in (*node.input, *node.output)}
    taken |= {tensor.name for tensor in graph.initializer} | set(names)
    for name in names:
        if name not in renamed:
            renamed[name] = next(other for at in range(len(taken)) if (other := f"{name}_{at}") not in taken)
    for node in graph.node:
        for names_of in (node.input, node.output):
            for at, each in enumerate(names_of):
                names_of[at] = renamed.get(each, each)
    for value in (*graph.value_info, *graph.output):
        value.name = renamed.get(value.name, value.name)
    for tensor in graph.initializer:
        tensor.name = renamed.get(tensor.name, tensor.name)
