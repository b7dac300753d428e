"""What the graphs of models that generate take and give, the same for every architecture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import torch
from headwaiter_proto.v1 import bundle_pb2
from torch import Tensor

from headwaiter_export.spec import GraphSpec
from headwaiter_export.spec import Tensor as TensorSpec

ENCODER_FILE: Final = "encoder.onnx"
DECODER_FILE: Final = "decoder.onnx"


@dataclass(frozen=True)
class CacheShape:
    """What a model keeps of every token.

    Attributes:
        num_layers: Layers that attend.
        num_heads: Heads of a layer whose keys and values are kept; fewer than those of its queries where these share.
        head_dim: Width of a head.
    """

    num_layers: int
    num_heads: int
    head_dim: int

    def names(self, prefix: str = "") -> list[str]:
        """Names of the tensors that hold it, in the order of the graphs' inputs."""
        return [f"{prefix}{part}_{layer}" for layer in range(self.num_layers) for part in ("key", "value")]

    def proto(self) -> bundle_pb2.KvCache:
        """The same for the manifest."""
        return bundle_pb2.KvCache(num_layers=self.num_layers, num_heads=self.num_heads, head_dim=self.head_dim)


def decoder_only(shape: CacheShape, vocab_size: int) -> GraphSpec:
    """The graph of a model without an encoder."""
    kept: tuple[int | str, ...] = ("rows", shape.num_heads, "capacity", shape.head_dim)
    return GraphSpec(
        bundle_pb2.GRAPH_ROLE_DECODER,
        DECODER_FILE,
        (
            TensorSpec("input_ids", "int64", ("rows", "tokens")),
            TensorSpec("past_lengths", "int64", ("rows",)),
            *(TensorSpec(name, "float32", kept) for name in shape.names()),
        ),
        (
            TensorSpec("logits", "float32", ("rows", vocab_size)),
            *(TensorSpec(f"new_{name}", "float32", kept) for name in shape.names()),
        ),
    )


def decoder_only_example(shape: CacheShape) -> tuple[Tensor, Tensor, list[tuple[Tensor, Tensor]]]:
    """Arguments to trace with: dynamic axes longer than 1, and different."""
    kept = (3, shape.num_heads, 8, shape.head_dim)
    past = [(torch.zeros(kept), torch.zeros(kept)) for _ in range(shape.num_layers)]
    return torch.ones(3, 2, dtype=torch.int64), torch.tensor([1, 4, 2]), past


def encoder_decoder(shape: CacheShape, vocab_size: int) -> tuple[GraphSpec, GraphSpec]:
    """The graphs of a model with an encoder."""
    kept: tuple[int | str, ...] = ("rows", shape.num_heads, "capacity", shape.head_dim)
    given: tuple[int | str, ...] = ("rows", shape.num_heads, "source", shape.head_dim)
    flat: tuple[int | str, ...] = ("tokens", shape.num_heads, shape.head_dim)
    # Of each layer its own, then those of the source.
    names, cross = shape.names(), shape.names("cross_")
    pairs = [((kept, names[at : at + 2]), (given, cross[at : at + 2])) for at in range(0, len(names), 2)]
    encoder = GraphSpec(
        bundle_pb2.GRAPH_ROLE_ENCODER,
        ENCODER_FILE,
        tuple(TensorSpec(name, "int64", ("tokens",)) for name in ("input_ids", "position_ids", "segment")),
        tuple(TensorSpec(name, "float32", flat) for name in shape.names("cross_")),
    )
    decoder = GraphSpec(
        bundle_pb2.GRAPH_ROLE_DECODER,
        DECODER_FILE,
        (
            TensorSpec("input_ids", "int64", ("rows", "tokens")),
            TensorSpec("past_lengths", "int64", ("rows",)),
            TensorSpec("source_lengths", "int64", ("rows",)),
            *(TensorSpec(name, "float32", axes) for pair in pairs for axes, names in pair for name in names),
        ),
        (
            TensorSpec("logits", "float32", ("rows", vocab_size)),
            TensorSpec("source_weights", "float32", ("rows", shape.num_layers, shape.num_heads, "source")),
            *(TensorSpec(f"new_{name}", "float32", kept) for name in shape.names()),
        ),
    )
    return encoder, decoder


def encoder_decoder_examples(shape: CacheShape) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Arguments to trace both graphs with: dynamic axes longer than 1, and different; no tensor twice."""
    kept, given = ((3, shape.num_heads, length, shape.head_dim) for length in (8, 5))
    layers = [tuple(torch.zeros(axes) for axes in (kept, kept, given, given)) for _ in range(shape.num_layers)]
    encoder = tuple(torch.tensor(ids) for ids in ([1, 2, 1, 2, 3, 1], [0, 1, 0, 1, 2, 0], [0, 0, 1, 1, 1, 2]))
    return encoder, (torch.ones(3, 2, dtype=torch.int64), torch.tensor([1, 4, 2]), torch.tensor([2, 5, 3]), layers)
