"""Decoding one token at a time with a key/value cache.

The cache belongs to the caller. `step` reads it and returns the new columns; it never copies, grows or
writes the cache, so that a server may keep one large preallocated cache whose rows are at different
positions, and write each new column in place.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple, cast

import torch
from torch import Tensor

from headwaiter_export.transformer.attention import MultiHeadAttention, scaled_dot_product_attention
from headwaiter_export.transformer.masks import padding_mask

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headwaiter_export.transformer.layers import DecoderLayer
    from headwaiter_export.transformer.model import Transformer


class KeyValue(NamedTuple):
    """Keys and values of one attention, of the same shape."""

    keys: Tensor
    values: Tensor


class StepOutput(NamedTuple):
    """What one decoding step gives.

    Attributes:
        logits: Of the next token, `(batch, vocab_size)`.
        new_columns: Per layer, the keys and values of the token just read, each `(batch, heads, d_k)`. The
            caller writes row r into column `position[r]` of its cache.
    """

    logits: Tensor
    new_columns: list[KeyValue]


def cross_keys_values(model: Transformer, memory: Tensor) -> list[KeyValue]:
    """Keys and values of the encoder's output, which no decoding step changes.

    Args:
        model: The model.
        memory: `(batch, source, d_model)`.

    Returns:
        Per decoder layer, keys and values `(batch, heads, source, d_k)`.
    """
    attentions = [layer.cross_attention for layer in decoder_layers(model)]
    return [KeyValue(each.project_key(memory), each.project_value(memory)) for each in attentions]


def step(
    model: Transformer,
    token: Tensor,
    position: Tensor,
    self_cache: Sequence[KeyValue],
    cross: Sequence[KeyValue],
    source_lengths: Tensor,
) -> StepOutput:
    """Read one token per row and give the logits of the next.

    Args:
        model: The model.
        token: `(batch,)`.
        position: Position of the token in its row's target, `(batch,)`; `bos_id` is at 0. Rows may differ.
        self_cache: Per layer, keys and values `(batch, heads, capacity, d_k)` of which columns
            `[0, position[r])` of row r count. Any capacity of at least `max(position)` will do; 0 is one.
            Other columns may hold anything finite: their weight is zero, and zero times NaN is not.
        cross: Per layer, from `cross_keys_values`.
        source_lengths: `(batch,)`.

    Returns:
        Logits and new columns.
    """
    source_mask = padding_mask(source_lengths, cross[0].keys.size(2))
    x = model.positional.at(model.embedding(token.unsqueeze(1)), position)
    new_columns = []
    for layer, past, memory in zip(decoder_layers(model), self_cache, cross, strict=True):
        normed = layer.self_attention_residual.before(x)
        attended, column = _attend_to_past_and_self(layer.self_attention, normed, past, position)
        x = layer.self_attention_residual.after(x, attended)
        new_columns.append(column)
        attention = layer.cross_attention
        query = attention.project_query(layer.cross_attention_residual.before(x))
        heads, _ = scaled_dot_product_attention(query, memory.keys, memory.values, source_mask)
        x = layer.cross_attention_residual.after(x, attention.project_output(heads))
        x = layer.feed_forward_residual.after(x, layer.feed_forward(layer.feed_forward_residual.before(x)))
    logits = model.generator(model.decoder.final_norm(x).squeeze(1))
    return StepOutput(logits, new_columns)


def decoder_layers(model: Transformer) -> list[DecoderLayer]:
    """The decoder's layers with their type, which `nn.ModuleList` forgets."""
    return [cast("DecoderLayer", layer) for layer in model.decoder.layers]


def _attend_to_past_and_self(
    attention: MultiHeadAttention, x: Tensor, past: KeyValue, position: Tensor
) -> tuple[Tensor, KeyValue]:
    """Causal self-attention of one new token `x`, `(batch, 1, d_model)`.

    One softmax over two blocks of scores. Concatenating the scores costs `capacity + 1` numbers a head;
    concatenating the keys and values would copy the whole cache at every step.
    """
    query = attention.project_query(x)  # (batch, heads, 1, d_k)
    new = KeyValue(attention.project_key(x), attention.project_value(x))
    capacity = past.keys.size(2)
    scores_past = query @ past.keys.transpose(-2, -1)  # (batch, heads, 1, capacity)
    score_new = (query * new.keys).sum(-1, keepdim=True)  # (batch, heads, 1, 1)
    # The new token always sees itself, so no row is fully masked and the masked weights are exactly zero.
    scores_past = scores_past.masked_fill(~padding_mask(position, capacity), torch.finfo(x.dtype).min)
    scores = torch.cat((scores_past, score_new), dim=-1) / math.sqrt(attention.d_k)
    weights = torch.softmax(scores, dim=-1)
    heads = weights[..., :capacity] @ past.values + weights[..., capacity:] * new.values
    return attention.project_output(heads), KeyValue(new.keys.squeeze(2), new.values.squeeze(2))
