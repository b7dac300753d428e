"""Small ONNX graphs of models that generate, with random weights and the cache in place."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from headwaiter_server.model.cached import CachedModel
from headwaiter_server.model.kv_cache import CacheGeometry
from headwaiter_server.model.onnx import OnnxGraph
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

VOCAB = 50
# To read it, as a source as well, makes the model compute NaN.
POISON = VOCAB - 1
START, END = 1, 7
PLACES = 64
LAYERS, HEADS, HEAD_DIM = 2, 2, 16
CACHE = CacheGeometry(LAYERS, HEADS, HEAD_DIM)
_WIDTH = HEADS * HEAD_DIM
_LOWEST = np.finfo(np.float32).min


@dataclass
class _Draft:
    """A graph while it is being made; every weight that it asks for is another."""

    nodes: list[NodeProto] = field(default_factory=list)
    constants: dict[str, NDArray[np.generic]] = field(default_factory=dict)
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(5))

    def node(self, kind: str, inputs: list[str], outputs: list[str], **attributes: Any) -> None:  # noqa: ANN401 - as onnx has them
        self.nodes.append(helper.make_node(kind, inputs, outputs, **attributes))

    def weights(self, name: str, *shape: int) -> str:
        self.constants[name] = self.random.normal(0.0, 0.5, shape).astype(np.float32)
        return name

    def numbers(self, name: str, *numbers: int) -> str:
        self.constants[name] = np.array(numbers, np.int64)
        return name

    def table(self, name: str) -> str:
        """What tokens are read as."""
        self.weights(name, VOCAB, _WIDTH)
        self.constants[name][POISON] = np.nan
        return name

    def bytes_of(self, inputs: list[ValueInfoProto], outputs: list[ValueInfoProto]) -> bytes:
        constants = [numpy_helper.from_array(values, name) for name, values in self.constants.items()]
        graph = helper.make_graph(self.nodes, "graph", inputs, outputs, constants)
        opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
        content: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()
        return content


def encoder_bytes() -> bytes:
    """An encoder whose tokens do not look at one another: only their places count."""
    draft = _Draft()
    draft.numbers("sizes", -1, HEADS, HEAD_DIM)
    names = CACHE.names("cross_")
    for name in names:
        draft.node("Gather", [draft.table(f"table_{name}"), "input_ids"], [f"token_{name}"])
        draft.node("Gather", [draft.weights(f"places_{name}", PLACES, _WIDTH), "position_ids"], [f"place_{name}"])
        draft.node("Add", [f"token_{name}", f"place_{name}"], [f"flat_{name}"])
        draft.node("Reshape", [f"flat_{name}", "sizes"], [name])
    inputs = [_info(name, TensorProto.INT64, ["tokens"]) for name in ("input_ids", "position_ids", "segment")]
    return draft.bytes_of(inputs, [_info(name, TensorProto.FLOAT, ["tokens", HEADS, HEAD_DIM]) for name in names])


def decoder_bytes(*, encoder: bool = False, places: int = PLACES) -> bytes:
    """Attention with rotary positions, and nothing else, in two layers.

    Args:
        encoder: Whether each layer looks at a source, too.
        places: Tokens of a text, at most.
    """
    draft = _Draft()
    angles = np.outer(np.arange(places), 50.0 ** (-np.arange(HEAD_DIM // 2) / 8))
    draft.constants |= {"cosines": np.cos(angles).astype(np.float32), "sines": np.sin(angles).astype(np.float32)}
    draft.constants |= {"one": np.array(1, np.int64)}
    draft.node("Shape", ["input_ids"], ["sizes"])
    draft.node("Gather", ["sizes", "one"], ["tokens"])
    draft.node("Add", ["past_lengths", "tokens"], ["ends"])
    draft.node("Sub", ["ends", "one"], ["lasts"])
    draft.node("Cast", ["lasts"], ["last_places"], to=TensorProto.INT32)
    draft.node("ReduceMax", ["ends"], ["longest"], keepdims=0)
    draft.node("Cast", ["longest"], ["total"], to=TensorProto.INT32)
    draft.node("Gather", [draft.table("table"), "input_ids"], ["hidden_0"])
    if encoder:
        _mask_sources(draft)
    for layer in range(LAYERS):
        _add_layer(draft, layer, f"seen_{layer}" if encoder else f"hidden_{layer + 1}")
        if encoder:
            _look_at_source(draft, layer)
    draft.node("Gather", [f"hidden_{LAYERS}", draft.numbers("last", -1)], ["last_hidden"], axis=1)
    draft.node("Squeeze", ["last_hidden", draft.numbers("axis", 1)], ["flat"])
    draft.node("MatMul", ["flat", draft.weights("head", _WIDTH, VOCAB)], ["logits"])
    draft.constants["head"][:, POISON] = 0.0  # which is never the likeliest
    kept: list[int | str] = ["rows", HEADS, "capacity", HEAD_DIM]
    inputs = [
        _info("input_ids", TensorProto.INT64, ["rows", "tokens"]),
        _info("past_lengths", TensorProto.INT64, ["rows"]),
        *(_info(name, TensorProto.FLOAT, kept) for name in CACHE.names()),
    ]
    outputs = [
        _info("logits", TensorProto.FLOAT, ["rows", VOCAB]),
        *(_info(f"new_{name}", TensorProto.FLOAT, kept) for name in CACHE.names()),
    ]
    if encoder:
        draft.node("Concat", [f"weights_{layer}" for layer in range(LAYERS)], ["source_weights"], axis=1)
        given: list[int | str] = ["rows", HEADS, "source", HEAD_DIM]
        inputs += [_info("source_lengths", TensorProto.INT64, ["rows"])]
        inputs += [_info(name, TensorProto.FLOAT, given) for name in CACHE.names("cross_")]
        outputs += [_info("source_weights", TensorProto.FLOAT, ["rows", LAYERS, HEADS, "source"])]
    return draft.bytes_of(inputs, outputs)


def _add_layer(draft: _Draft, layer: int, output: str) -> None:
    own = [f"own_{part}_{layer}" for part in ("query", "key", "value")]
    for name in own:
        draft.node("MatMul", [f"hidden_{layer}", draft.weights(f"to_{name}", _WIDTH, _WIDTH)], [name])
    draft.node(
        "GroupQueryAttention",
        [*own, f"key_{layer}", f"value_{layer}", "last_places", "total", "cosines", "sines"],
        [f"attended_{layer}", f"new_key_{layer}", f"new_value_{layer}"],
        domain="com.microsoft",
        num_heads=HEADS,
        kv_num_heads=HEADS,
        do_rotary=1,
    )
    draft.node("Add", [f"hidden_{layer}", f"attended_{layer}"], [output])


def _mask_sources(draft: _Draft) -> None:
    """What is added to scores, `(rows, 1, 1, source)`: nothing for a row's own source, and a lot less beyond it."""
    draft.constants |= {"zero": np.array(0, np.int64), "nothing": np.array(0, np.float32)}
    draft.constants |= {"lowest": np.array(_LOWEST, np.float32)}
    draft.node("Shape", ["cross_key_0"], ["source_sizes"])
    draft.node("Gather", ["source_sizes", draft.numbers("third", 2)], ["columns"])
    draft.node("Squeeze", ["columns"], ["column_count"])
    draft.node("Range", ["zero", "column_count", "one"], ["column_numbers"])
    draft.node("Unsqueeze", ["source_lengths", draft.numbers("three_axes", 1, 2, 3)], ["lengths"])
    draft.node("Less", ["column_numbers", "lengths"], ["is_own"])
    draft.node("Where", ["is_own", "nothing", "lowest"], ["mask"])
    draft.numbers("split", 0, 0, HEADS, HEAD_DIM)
    draft.numbers("joined", 0, 0, _WIDTH)


