"""Small ONNX graphs of encoder models, whose answers can be worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from headwaiter_server.encoding import Encoding
from headwaiter_server.model.contract import FloatArray
from headwaiter_server.model.onnx import OnnxGraph
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

_PACKED = {"input_ids": ["tokens"], "position_ids": ["tokens"], "segment": ["tokens"], "text_starts": ["texts"]}
_PADDED = {"input_ids": ["texts", "length"], "attention_mask": ["texts", "length"]}


def expected(source: Encoding) -> FloatArray:
    """The raw answer of the graphs below: a sum over the text that knows ids, places, types, and the first token."""
    types = source.type_ids or [0] * len(source)
    return np.array(
        [
            sum(source.ids),
            sum(place * token for place, token in enumerate(source.ids)),
            sum(kind * token for kind, token in zip(types, source.ids, strict=True)),
            source.ids[0],
        ],
        np.float32,
    )


def packed_bytes(*, per_token: bool = False, scalar: bool = False) -> bytes:
    """A packed graph with outputs `embedding`, see `expected`, and `unit_embedding`, of length 1.

    Args:
        per_token: Outputs `scores`, the token's id and its text's first id, and `probabilities`, a hundredth of them.
        scalar: Outputs `scores`, the text's sum of ids, and `probabilities`, a hundredth of it.
    """
    nodes = [
        *_cast("input_ids", "ids"),
        *_cast("position_ids", "places"),
        *_cast("token_type_ids", "types"),
        helper.make_node("Gather", ["ids", "text_starts"], ["first"]),
        helper.make_node("Shape", ["text_starts"], ["texts"]),
        helper.make_node("Squeeze", ["texts"], ["texts_scalar"]),
        helper.make_node("Range", ["zero", "texts_scalar", "one"], ["numbers"]),
        helper.make_node("Unsqueeze", ["numbers", "last"], ["column"]),
        helper.make_node("Equal", ["column", "segment"], ["member"]),
        *_cast("member", "membership"),
    ]
    if per_token:
        nodes += [
            helper.make_node("Gather", ["first", "segment"], ["first_of_each"]),
            *_stacked(["ids", "first_of_each"], "scores"),
        ]
        return _model(nodes, _PACKED, "scores", ["tokens", 2])
    summed = [node for name in ("ids", "places", "types") for node in _summed_packed(name)]
    if scalar:
        return _model([*nodes, *summed, _identity("sum_ids", "scores")], _PACKED, "scores", ["texts"])
    nodes += [*summed, *_stacked(["sum_ids", "sum_places", "sum_types", "first"], "embedding")]
    return _model(nodes, _PACKED, "embedding", ["texts", 4])


def padded_bytes(*, per_token: bool = False) -> bytes:
    """A padded graph with the same outputs."""
    nodes = [
        *_cast("input_ids", "unmasked"),
        *_cast("attention_mask", "mask"),
        *_cast("token_type_ids", "types"),
        helper.make_node("Mul", ["unmasked", "mask"], ["ids"]),
        helper.make_node("Gather", ["ids", "zero"], ["first"], axis=1),
    ]
    if per_token:
        nodes += [
            helper.make_node("Unsqueeze", ["first", "last"], ["first_column"]),
            helper.make_node("Mul", ["first_column", "mask"], ["first_of_each"]),
            *_stacked(["ids", "first_of_each"], "scores"),
        ]
        return _model(nodes, _PADDED, "scores", ["texts", "length", 2])
    nodes += [
        helper.make_node("CumSum", ["mask", "one"], ["counted"]),
        helper.make_node("Sub", ["counted", "mask"], ["places"]),
    ]
    for name in ("ids", "places", "types"):
        values = "ids" if name == "ids" else f"{name}_times_ids"
        if name != "ids":
            nodes.append(helper.make_node("Mul", [name, "ids"], [values]))
        nodes.append(helper.make_node("ReduceSum", [values, "last"], [f"sum_{name}"], keepdims=0))
    nodes += _stacked(["sum_ids", "sum_places", "sum_types", "first"], "embedding")
    return _model(nodes, _PADDED, "embedding", ["texts", 4])


def endless_bytes() -> bytes:
    """A packed graph that computes for a minute or so, in small steps."""
    step = helper.make_graph(
        [
            helper.make_node("MatMul", ["state", "matrix"], ["next"]),
            helper.make_node("Identity", ["go_on"], ["go_on_still"]),
        ],
        "step",
        [
            helper.make_tensor_value_info("number", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("go_on_still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, None),
        ],
    )
    nodes = [
        *_cast("text_starts", "starts"),
        helper.make_node("Unsqueeze", ["starts", "last"], ["starts_column"]),
        helper.make_node("MatMul", ["starts_column", "row"], ["begin"]),
        helper.make_node("Loop", ["steps", "", "begin"], ["embedding"], body=step),
    ]
    constants: dict[str, NDArray[np.generic]] = {
        "row": np.ones((1, 8), np.float32),
        "matrix": np.eye(8, dtype=np.float32),
        "steps": np.array(1 << 24, np.int64),
    }
    return _model(nodes, _PACKED, "embedding", ["texts", 8], constants)


def opened(content: bytes) -> OnnxGraph:
    return OnnxGraph.load("graph", content, 1)


def encodings(lengths: Sequence[int]) -> list[Encoding]:
    """Texts of these lengths, no two tokens alike; every other one with token types."""
    sources, token = [], 1
    for number, length in enumerate(lengths):
        ids = list(range(token, token + length))
        sources.append(Encoding(ids, [place % 2 for place in range(length)] if number % 2 else None))
        token += length
    return sources


def _cast(name: str, to: str) -> list[NodeProto]:
    return [helper.make_node("Cast", [name], [to], to=TensorProto.FLOAT)]


def _identity(name: str, to: str) -> NodeProto:
    return helper.make_node("Identity", [name], [to])


def _summed_packed(name: str) -> list[NodeProto]:
    """`sum_NAME`: over each text, of the ids, or of something times the ids."""
    values = "ids" if name == "ids" else f"{name}_times_ids"
    weigh = [] if name == "ids" else [helper.make_node("Mul", [name, "ids"], [values])]
    return [*weigh, helper.make_node("MatMul", ["membership", values], [f"sum_{name}"])]


def _stacked(names: Sequence[str], to: str) -> list[NodeProto]:
    columns = [helper.make_node("Unsqueeze", [name, "last"], [f"{name}_as_column"]) for name in names]
    return [*columns, helper.make_node("Concat", [f"{name}_as_column" for name in names], [to], axis=-1)]


def _model(
    nodes: list[NodeProto],
    inputs: dict[str, list[str]],
    raw: str,
    shape: list[str | int],
    constants: dict[str, NDArray[np.generic]] | None = None,
) -> bytes:
    """The whole graph, with its finished output after the raw one."""
    finished = {"embedding": "unit_embedding", "scores": "probabilities"}[raw]
    if raw == "embedding":
        nodes = [*nodes, helper.make_node("LpNormalization", [raw], [finished], axis=-1, p=2)]
    else:
        nodes = [*nodes, helper.make_node("Mul", [raw, "hundredth"], [finished])]
    known: dict[str, NDArray[np.generic]] = {
        "zero": np.array(0, np.int64),
        "one": np.array(1, np.int64),
        "last": np.array([-1], np.int64),
        "hundredth": np.array(0.01, np.float32),
    }
    axes = inputs | {"token_type_ids": inputs["input_ids"]}
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, TensorProto.INT64, each) for name, each in axes.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in (raw, finished)],
        [numpy_helper.from_array(value, name) for name, value in (known | (constants or {})).items()],
    )
    # Old versions, so that every onnxruntime that the server runs on reads them.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    content: bytes = model.SerializeToString()
    return content
