"""The packed graph: tokens of all texts end to end, attention block-diagonal.

The model runs on one row that holds every text. What keeps the texts apart is a bias on the attention scores: 0
within a text, the lowest number between texts. It is handed to the model as a finished mask of four axes, which
transformers passes through to the attention, and position numbers begin at 0 in every text.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from headwaiter_proto.v1 import bundle_pb2
from torch import Tensor, nn
from transformers import AttentionInterface

from headwaiter_export.encoders.answers import Answer
from headwaiter_export.encoders.network import Network
from headwaiter_export.encoders.pooling import Packed

# The lowest finite number and not -inf: a sum with it stays a number, and no row can become a NaN.
_HIDDEN: Final = torch.finfo(torch.float32).min
ATTENTION: Final = "headwaiter_biased"


def biased_attention(
    _module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    *,
    scaling: float | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """Attention with an additive bias, each of its steps one operator of the graph.

    Args:
        query: `(1, heads, tokens, d_k)`, as key and value.
        key: See query.
        value: See query.
        attention_mask: The bias, `(1, 1, tokens, tokens)`.
        scaling: Factor of the scores; 1/sqrt(d_k) if it is not given.

    Returns:
        `(1, tokens, heads, d_k)`, and no weights.
    """
    factor = query.size(-1) ** -0.5 if scaling is None else scaling
    weights = torch.softmax((query * factor) @ key.transpose(-2, -1) + attention_mask, -1)
    return (weights @ value).transpose(1, 2), None


AttentionInterface.register(ATTENTION, biased_attention)


class PackedGraph(nn.Module):
    """Tokens of many texts, end to end, to one answer for each text, or for each token."""

    def __init__(self, network: Network, answer: Answer) -> None:
        """Use the weights of `network`, which was loaded with `ATTENTION`."""
        super().__init__()
        self.network = network
        self.answer = answer
        self.layers = answer.modules()
        encoder: Any = getattr(network.base, "encoder", None)
        if hasattr(encoder, "compute_position_bias"):
            # It counts positions along the row; `_mask` counts them in each text.
            encoder.compute_position_bias = lambda *_, **__: None
        # ModernBERT averages or takes the first token before its head; others take the first.
        self.first = "mean" if getattr(network.config, "classifier_pooling", "cls") == "mean" else "cls"

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        segment: Tensor,
        text_starts: Tensor,
        token_type_ids: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Run the model.

        Args:
            input_ids: `(tokens,)`.
            position_ids: `(tokens,)`, from 0 in each text.
            segment: `(tokens,)`, number of the text, ascending.
            text_starts: `(texts,)`, index of each text's first token.
            token_type_ids: `(tokens,)`, for models that read them.

        Returns:
            The two outputs of `answer`.
        """
        types = None if token_type_ids is None else token_type_ids.unsqueeze(0)
        mask = self._mask(position_ids, segment)
        hidden = self.network.hidden(input_ids.unsqueeze(0), position_ids.unsqueeze(0), types, mask)
        if self.answer.task == bundle_pb2.TASK_TAG:
            return self.answer.judge(self.network.scores(hidden).squeeze(0))
        texts = Packed(hidden.squeeze(0), position_ids, segment, text_starts)
        if self.answer.task == bundle_pb2.TASK_EMBED:
            return self.answer.embed(texts)
        return self.answer.judge(self.network.scores(texts.pooled(self.first).unsqueeze(1)))

    def _mask(self, position_ids: Tensor, segment: Tensor) -> Any:  # noqa: ANN401 (what the family takes)
        same = segment.unsqueeze(1) == segment  # (tokens, tokens)
        bias = torch.where(same, 0.0, _HIDDEN)[None, None]
        distance = position_ids - position_ids.unsqueeze(1)
        if "sliding_attention" in (getattr(self.network.config, "layer_types", None) or ()):
            near = same & (distance.abs() <= self.network.config.sliding_window)
            return {"full_attention": bias, "sliding_attention": torch.where(near, 0.0, _HIDDEN)[None, None]}
        encoder: Any = getattr(self.network.base, "encoder", None)
        if hasattr(encoder, "compute_position_bias"):
            # MPNet learns a bias for each distance, for all layers: one sum with ours, made once.
            learned = encoder.relative_attention_bias(encoder.relative_position_bucket(distance))
            return torch.where(same, learned.permute(2, 0, 1), _HIDDEN).unsqueeze(0)
        return bias
