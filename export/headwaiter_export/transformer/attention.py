"""Attention: section 3.2 of "Attention Is All You Need" (Vaswani et al. 2017)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Callable


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    dropout: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """softmax(Q K^T / sqrt(d_k)) V, section 3.2.1, equation 1.

    Args:
        query: `(batch, heads, query_length, d_k)`.
        key: `(batch, heads, key_length, d_k)`.
        value: `(batch, heads, key_length, d_v)`.
        mask: Boolean, broadcastable to `(batch, heads, query_length, key_length)`; True = may attend.
        dropout: Applied to the weights, if given.

    Returns:
        The output `(batch, heads, query_length, d_v)` and the weights
        `(batch, heads, query_length, key_length)`. Each row of weights sums to 1 (before dropout), except
        that a query which may attend to nothing has zero weights and a zero output.
    """
    d_k = query.size(-1)
    scores = query @ key.transpose(-2, -1) / math.sqrt(d_k)
    if mask is not None:
        # The lowest finite number and not -inf: a row of -inf would make softmax 0/0, a NaN that the second
        # masked_fill could hide in the output but not in the gradient.
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    weights = torch.softmax(scores, dim=-1)
    if mask is not None:
        weights = weights.masked_fill(~mask, 0.0)
    attended = weights if dropout is None else dropout(weights)
    return attended.to(value.dtype) @ value, weights


class MultiHeadAttention(nn.Module):
    """Several attentions side by side, each in its own subspace: section 3.2.2.

    The h small projections W_i of the paper are one `(d_model, d_model)` matrix here, cut into heads after
    the multiplication. The projections carry a bias, as PyTorch's own do.
    """

    def __init__(self, d_model: int, num_heads: int, dropout: float = 0.0) -> None:
        """Create the four projections.

        Args:
            d_model: Width of the input and of the output.
            num_heads: Number of heads; must divide d_model.
            dropout: Probability of dropping an attention weight while training. The paper has none there.
        """
        super().__init__()
        if d_model % num_heads:
            raise ValueError(f"d_model={d_model} is not a multiple of num_heads={num_heads}")
        self.num_heads = num_heads
        self.d_k = d_model // num_heads
        self.query_projection = nn.Linear(d_model, d_model)
        self.key_projection = nn.Linear(d_model, d_model)
        self.value_projection = nn.Linear(d_model, d_model)
        self.output_projection = nn.Linear(d_model, d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None = None,
        *,
        need_weights: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend from each query position to the key positions the mask allows.

        Args:
            query: `(batch, query_length, d_model)`.
            key: `(batch, key_length, d_model)`.
            value: `(batch, key_length, d_model)`.
            mask: Boolean, broadcastable to `(batch, 1, query_length, key_length)`, shared by all heads.
            need_weights: Also return the weights. They are never kept on the module.

        Returns:
            The output `(batch, query_length, d_model)`, and the weights
            `(batch, heads, query_length, key_length)` or None.
        """
        heads_query = self.project_query(query)
        heads_key, heads_value = self.project_key(key), self.project_value(value)
        output, weights = scaled_dot_product_attention(heads_query, heads_key, heads_value, mask, self.dropout)
        return self.project_output(output), weights if need_weights else None

    def project_query(self, x: Tensor) -> Tensor:
        """Queries of every head: `(batch, length, d_model)` -> `(batch, heads, length, d_k)`."""
        return self._split_heads(self.query_projection(x))

    def project_key(self, x: Tensor) -> Tensor:
        """Keys of every head: `(batch, length, d_model)` -> `(batch, heads, length, d_k)`."""
        return self._split_heads(self.key_projection(x))

    def project_value(self, x: Tensor) -> Tensor:
        """Values of every head: `(batch, length, d_model)` -> `(batch, heads, length, d_k)`."""
        return self._split_heads(self.value_projection(x))

    def project_output(self, heads: Tensor) -> Tensor:
        """Concat(head_1, ..., head_h) W^O: `(batch, heads, length, d_k)` -> `(batch, length, d_model)`."""
        merged: Tensor = self.output_projection(heads.transpose(1, 2).flatten(2))
        return merged

    def _split_heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.num_heads, self.d_k).transpose(1, 2)
