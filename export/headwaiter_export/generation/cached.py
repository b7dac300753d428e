"""The attention of transformers' models, to a cache that the graph writes in place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

from torch import Tensor, nn
from transformers import AttentionInterface

from headwaiter_export.generation.cache import Cache, UnsupportedAttentionError

ATTENTION: Final = "headwaiter_cached"

# What the operator understands as "no window".
_EVERYTHING: Final = -1
# What families hand to their attention that changes nothing in a finished model's answers.
_WITHOUT_EFFECT: Final = frozenset(
    {
        "dropout",
        "is_causal",
        "position_ids",
        "cache_position",
        "use_cache",
        "output_attentions",
        "output_hidden_states",
        "output_router_logits",
    }
)


_cache: ContextVar[Cache] = ContextVar("cache")


@contextmanager
def reading(cache: Cache) -> Iterator[None]:
    """Let the attention of every layer of a model find its part of the cache."""
    token = _cache.set(cache)
    try:
        yield
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
    refuse_more(more)
    _refuse_hidden_window(module, sliding_window)
    layer: Any = module.layer_idx
    cache = _cache.get()
    rows, heads, tokens, head_dim = query.shape
    if key.shape[-1] != value.shape[-1] or tuple(cache.past[layer][0].shape[1::2]) != (key.shape[1], head_dim):
        raise UnsupportedAttentionError(f"layer {layer} has keys and values of other shapes than the first")
    attributes: dict[str, float] = {
        "scale": head_dim**-0.5 if scaling is None else float(scaling),
        "local_window_size": _EVERYTHING if sliding_window is None else sliding_window,
    }
    if softcap is not None:
        attributes["softcap"] = float(softcap)
    attended = cache.attend(layer, [_merged(each) for each in (query, key, value)], heads, position_bias, **attributes)
    return attended.reshape(rows, tokens, heads, head_dim), None


def refuse_more(more: Mapping[str, object]) -> None:
    """Refuse what would be left out.

    Raises:
        UnsupportedAttentionError: Something is given that has an effect.
    """
    unknown = sorted(name for name, given in more.items() if given is not None and name not in _WITHOUT_EFFECT)
    if unknown:
        raise UnsupportedAttentionError(f"its attention takes {', '.join(unknown)}")


def _refuse_hidden_window(module: Any, sliding_window: int | None) -> None:  # noqa: ANN401 (a family's attention)
    """Refuse a layer that sees less than all, and is told so by its mask alone: texts of a gate may be too short."""
    config, layer = getattr(module, "config", None), module.layer_idx
    kinds = getattr(config, "layer_types", None)
    kind = "full_attention" if kinds is None else kinds[layer]
    if kind not in ("full_attention", "sliding_attention"):
        raise UnsupportedAttentionError(f"layer {layer} attends by {kind}")
    slides = getattr(config, "sliding_window", None) if kinds is None else kind == "sliding_attention"
    if slides and sliding_window is None:
        raise UnsupportedAttentionError(f"layer {layer} has its window in a mask")


def _merged(heads: Tensor) -> Tensor:
    """`(rows, heads, tokens, head_dim)` to `(rows, tokens, heads * head_dim)`."""
    return heads.transpose(1, 2).flatten(2)


AttentionInterface.register(ATTENTION, cached_attention)
