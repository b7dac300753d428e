"""Poolings: the vectors of a text's tokens to one vector, in a packed and in a padded layout.

The names and their meaning are those of sentence-transformers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

# Below anything a layer puts out; finite, so that nothing can become a NaN.
_LOWEST = torch.finfo(torch.float32).min


@dataclass(frozen=True)
class Packed:
    """Hidden states of texts end to end.

    Attributes:
        hidden: `(tokens, width)`.
        position_ids: `(tokens,)`, from 0 in each text.
        segment: `(tokens,)`, number of the text.
        text_starts: `(texts,)`, index of the first token of each.
    """

    hidden: Tensor
    position_ids: Tensor
    segment: Tensor
    text_starts: Tensor

    def pooled(self, name: str) -> Tensor:
        """One vector a text, `(texts, width)`."""
        if name == "cls":
            return self.hidden[self.text_starts]
        if name == "lasttoken":
            after = torch.cat([self.text_starts[1:], torch.full_like(self.text_starts[:1], self.segment.shape[0])])
            return self.hidden[after - 1]
        texts, width = self.text_starts.shape[0], self.hidden.shape[1]
        if name == "max":
            start = self.hidden.new_full((texts, width), _LOWEST)
            index = self.segment.unsqueeze(1).expand(-1, width)
            return start.scatter_reduce(0, index, self.hidden, "amax")
        # One row a text, 1 where a token is its own: sums of a text's tokens are then one matrix product.
        member = (torch.arange(texts).unsqueeze(1) == self.segment).to(self.hidden.dtype)
        return _averaged(name, member, self.position_ids.unsqueeze(0), lambda weights: weights @ self.hidden)


@dataclass(frozen=True)
class Padded:
    """Hidden states of rows, padded on the right.

    Attributes:
        hidden: `(texts, length, width)`.
        attention_mask: `(texts, length)`, 1 for tokens and 0 for padding.
    """

    hidden: Tensor
    attention_mask: Tensor

    def pooled(self, name: str) -> Tensor:
        """One vector a text, `(texts, width)`."""
        texts, length = self.attention_mask.shape
        if name == "cls":
            return self.hidden[:, 0]
        if name == "lasttoken":
            return self.hidden[torch.arange(texts), self.attention_mask.sum(1) - 1]
        if name == "max":
            return self.hidden.masked_fill(self.attention_mask.unsqueeze(2) == 0, _LOWEST).amax(1)
        member = self.attention_mask.to(self.hidden.dtype)
        positions = torch.arange(length).unsqueeze(0)
        return _averaged(name, member, positions, lambda weights: (weights.unsqueeze(1) @ self.hidden).squeeze(1))


def _averaged(name: str, member: Tensor, positions: Tensor, weigh: Callable[[Tensor], Tensor]) -> Tensor:
    """Sums of a text's tokens over what the pooling divides them by; `member` is `(texts, tokens)`."""
    weights = member * (positions + 1) if name == "weightedmean" else member
    total = weights.sum(1, keepdim=True)
    return weigh(weights) / (torch.sqrt(total) if name == "mean_sqrt_len" else total)
