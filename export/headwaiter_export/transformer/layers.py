"""The parts a layer is made of: sections 3.1 and 3.3, and figure 1."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from headwaiter_export.transformer.attention import MultiHeadAttention

if TYPE_CHECKING:
    from headwaiter_export.transformer.config import TransformerConfig


class FeedForward(nn.Module):
    """max(0, x W_1 + b_1) W_2 + b_2, section 3.3, equation 2."""

    def __init__(self, d_model: int, d_ff: int) -> None:
        """Create the two linear maps."""
        super().__init__()
        self.inner = nn.Linear(d_model, d_ff)
        self.outer = nn.Linear(d_ff, d_model)

    def forward(self, x: Tensor) -> Tensor:
        """`(batch, length, d_model)` -> the same shape."""
        output: Tensor = self.outer(self.inner(x).relu())
        return output


class Residual(nn.Module):
    """The connection around one sub-layer: LayerNorm(x + Dropout(Sublayer(x))), sections 3.1 and 5.4.

    With `norm_first` it is x + Dropout(Sublayer(LayerNorm(x))); see `TransformerConfig.norm_first`. It comes
    in two halves, so that the layer reads top to bottom and a sub-layer may return more than its output.
    """

    def __init__(self, d_model: int, dropout: float, *, norm_first: bool) -> None:
        """Create the norm and the dropout of one sub-layer."""
        super().__init__()
        self.norm = nn.LayerNorm(d_model)
        self.dropout = nn.Dropout(dropout)
        self.norm_first = norm_first

    def before(self, x: Tensor) -> Tensor:
        """What the sub-layer reads: `(batch, length, d_model)` -> the same shape."""
        if not self.norm_first:
            return x
        normed: Tensor = self.norm(x)
        return normed

    def after(self, x: Tensor, output: Tensor) -> Tensor:
        """Join the layer's input and its sub-layer's output, both `(batch, length, d_model)`."""
        total: Tensor = x + self.dropout(output)
        if self.norm_first:
            return total
        normed: Tensor = self.norm(total)
        return normed


class EncoderLayer(nn.Module):
    """Self-attention, then feed-forward: the left half of figure 1."""

    def __init__(self, config: TransformerConfig) -> None:
        """Create one layer of the configured sizes."""
        super().__init__()
        self.self_attention = MultiHeadAttention(config.d_model, config.num_heads)
        self.feed_forward = FeedForward(config.d_model, config.d_ff)
        self.self_attention_residual = _residual(config)
        self.feed_forward_residual = _residual(config)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Run the layer.

        Args:
            x: `(batch, source, d_model)`.
            mask: Broadcastable to `(batch, 1, source, source)`.

        Returns:
            `(batch, source, d_model)`.
        """
        normed = self.self_attention_residual.before(x)
        attended, _ = self.self_attention(normed, normed, normed, mask)
        x = self.self_attention_residual.after(x, attended)
        return self.feed_forward_residual.after(x, self.feed_forward(self.feed_forward_residual.before(x)))


class DecoderLayer(nn.Module):
    """Masked self-attention, attention to the encoder, feed-forward: the right half of figure 1."""

    def __init__(self, config: TransformerConfig) -> None:
        """Create one layer of the configured sizes."""
        super().__init__()
        self.self_attention = MultiHeadAttention(config.d_model, config.num_heads)
        self.cross_attention = MultiHeadAttention(config.d_model, config.num_heads)
        self.feed_forward = FeedForward(config.d_model, config.d_ff)
        self.self_attention_residual = _residual(config)
        self.cross_attention_residual = _residual(config)
        self.feed_forward_residual = _residual(config)

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor | None, memory_mask: Tensor | None) -> Tensor:
        """Run the layer over a whole target.

        Args:
            x: `(batch, target, d_model)`.
            memory: The encoder's output, `(batch, source, d_model)`. It is already normalised.
            mask: Broadcastable to `(batch, 1, target, target)`.
            memory_mask: Broadcastable to `(batch, 1, target, source)`.

        Returns:
            `(batch, target, d_model)`.
        """
        normed = self.self_attention_residual.before(x)
        attended, _ = self.self_attention(normed, normed, normed, mask)
        x = self.self_attention_residual.after(x, attended)
        normed = self.cross_attention_residual.before(x)
        attended, _ = self.cross_attention(normed, memory, memory, memory_mask)
        x = self.cross_attention_residual.after(x, attended)
        return self.feed_forward_residual.after(x, self.feed_forward(self.feed_forward_residual.before(x)))


def _residual(config: TransformerConfig) -> Residual:
    return Residual(config.d_model, config.dropout, norm_first=config.norm_first)
