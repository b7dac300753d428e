"""Attention to a key/value cache that the graph writes in place.

Every row of a run stands at its own place: row r has `past_lengths[r]` tokens in the cache, and reads those that come
now behind them. The attention of the model is replaced by onnxruntime's operator for that, `GroupQueryAttention`, which
writes the new keys and values into the cache and attends to what the row has and no more. So nothing is copied that
was computed before, and no row is padded to the length of another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

ATTENTION: Final = "headwaiter_cached"

_FLOAT: Final = 1  # ONNX's number for fp32
# What the operator understands as "no window".
_EVERYTHING: Final = -1
# What families hand to their attention that changes nothing in a finished model's answers.
_WITHOUT_EFFECT: Final = frozenset(
    {"dropout", "is_causal", "position_ids", "cache_position", "use_cache", "output_attentions", "output_hidden_states"}
)


class UnsupportedAttentionError(ValueError):
    """The model's attention takes something that the operator has no word for."""


@dataclass
class _Cache:
    """The cache while the model is traced.

    Attributes:
        past: Keys and values of each layer, `(rows, kv_heads, capacity, head_dim)`.
        last: Index of each row's last token, in the cache as it will be, `(rows,)`, int32.
        total: The largest number of tokens of any row, those that come now among them, `()`, int32.
        written: The same as `past`, of the layers that have run.
    """

    past: Sequence[tuple[Tensor, Tensor]]
    last: Tensor
    total: Tensor
    written: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)


_cache: ContextVar[_Cache] = ContextVar("cache")


@contextmanager
def cache(past: Sequence[tuple[Tensor, Tensor]], past_lengths: Tensor, tokens: int) -> Iterator[_Cache]:
    """Let the attention of every layer find its part of the cache.

    Args:
        past: See `_Cache`.
        past_lengths: Tokens that each row has in the cache, `(rows,)`, int64.
        tokens: Tokens that come now, the same number in every row.
    """
    last = past_lengths + (tokens - 1)
    state = _Cache(past, last.to(torch.int32), (last.max() + 1).to(torch.int32))
    token = _cache.set(state)
    try:
        yield state
    finally:
        _cache.reset(token)


def cached_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,  # noqa: ARG001 - the operator knows who may see whom
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    position_bias: Tensor | None = None,
    **more: object,
) -> tuple[Tensor, None]:
    """Attention of the tokens that come now to themselves and to the cache.

    Args:
        module: The layer's attention, whose `layer_idx` says which part of the cache is its.
        query: `(rows, heads, tokens, head_dim)`.
        key: `(rows, kv_heads, tokens, head_dim)`, as value.
        value: See key.
        attention_mask: What transformers made of the mask that it was given; not read.
        scaling: Factor of the scores; 1/sqrt(head_dim) if it is not given.
        sliding_window: How many tokens back a token sees, itself included; None sees all.
        softcap: Bound of the scores, which are bent to stay within it.
        position_bias: Added to the scores, `(rows, heads, tokens, capacity)`.
        **more: Refused, unless it changes nothing.

    Returns:
        `(rows, tokens, heads, head_dim)`, and no weights.

    Raises:
        UnsupportedAttentionError: The model wants more of its attention.
    """
    unknown = sorted(name for name, given in more.items() if given is not None and name not in _WITHOUT_EFFECT)
    if unknown:
        raise UnsupportedAttentionError(f"its attention takes {', '.join(unknown)}")
    layer: Any = module.layer_idx
    state = _cache.get()
    past_key, past_value = state.past[layer]
    rows, heads, tokens, head_dim = query.shape
    if key.shape[-1] != value.shape[-1] or tuple(past_key.shape[1::2]) != (key.shape[1], head_dim):
        raise UnsupportedAttentionError(f"layer {layer} has keys and values of other shapes than the first")
    attributes: dict[str, Any] = {
        "num_heads": heads,
        "kv_num_heads": key.shape[1],
        "scale": head_dim**-0.5 if scaling is None else float(scaling),
        "local_window_size": _EVERYTHING if sliding_window is None else sliding_window,
    }
    if softcap is not None:
        attributes["softcap"] = float(softcap)
    inputs: list[Tensor | None] = [_merged(query), _merged(key), _merged(value), past_key, past_value, state.last]
    if position_bias is None:
        inputs.append(state.total)
    else:
        # The bias has a column for each place of the cache, and the operator wants one for each token.
        capacity = torch.tensor(past_key.size(2), dtype=torch.int32)
        inputs += [capacity, None, None, None, position_bias]
    attended, *written = torch.onnx.ops.symbolic_multi_out(
        "com.microsoft::GroupQueryAttention",
        inputs,
        attributes,
        dtypes=(_FLOAT, _FLOAT, _FLOAT),
        shapes=((rows, tokens, heads * head_dim), past_key.shape, past_value.shape),
        version=1,
    )
    state.written[layer] = (written[0], written[1])
    return attended.reshape(rows, tokens, heads, head_dim), None


def _merged(heads: Tensor) -> Tensor:
    """`(rows, heads, tokens, head_dim)` to `(rows, tokens, heads * head_dim)`."""
    return heads.transpose(1, 2).flatten(2)


AttentionInterface.register(ATTENTION, cached_attention)
