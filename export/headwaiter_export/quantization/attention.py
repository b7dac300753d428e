"""Attention whose weights add up to the same sum in whatever order."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import onnx
from onnx import helper, numpy_helper

from headwaiter_export.quantization.products import attribute, consumers

# Weights become whole numbers of at most this; fp32 adds whole numbers without error below 2^24, so up to 2048 keys
# may have full weight at once.
_LEVELS: Final = 8192.0


def make_sums_exact(model: onnx.ModelProto) -> int:
    """Rewrite, in place, each softmax that weighs values; how many.

    A vectorised softmax adds its row in an order that depends on where the row begins and how long it is, so a text's
    sum changes in the last bit with its batch-mates. In fp32 that is all; between two roundings to int8 it
    sometimes decides which way one goes, and what follows differs visibly. Whole numbers have one sum. The division
    comes after the product with the values, which is smaller.
    """
    readers = consumers(model)
    outputs = {value.name for value in model.graph.output}
    nodes: list[onnx.NodeProto] = []
    dividing: dict[str, tuple[str, str]] = {}  # the softmax's output -> its whole numbers and their sum
    for node in model.graph.node:
        if node.op_type == "Softmax" and attribute(node, "axis", -1) == -1:
            weights = node.output[0]
            after = readers[weights]
            weighing = [each for each in after if each.op_type == "MatMul" and each.input[0] == weights]
            if weighing:
                nodes += _whole_numbers(node.input[0], weights)
                dividing[weights] = (f"{weights}/whole", f"{weights}/sum")
                if len(after) > len(weighing) or weights in outputs:
                    # Somebody wants to know what was attended to.
                    nodes.append(helper.make_node("Div", [*dividing[weights]], [weights]))
                continue
        if node.op_type == "MatMul" and node.input[0] in dividing:
            weights, total = dividing[node.input[0]]
            product = f"{node.output[0]}/undivided"
            nodes.append(helper.make_node("MatMul", [weights, node.input[1]], [product]))
            nodes.append(helper.make_node("Div", [product, total], [node.output[0]]))
            continue
        nodes.append(node)
    if dividing:
        # Copies, because the list still owns some of them.
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del model.graph.node[:]
        model.graph.node.extend(copies)
        model.graph.initializer.append(numpy_helper.from_array(np.array([-1], np.int64), "int8/last_axis"))
        levels = np.array(np.log(_LEVELS), np.float32)
        model.graph.initializer.append(numpy_helper.from_array(levels, "int8/log_levels"))
    return len(dividing)


def _whole_numbers(scores: str, prefix: str) -> list[onnx.NodeProto]:
    """`round(levels * exp(scores - max))` and its sum over the last axis."""

    def node(kind: str, inputs: list[str], output: str, **attributes: Any) -> onnx.NodeProto:  # noqa: ANN401 (of any type)
        return helper.make_node(kind, inputs, [f"{prefix}/{output}"], **attributes)

    return [
        node("ReduceMax", [scores, "int8/last_axis"], "largest", keepdims=1),
        # Only (.., rows, 1): levels * exp(s) = exp(s + log(levels)).
        node("Sub", [f"{prefix}/largest", "int8/log_levels"], "offset"),
        node("Sub", [scores, f"{prefix}/offset"], "shifted"),
        node("Exp", [f"{prefix}/shifted"], "exponentials"),
        node("Round", [f"{prefix}/exponentials"], "whole"),
        node("ReduceSum", [f"{prefix}/whole", "int8/last_axis"], "sum", keepdims=1),
    ]
