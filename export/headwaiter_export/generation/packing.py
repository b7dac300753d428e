"""Attention over texts that lie end to end, down to the last bit as if each were alone."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def attend(scores: Tensor, values: Tensor) -> Tensor:
    """What a softmax of the scores makes of the values.

    A vectorised softmax adds up in lanes, so that its last bit depends on where in a row a text stands. A matrix
    product adds column after column, and the zeros of other texts change nothing: so the sum is one more column of the
    values.

    Args:
        scores: `(..., queries, keys)`; what must not count is the lowest number there is.
        values: `(..., keys, head_dim)`.

    Returns:
        `(..., queries, head_dim)`.
    """
    weights = torch.exp(scores - scores.amax(-1, keepdim=True))
    summed = weights @ functional.pad(values, (0, 1), value=1.0)
    parts: list[Tensor] = list(torch.split(summed, [values.size(-1), 1], -1))
    return parts[0] / parts[1]