def _look_at_source(draft: _Draft, layer: int) -> None:
    draft.node("MatMul", [f"seen_{layer}", draft.weights(f"to_source_{layer}", _WIDTH, _WIDTH)], [f"asked_{layer}"])
    draft.node("Reshape", [f"asked_{layer}", "split"], [f"split_{layer}"])
    draft.node("Transpose", [f"split_{layer}"], [f"queries_{layer}"], perm=[0, 2, 1, 3])
    draft.node("Transpose", [f"cross_key_{layer}"], [f"keys_{layer}"], perm=[0, 1, 3, 2])
    draft.node("MatMul", [f"queries_{layer}", f"keys_{layer}"], [f"scores_{layer}"])
    draft.node("Add", [f"scores_{layer}", "mask"], [f"masked_{layer}"])
    draft.node("Softmax", [f"masked_{layer}"], [f"shares_{layer}"], axis=-1)
    draft.node("MatMul", [f"shares_{layer}", f"cross_value_{layer}"], [f"mixed_{layer}"])
    draft.node("Transpose", [f"mixed_{layer}"], [f"rows_{layer}"], perm=[0, 2, 1, 3])
    draft.node("Reshape", [f"rows_{layer}", "joined"], [f"found_{layer}"])
    draft.node("Add", [f"seen_{layer}", f"found_{layer}"], [f"hidden_{layer + 1}"])
    # (rows, heads, tokens, source) to those of the last token, (rows, 1, heads, source)
    draft.node("Gather", [f"shares_{layer}", "last"], [f"last_shares_{layer}"], axis=2)
    draft.node("Transpose", [f"last_shares_{layer}"], [f"weights_{layer}"], perm=[0, 2, 1, 3])


def small_model(*, encoder: bool = False, places: int = PLACES) -> CachedModel:
    """The model of these graphs, for texts of so many tokens."""
    return CachedModel(
        OnnxGraph.load("decoder", decoder_bytes(encoder=encoder, places=places), 1),
        OnnxGraph.load("encoder", encoder_bytes(), 1) if encoder else None,
        CACHE,
        vocab_size=VOCAB,
        max_total_tokens=places,
        start_id=START if encoder else None,
        end_ids=frozenset({END}),
    )


def _info(name: str, kind: int, axes: list[int | str]) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, axes)
