"""Greedy decoding with the key/value cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from headwaiter_export.transformer.incremental import KeyValue, cross_keys_values, step
from headwaiter_export.transformer.masks import padding_mask

if TYPE_CHECKING:
    from headwaiter_export.transformer.model import Transformer


@torch.inference_mode()
def greedy_decode(model: Transformer, source_ids: Tensor, source_lengths: Tensor, max_length: int) -> Tensor:
    """Take the likeliest token at every step, until each row has ended.

    Args:
        model: The model, in eval mode unless dropout is wanted.
        source_ids: `(batch, source)`, padded on the right.
        source_lengths: `(batch,)`.
        max_length: Most tokens to generate, at most `max_target_length`.

    Returns:
        `(batch, generated)`, `generated <= max_length`: without `bos_id`, with `eos_id` where a row ended,
        then `pad_id`.

    Raises:
        ValueError: max_length is not in [1, max_target_length].
    """
    config = model.config
    if not 1 <= max_length <= config.max_target_length:
        raise ValueError(f"max_length must be in [1, {config.max_target_length}], not {max_length}")
    memory = model.encode(source_ids, padding_mask(source_lengths, source_ids.size(1)))
    cross = cross_keys_values(model, memory)
    batch = source_ids.size(0)
    shape = (batch, config.num_heads, max_length, config.d_k)
    cache = [KeyValue(memory.new_zeros(shape), memory.new_zeros(shape)) for _ in cross]

    token = source_ids.new_full((batch,), config.bos_id)
    finished = torch.zeros(batch, dtype=torch.bool, device=source_ids.device)
    generated = source_ids.new_full((batch, max_length), config.pad_id)
    for position in range(max_length):
        # Only the columns written so far: the rest of the cache would cost time and change nothing.
        past = [KeyValue(layer.keys[:, :, :position], layer.values[:, :, :position]) for layer in cache]
        output = step(model, token, torch.full_like(token, position), past, cross, source_lengths)
        for layer, column in zip(cache, output.new_columns, strict=True):
            layer.keys[:, :, position] = column.keys
            layer.values[:, :, position] = column.values
        token = output.logits.argmax(-1).masked_fill(finished, config.pad_id)
        generated[:, position] = token
        finished |= token == config.eos_id
        if finished.all():
            return generated[:, : position + 1]
    return generated
