"""Our attention against PyTorch's, and what it does where nothing may be attended to."""

from __future__ import annotations

import pytest
import torch
from headwaiter_export.transformer import (
    MultiHeadAttention,
    causal_mask,
    padding_mask,
    scaled_dot_product_attention,
)
from torch import Tensor, nn
from torch.nn import functional

pytestmark = pytest.mark.torch

_BATCH, _HEADS, _LENGTH, _D_K = 3, 4, 6, 5
_D_MODEL = _HEADS * _D_K
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-5}
_LENGTHS = torch.tensor([6, 1, 4])
_MASKS = {
    "no mask": None,
    "padding": padding_mask(_LENGTHS, _LENGTH),
    "causal": causal_mask(_LENGTH),
    "both": padding_mask(_LENGTHS, _LENGTH) & causal_mask(_LENGTH),
}

each_dtype = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
each_mask = pytest.mark.parametrize("mask", list(_MASKS.values()), ids=list(_MASKS))


def _heads(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    query, key, value = torch.randn(3, _BATCH, _HEADS, _LENGTH, _D_K, dtype=dtype).unbind()
    return query, key, value


@each_dtype
@each_mask
def test_equals_torch_function(mask: Tensor | None, dtype: torch.dtype) -> None:
    """Scaled dot-product attention is what PyTorch calls by that name."""
    query, key, value = _heads(dtype)
    output, _ = scaled_dot_product_attention(query, key, value, mask)
    expected = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    torch.testing.assert_close(output, expected, atol=_TOLERANCE[dtype], rtol=0)


@each_dtype
@each_mask
def test_multi_head_equals_torch_module(mask: Tensor | None, dtype: torch.dtype) -> None:
    """With its weights copied, PyTorch's multi-head module gives the same outputs and the same weights."""
    ours = MultiHeadAttention(_D_MODEL, _HEADS).to(dtype)
    theirs = nn.MultiheadAttention(_D_MODEL, _HEADS, batch_first=True, dtype=dtype)
    _copy_weights(ours, theirs)
    query, memory = torch.randn(2, _BATCH, _LENGTH, _D_MODEL, dtype=dtype).unbind()
    # PyTorch's mask says the opposite (True = may not) and wants the heads written out.
    torch_mask = None if mask is None else ~mask.expand(_BATCH, _HEADS, _LENGTH, _LENGTH).flatten(0, 1)

    output, weights = ours(query, memory, memory, mask, need_weights=True)
    expected, expected_weights = theirs(
        query, memory, memory, attn_mask=torch_mask, need_weights=True, average_attn_weights=False
    )

    torch.testing.assert_close(output, expected, atol=_TOLERANCE[dtype], rtol=0)
    torch.testing.assert_close(weights, expected_weights, atol=_TOLERANCE[dtype], rtol=0)


@each_mask
def test_rows_of_weights_sum_to_one(mask: Tensor | None) -> None:
    """Each query spreads exactly one unit of weight, none of it where the mask says no."""
    _, weights = scaled_dot_product_attention(*_heads(torch.float64), mask)
    torch.testing.assert_close(weights.sum(-1), torch.ones(_BATCH, _HEADS, _LENGTH, dtype=torch.float64))
    if mask is not None:
        assert (weights * ~mask == 0).all()


def test_fully_masked_row_gives_zeros_and_finite_gradients() -> None:
    """A query that may attend to nothing has output and weights of zero, and spoils no gradient."""
    query, key, value = (each.requires_grad_() for each in _heads(torch.float32))
    mask = padding_mask(torch.tensor([6, 0, 4]), _LENGTH)

    output, weights = scaled_dot_product_attention(query, key, value, mask)
    torch.autograd.backward(output.square().sum())

    assert (output[1] == 0).all()
    assert (weights[1] == 0).all()
    for leaf in (query, key, value):
        assert leaf.grad is not None
        assert leaf.grad.isfinite().all()
        assert (leaf.grad[1] == 0).all()
        assert (leaf.grad[0] != 0).any()


def test_huge_scores_do_not_overflow() -> None:
    """Scores far beyond what exp can hold still give finite weights that sum to one."""
    query, key, value = _heads(torch.float32)
    _, weights = scaled_dot_product_attention(query * 1e4, key * 1e4, value, causal_mask(_LENGTH))
    torch.testing.assert_close(weights.sum(-1), torch.ones(_BATCH, _HEADS, _LENGTH))


def test_all_heads_share_the_mask() -> None:
    """One mask of a single head's size hides the same keys from every head."""
    attention = MultiHeadAttention(_D_MODEL, _HEADS)
    x = torch.randn(_BATCH, _LENGTH, _D_MODEL)
    mask = padding_mask(_LENGTHS, _LENGTH) & causal_mask(_LENGTH)
    _, weights = attention(x, x, x, mask, need_weights=True)
    assert weights.shape == (_BATCH, _HEADS, _LENGTH, _LENGTH)
    assert torch.equal(weights > 0, mask.expand_as(weights))


def test_weights_are_returned_only_when_asked_for() -> None:
    """The module hands out weights on request and keeps no tensor between calls."""
    attention = MultiHeadAttention(_D_MODEL, _HEADS)
    before = set(vars(attention))
    x = torch.randn(_BATCH, _LENGTH, _D_MODEL)
    _, weights = attention(x, x, x)
    assert weights is None
    assert set(vars(attention)) == before
    assert not [value for value in vars(attention).values() if isinstance(value, Tensor)]


def test_dropout_is_applied_to_the_weights_used() -> None:
    """The dropout given acts on the weights before they meet the values; the weights returned are whole."""
    query, key, value = _heads(torch.float64)
    output, weights = scaled_dot_product_attention(query, key, value, dropout=lambda each: each * 0)
    assert (output == 0).all()
    torch.testing.assert_close(weights.sum(-1), torch.ones(_BATCH, _HEADS, _LENGTH, dtype=torch.float64))


def test_heads_must_divide_the_width() -> None:
    """A width that cannot be cut into the heads asked for is refused."""
    with pytest.raises(ValueError, match="not a multiple"):
        MultiHeadAttention(10, 3)


def _copy_weights(ours: MultiHeadAttention, theirs: nn.MultiheadAttention) -> None:
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.normal_(std=0.3)
        inputs = (ours.query_projection, ours.key_projection, ours.value_projection)
        theirs.in_proj_weight.copy_(torch.cat([each.weight for each in inputs]))
        theirs.in_proj_bias.copy_(torch.cat([each.bias for each in inputs]))
        theirs.out_proj.load_state_dict(ours.output_projection.state_dict())
