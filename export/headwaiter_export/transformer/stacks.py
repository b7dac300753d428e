"""The encoder and the decoder: N layers each, section 3.1."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from headwaiter_export.transformer.layers import DecoderLayer, EncoderLayer

if TYPE_CHECKING:
    from headwaiter_export.transformer.config import TransformerConfig


class Encoder(nn.Module):
    """A stack of encoder layers."""

    def __init__(self, config: TransformerConfig) -> None:
        """Create `num_encoder_layers` layers."""
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.num_encoder_layers))
        self.final_norm = _final_norm(config)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """`(batch, source, d_model)` -> the same shape; the mask is `(batch, 1, 1, source)`."""
        for layer in self.layers:
            x = layer(x, mask)
        normed: Tensor = self.final_norm(x)
        return normed


class Decoder(nn.Module):
    """A stack of decoder layers."""

    def __init__(self, config: TransformerConfig) -> None:
        """Create `num_decoder_layers` layers."""
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_decoder_layers))
        self.final_norm = _final_norm(config)

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor | None, memory_mask: Tensor | None) -> Tensor:
        """Run the stack.

        Args:
            x: `(batch, target, d_model)`.
            memory: The encoder's output, `(batch, source, d_model)`.
            mask: Broadcastable to `(batch, 1, target, target)`.
            memory_mask: Broadcastable to `(batch, 1, target, source)`.

        Returns:
            `(batch, target, d_model)`.
        """
        for layer in self.layers:
            x = layer(x, memory, mask, memory_mask)
        normed: Tensor = self.final_norm(x)
        return normed


def _final_norm(config: TransformerConfig) -> nn.Module:
    # Post-norm layers end in a norm of their own; pre-norm layers leave a raw residual sum behind.
    return nn.LayerNorm(config.d_model) if config.norm_first else nn.Identity()
