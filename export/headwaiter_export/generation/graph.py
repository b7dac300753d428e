"""The graph of a decoder-only model: tokens of each row, at its own place, to the logits of the next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from headwaiter_export.generation.cache import LOWEST, Cache
from headwaiter_export.generation.cached import reading
from headwaiter_export.generation.signature import CacheShape


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


class LastToken(nn.Module):
    """The layer that gives the logits, for the last of some tokens: a vocabulary is the widest layer of all."""

    def __init__(self, head: nn.Linear) -> None:
        super().__init__()
        self.head = head

    def forward(self, hidden: Tensor) -> Tensor:
        """`(rows, tokens, d_model)` to `(rows, 1, vocab)`."""
        # Of two axes: so it is one `Gemm` by the weights as they lie, which the embeddings may share.
        return functional.linear(hidden[:, -1], self.head.weight, self.head.bias).unsqueeze(1)


def answer_last(model: Any) -> None:  # noqa: ANN401 (one of transformers' many classes)
    """Have a model give no logits but the last token's; it cannot be used for anything else then."""
    head = model.get_output_embeddings()
    if isinstance(head, nn.Linear):
        model.set_output_embeddings(LastToken(head))


class DecoderGraph(nn.Module):
    """The model, with its cache as inputs and outputs."""

    def __init__(self, model: nn.Module, suppress: nn.Module) -> None:
        """Use the weights of `model`, which was loaded with `cached.ATTENTION`; `suppress` is a `Suppress`."""
        super().__init__()
        self.model = model
        self.suppress = suppress
        answer_last(model)

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
        cache = Cache.before(past, past_lengths, tokens)
        with reading(cache):
            logits = self.model(
                input_ids=input_ids,
                position_ids=positions,
                # Four axes pass for a finished mask, of which the attention then reads nothing.
                attention_mask=torch.zeros(1, 1, 1, 1),
                use_cache=False,
            ).logits
        return (self.suppress(logits[:, -1]), *cache.outputs())


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
