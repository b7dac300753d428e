"""Boolean attention masks. True means: this query may attend to this key.

Every mask broadcasts to `(batch, heads, query_length, key_length)`; the heads axis is always 1, because
all heads share one mask.
"""

from __future__ import annotations

import torch
from torch import Tensor


def padding_mask(lengths: Tensor, max_length: int) -> Tensor:
    """Mask that hides each row's padding from every query.

    Args:
        lengths: Real tokens of each row, `(batch,)`.
        max_length: Length the rows are padded to.

    Returns:
        `(batch, 1, 1, max_length)`, True for the real keys.
    """
    positions = torch.arange(max_length, device=lengths.device)
    return (positions < lengths.unsqueeze(-1))[:, None, None, :]


def causal_mask(length: int, device: torch.device | None = None) -> Tensor:
    """Mask that hides the future: position i attends to j <= i (section 3.2.3, third bullet).

    Returns:
        `(1, 1, length, length)`.
    """
    positions = torch.arange(length, device=device)
    return (positions[None, :] <= positions[:, None])[None, None]
