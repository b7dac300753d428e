"""What the whole model must and must not depend on."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import pytest
import torch
from headwaiter_export.transformer import Transformer, causal_mask, padding_mask
from headwaiter_export.transformer.positional import sinusoidal_positions

if TYPE_CHECKING:
    from collections.abc import Callable

    from headwaiter_export.transformer import TransformerConfig
    from torch import Tensor

    RandomIds = Callable[[int, int], Tensor]

pytestmark = pytest.mark.torch


def test_masks_say_who_may_attend() -> None:
    """True means may attend: real keys in the padding mask, the past and oneself in the causal one."""
    assert padding_mask(torch.tensor([2, 0]), 3).tolist() == [
        [[[True, True, False]]],
        [[[False, False, False]]],
    ]
    assert causal_mask(3).tolist() == [[[[True, False, False], [True, True, False], [True, True, True]]]]


def test_positions_follow_the_formula() -> None:
    """Even columns are sines and odd ones cosines of pos / 10000^(2i / d_model)."""
    table = sinusoidal_positions(40, 6)
    for position in (0, 1, 39):
        for i in range(3):
            angle = position / 10000 ** (2 * i / 6)
            assert table[position, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-6)
            assert table[position, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-6)


def test_one_matrix_embeds_both_sides_and_generates(model: Transformer, config: TransformerConfig) -> None:
    """Source, target and generator share one weight, which is counted once."""
    assert model.generator.projection.weight is model.embedding.embedding.weight
    sized = [name for name, weight in model.named_parameters() if weight.size(0) == config.vocab_size]
    assert sized == ["embedding.embedding.weight"]


def test_gradients_reach_every_parameter(model: Transformer, random_ids: RandomIds) -> None:
    """Every parameter gets a gradient that is finite and, with one exception, not zero."""
    model.train()
    logits = model(random_ids(3, 7), torch.tensor([7, 2, 5]), random_ids(3, 6), torch.tensor([6, 3, 1]))
    logits.square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        # A key's bias adds the same number to all scores of a query, and softmax does not see it.
        if not name.endswith("key_projection.bias"):
            assert parameter.grad.abs().max() > 1e-6, name


def test_no_position_sees_the_future(model: Transformer, random_ids: RandomIds) -> None:
    """Changing a target token changes no logits before it, and does change its own."""
    source, lengths = random_ids(2, 5), torch.tensor([5, 5])
    target = random_ids(2, 6)
    changed = target.clone()
    changed[:, 3] = (changed[:, 3] - 3 + 1) % 20 + 3
    before = model(source, lengths, target, torch.tensor([6, 6]))
    after = model(source, lengths, changed, torch.tensor([6, 6]))
    torch.testing.assert_close(after[:, :3], before[:, :3])
    assert (after[:, 3] - before[:, 3]).abs().max() > 1e-3


def test_padding_changes_nothing(model: Transformer, random_ids: RandomIds) -> None:
    """A row's logits are the same alone and beside a longer row, whatever the padding holds."""
    source, target = random_ids(2, 9), random_ids(2, 7)
    together = model(source, torch.tensor([9, 4]), target, torch.tensor([7, 3]))
    alone = model(source[1:, :4], torch.tensor([4]), target[1:, :3], torch.tensor([3]))
    torch.testing.assert_close(together[1:, :3], alone, atol=1e-5, rtol=0)


def test_an_empty_row_is_finite(model: Transformer, random_ids: RandomIds) -> None:
    """A row of nothing but padding gives finite logits and gradients."""
    logits = model(random_ids(2, 4), torch.tensor([4, 0]), random_ids(2, 3), torch.tensor([3, 0]))
    logits.sum().backward()
    assert logits.isfinite().all()
    assert all(weight.grad is None or weight.grad.isfinite().all() for weight in model.parameters())


def test_without_positions_order_is_invisible(model: Transformer) -> None:
    """The encoder alone is permutation equivariant: shuffled input gives equally shuffled output."""
    x, order = torch.randn(2, 8, 16), torch.randperm(8)
    shuffled = model.encoder(x[:, order], None)
    torch.testing.assert_close(shuffled, model.encoder(x, None)[:, order], atol=1e-5, rtol=0)


def test_with_positions_order_matters(model: Transformer, random_ids: RandomIds) -> None:
    """With the positional encoding the same shuffle changes the output."""
    ids, order = random_ids(2, 8), torch.tensor([7, 6, 5, 4, 3, 2, 1, 0])
    assert (model.encode(ids[:, order], None) - model.encode(ids, None)[:, order]).abs().max() > 1e-2


def test_dropout_acts_in_training_only(config: TransformerConfig, random_ids: RandomIds) -> None:
    """Two passes differ while training and agree in eval mode."""
    model = Transformer(dataclasses.replace(config, dropout=0.5))
    ids, lengths = random_ids(2, 5), torch.tensor([5, 5])
    assert not torch.equal(model(ids, lengths, ids, lengths), model(ids, lengths, ids, lengths))
    model.eval()
    assert torch.equal(model(ids, lengths, ids, lengths), model(ids, lengths, ids, lengths))
