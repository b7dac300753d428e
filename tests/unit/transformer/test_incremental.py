"""Decoding with a cache gives what the whole forward pass gives."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest
import torch
from headwaiter_export.transformer import (
    KeyValue,
    Transformer,
    cross_keys_values,
    greedy_decode,
    padding_mask,
    step,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    RandomIds = Callable[[int, int], Tensor]

pytestmark = pytest.mark.torch

_SOURCE_LENGTHS = torch.tensor([7, 2, 5])
_TARGET_LENGTH = 6


def _cross(model: Transformer, source: Tensor) -> list[KeyValue]:
    memory = model.encode(source, padding_mask(_SOURCE_LENGTHS, source.size(1)))
    return cross_keys_values(model, memory)


def _garbage(model: Transformer, batch: int, capacity: int) -> list[KeyValue]:
    """A cache full of large finite numbers, for what no one wrote may hold anything."""
    config = model.config
    shape = (batch, config.num_heads, capacity, config.d_k)
    return [KeyValue(torch.full(shape, 1e4), torch.full(shape, -1e4)) for _ in range(config.num_decoder_layers)]


def _filled_cache(
    model: Transformer, target: Tensor, cross: list[KeyValue], capacity: int
) -> tuple[list[KeyValue], Tensor]:
    """Step through a whole target, writing columns; also returns the logits `(batch, target, vocab)`."""
    cache = _garbage(model, target.size(0), capacity)
    logits = []
    for position in range(target.size(1)):
        positions = torch.full((target.size(0),), position)
        output = step(model, target[:, position], positions, cache, cross, _SOURCE_LENGTHS)
        for layer, column in zip(cache, output.new_columns, strict=True):
            layer.keys[:, :, position] = column.keys
            layer.values[:, :, position] = column.values
        logits.append(output.logits)
    return cache, torch.stack(logits, dim=1)


@torch.inference_mode()
@pytest.mark.parametrize("capacity", [_TARGET_LENGTH, 9])
def test_steps_equal_the_full_forward(model: Transformer, random_ids: RandomIds, capacity: int) -> None:
    """Step by step, the logits are those of the whole target at once, whatever unwritten columns hold."""
    source, target = random_ids(3, 7), random_ids(3, _TARGET_LENGTH)
    full = model(source, _SOURCE_LENGTHS, target, torch.full((3,), _TARGET_LENGTH))
    _, logits = _filled_cache(model, target, _cross(model, source), capacity)
    torch.testing.assert_close(logits, full, atol=1e-5, rtol=0)


@torch.inference_mode()
def test_rows_may_be_at_different_positions(model: Transformer, random_ids: RandomIds) -> None:
    """One step over rows at positions 4, 0 and 2 gives each row its own next logits."""
    source, target = random_ids(3, 7), random_ids(3, _TARGET_LENGTH)
    cross = _cross(model, source)
    cache, logits = _filled_cache(model, target, cross, _TARGET_LENGTH)
    positions, rows = torch.tensor([4, 0, 2]), torch.arange(3)
    output = step(model, target[rows, positions], positions, cache, cross, _SOURCE_LENGTHS)
    torch.testing.assert_close(output.logits, logits[rows, positions], atol=1e-5, rtol=0)


@torch.inference_mode()
def test_step_returns_one_column_and_leaves_the_cache_alone(model: Transformer, random_ids: RandomIds) -> None:
    """A step gives `(batch, heads, d_k)` per layer, writes no cache, and accepts a cache of no columns."""
    config = model.config
    cross = _cross(model, random_ids(3, 7))
    cache = _garbage(model, 3, 8)
    first = step(model, random_ids(3, 1)[:, 0], torch.zeros(3, dtype=torch.long), cache, cross, _SOURCE_LENGTHS)
    assert len(first.new_columns) == config.num_decoder_layers
    for layer, column in zip(cache, first.new_columns, strict=True):
        assert column.keys.shape == column.values.shape == (3, config.num_heads, config.d_k)
        assert (layer.keys == 1e4).all()
        assert (layer.values == -1e4).all()
    empty = _garbage(model, 3, 0)
    output = step(model, random_ids(3, 1)[:, 0], torch.zeros(3, dtype=torch.long), empty, cross, _SOURCE_LENGTHS)
    assert output.logits.isfinite().all()


@torch.inference_mode()
def test_greedy_equals_recomputing_everything(model: Transformer, random_ids: RandomIds) -> None:
    """Each row is the argmax of the full forward over what it decoded so far, ends, and is then padded."""
    source, config = random_ids(3, 7), model.config
    for parameter in model.parameters():
        # Fresh weights repeat one token; larger ones wander, so that rows end at different times.
        if parameter.dim() > 1 and parameter is not model.embedding.embedding.weight:
            parameter.normal_()
    unended = greedy_decode(model, source, _SOURCE_LENGTHS, config.max_target_length)
    ends_differ = 0
    for eos_id in sorted(set(unended.flatten().tolist()) - {config.pad_id, config.bos_id}):
        model.config = dataclasses.replace(config, eos_id=eos_id)
        decoded = greedy_decode(model, source, _SOURCE_LENGTHS, config.max_target_length).tolist()
        rows = [_recomputed(model, source[row : row + 1, : _SOURCE_LENGTHS[row]]) for row in range(3)]
        longest = max(map(len, rows))
        assert decoded == [row + [config.pad_id] * (longest - len(row)) for row in rows]
        ends_differ += len({len(row) for row in rows}) > 1
    assert ends_differ > 0


def _recomputed(model: Transformer, source: Tensor) -> list[int]:
    """Greedy decoding of one row by the full forward pass."""
    target = [model.config.bos_id]
    while len(target) <= model.config.max_target_length and target[-1] != model.config.eos_id:
        lengths = torch.tensor([source.size(1)]), torch.tensor([len(target)])
        logits = model(source, lengths[0], torch.tensor([target]), lengths[1])
        target.append(int(logits[0, -1].argmax()))
    return target[1:]


@pytest.mark.parametrize("max_length", [0, 11])
def test_greedy_refuses_lengths_without_positions(model: Transformer, random_ids: RandomIds, max_length: int) -> None:
    """A length below 1 or above the model's limit is refused."""
    with pytest.raises(ValueError, match="max_length"):
        greedy_decode(model, random_ids(3, 7), _SOURCE_LENGTHS, max_length)
