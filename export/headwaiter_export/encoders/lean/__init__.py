"""Passes over a traced graph that leave its answers and take away its time.

What onnxruntime does with a graph by itself when it loads it (a product and its bias to one `Gemm`, transposes into
products) is left to it; these passes bring the graph into the shape in which it can:

- `scale`: constant factors behind a linear layer, such as 1/sqrt(d_k), go into its weights;
- `siblings`: linear layers that read the same value, such as query, key and value, become one;
- `flat`: the leading axis of a single row goes, so that activations are matrices.

Every linear layer stays a `MatMul` by a two-dimensional fp32 initializer, its second input, followed by an `Add`
where it has a bias: what makes smaller variants looks for just that.
"""

from __future__ import annotations

import onnx
from onnxscript import ir

from headwaiter_export.encoders.lean.flat import drop_leading_axis
from headwaiter_export.encoders.lean.linear import name_weights
from headwaiter_export.encoders.lean.scale import fold_factors
from headwaiter_export.encoders.lean.siblings import join_siblings

__all__ = ["lean"]


def lean(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph, faster."""
    program = ir.serde.deserialize_model(model)
    name_weights(program.graph)
    fold_factors(program.graph)
    join_siblings(program.graph)
    drop_leading_axis(program.graph)
    faster: onnx.ModelProto = ir.serde.serialize_model(program)
    return faster
