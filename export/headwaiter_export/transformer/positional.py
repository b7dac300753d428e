"""Token embeddings, positions and the generator: sections 3.4 and 3.5."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def sinusoidal_positions(max_length: int, d_model: int) -> Tensor:
    """Positional encoding of section 3.5.

    PE(pos, 2i) = sin(pos / 10000^(2i/d_model)), PE(pos, 2i+1) = cos(the same).

    Returns:
        `(max_length, d_model)`, float32.
    """
    # float64 until the end: the angles grow with the position, and float32 sines of large angles are poor.
    positions = torch.arange(max_length, dtype=torch.float64).unsqueeze(1)
    exponents = torch.arange(0, d_model, 2, dtype=torch.float64) / d_model
    angles = positions * torch.exp(-math.log(10000.0) * exponents)
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1).float()


class PositionalEncoding(nn.Module):
    """Adds the position to an embedding, then drops out (section 5.4)."""

    table: Tensor

    def __init__(self, d_model: int, max_length: int, dropout: float) -> None:
        """Compute the table once; it is derived, so it is not saved with the weights."""
        super().__init__()
        self.register_buffer("table", sinusoidal_positions(max_length, d_model), persistent=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Add positions 0, 1, 2, ...: `(batch, length, d_model)` -> the same shape."""
        encoded: Tensor = self.dropout(x + self.table[: x.size(1)])
        return encoded

    def at(self, x: Tensor, position: Tensor) -> Tensor:
        """Add one given position to each row.

        Args:
            x: `(batch, 1, d_model)`.
            position: `(batch,)`.

        Returns:
            `(batch, 1, d_model)`.
        """
        encoded: Tensor = self.dropout(x + self.table[position].unsqueeze(1))
        return encoded


class TokenEmbedding(nn.Module):
    """Learned embeddings, multiplied by sqrt(d_model) as in section 3.4."""

    def __init__(self, vocab_size: int, d_model: int) -> None:
        """Create the one matrix that source, target and generator share."""
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, d_model)
        self.scale = math.sqrt(d_model)
        # Variance 1/d_model: after the scaling the inputs have unit variance, and as the generator's weight
        # the same matrix gives logits of unit variance.
        nn.init.normal_(self.embedding.weight, std=d_model**-0.5)

    def forward(self, token_ids: Tensor) -> Tensor:
        """`(batch, length)` -> `(batch, length, d_model)`."""
        embedded: Tensor = self.embedding(token_ids)
        return embedded * self.scale


class Generator(nn.Module):
    """The linear map before the softmax; its weight is the embedding matrix (section 3.4)."""

    def __init__(self, embedding: TokenEmbedding) -> None:
        """Tie the projection to the embedding."""
        super().__init__()
        vocab_size, d_model = embedding.embedding.weight.shape
        self.projection = nn.Linear(d_model, vocab_size, bias=False)
        self.projection.weight = embedding.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        """Logits: `(..., d_model)` -> `(..., vocab_size)`."""
        logits: Tensor = self.projection(x)
        return logits
