"""The graph of a decoder-only model: tokens of each row, at its own place, to the logits of the next."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from headwaiter_proto.v1 import bundle_pb2
from torch import Tensor, nn

from headwaiter_export.generation.cached import cache
from headwaiter_export.spec import GraphSpec
from headwaiter_export.spec import Tensor as TensorSpec

FILE_NAME: Final = "decoder.onnx"


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


class DecoderGraph(nn.Module):
    """The model, with its cache as inputs and outputs."""

    def __init__(self, model: nn.Module) -> None:
        """Use the weights of `model`, which was loaded with `cached.ATTENTION`."""
        super().__init__()
        self.model = model
        # Without it the logits of every token are computed, and a vocabulary is the widest layer of all.
        self._keeps_last = "logits_to_keep" in inspect.signature(model.forward).parameters

    def forward(self, input_ids: Tensor, past_lengths: Tensor, past: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, ...]:
        """Run the model.

        Args:
            input_ids: `(rows, tokens)`: what comes behind the tokens that a row has in the cache.
            past_lengths: `(rows,)`: how many those are.
            past: Keys and values of each layer, `(rows, kv_heads, capacity, head_dim)`. What lies beyond a row's own
                tokens may be anything finite.

        Returns:
            Logits of what follows each row's last token, `(rows, vocab)`; then `past` with the new columns.
        """
        tokens = input_ids.size(1)
        positions = past_lengths.unsqueeze(1) + torch.arange(tokens)
        more: dict[str, Any] = {"logits_to_keep": 1} if self._keeps_last else {}
        with cache(past, past_lengths, tokens) as state:
            logits = self.model(
                input_ids=input_ids,
                position_ids=positions,
                # Four axes pass for a finished mask, of which the attention then reads nothing.
                attention_mask=torch.zeros(1, 1, 1, 1),
                use_cache=False,
                **more,
            ).logits
        written = [state.written[layer] for layer in range(len(past))]
        return (logits[:, -1], *(tensor for pair in written for tensor in pair))


def decoder_spec(shape: CacheShape, vocab_size: int) -> GraphSpec:
    """The signature of the graph."""
    pairs = [f"{part}_{layer}" for layer in range(shape.num_layers) for part in ("key", "value")]
    kept: tuple[int | str, ...] = ("rows", shape.num_heads, "capacity", shape.head_dim)
    return GraphSpec(
        bundle_pb2.GRAPH_ROLE_DECODER,
        FILE_NAME,
        (
            TensorSpec("input_ids", "int64", ("rows", "tokens")),
            TensorSpec("past_lengths", "int64", ("rows",)),
            *(TensorSpec(name, "float32", kept) for name in pairs),
        ),
        (
            TensorSpec("logits", "float32", ("rows", vocab_size)),
            *(TensorSpec(f"new_{name}", "float32", kept) for name in pairs),
        ),
    )


def example(shape: CacheShape) -> tuple[Tensor, Tensor, list[tuple[Tensor, Tensor]]]:
    """Arguments to trace with: dynamic axes longer than 1, and different."""
    kept = (3, shape.num_heads, 8, shape.head_dim)
    past = [(torch.zeros(kept), torch.zeros(kept)) for _ in range(shape.num_layers)]
    return torch.ones(3, 2, dtype=torch.int64), torch.tensor([1, 4, 2]), past


def cache_shape(model: nn.Module) -> CacheShape:
    """What a model keeps, by its configuration and the first of its attentions."""
    config: Any = model.config
    layers = [each for each in model.modules() if isinstance(getattr(each, "layer_idx", None), int)]
    numbers: Sequence[int] = sorted({int(layer.layer_idx) for layer in layers})  # type: ignore[arg-type]
    heads = int(config.num_attention_heads)
    stated = getattr(config, "head_dim", None)
    kept = getattr(config, "num_key_value_heads", None)
    return CacheShape(len(numbers), int(kept or heads), int(stated or config.hidden_size // heads))
