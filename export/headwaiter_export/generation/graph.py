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
# What must not count becomes this: the lowest finite number and not -inf, so that a sum with it stays a number.
LOWEST: Final = torch.finfo(torch.float32).min


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


class Suppress(nn.Module):
    """Logits without those of tokens that are never generated."""

    def __init__(self, suppressed: Sequence[int], vocab_size: int) -> None:
        super().__init__()
        self.any = bool(suppressed)
        mask = torch.zeros(vocab_size, dtype=torch.bool)
        mask[list(suppressed)] = True
        self.mask: Tensor
        self.register_buffer("mask", mask)

    def forward(self, logits: Tensor) -> Tensor:
        """`(rows, vocab)` to the same."""
        return torch.where(self.mask, LOWEST, logits) if self.any else logits


class DecoderGraph(nn.Module):
    """The model, with its cache as inputs and outputs."""

    def __init__(self, model: nn.Module, suppress: nn.Module) -> None:
        """Use the weights of `model`, which was loaded with `cached.ATTENTION`; `suppress` is a `Suppress`."""
        super().__init__()
        self.model = model
        self.suppress = suppress
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
        return (self.suppress(logits[:, -1]), *(tensor for pair in written for tensor in pair))


def decoder_spec(shape: CacheShape, vocab_size: int) -> GraphSpec:
    """The signature of the graph."""
    kept: tuple[int | str, ...] = ("rows", shape.num_heads, "capacity", shape.head_dim)
    return GraphSpec(
        bundle_pb2.GRAPH_ROLE_DECODER,
        FILE_NAME,
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


def example(shape: CacheShape) -> tuple[Tensor, Tensor, list[tuple[Tensor, Tensor]]]:
    """Arguments to trace with: dynamic axes longer than 1, and different."""
    kept = (3, shape.num_heads, 8, shape.head_dim)
    past = [(torch.zeros(kept), torch.zeros(kept)) for _ in range(shape.num_layers)]
    return torch.ones(3, 2, dtype=torch.int64), torch.tensor([1, 4, 2]), past


def cache_shape(stack: nn.Module, config: Any) -> CacheShape:  # noqa: ANN401 (one of transformers' many classes)
    """What a model keeps.

    Args:
        stack: What generates: the model, or its decoder.
        config: Its configuration.
    """
    numbers = {each.layer_idx for each in stack.modules() if isinstance(getattr(each, "layer_idx", None), int)}
    heads = int(getattr(config, "decoder_attention_heads", None) or config.num_attention_heads)
    stated = getattr(config, "head_dim", None) or getattr(config, "d_kv", None)
    kept = getattr(config, "num_key_value_heads", None)
    return CacheShape(len(numbers), int(kept or heads), int(stated or config.hidden_size // heads))
