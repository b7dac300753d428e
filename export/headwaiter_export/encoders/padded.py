"""The padded graph: rows of one batch filled up to the longest, as the model itself reads them."""

from __future__ import annotations

from headwaiter_proto.v1 import bundle_pb2
from torch import Tensor, nn

from headwaiter_export.encoders.answers import Answer
from headwaiter_export.encoders.network import Network
from headwaiter_export.encoders.pooling import Padded


class PaddedGraph(nn.Module):
    """Rows of texts to one answer for each text, or for each token."""

    def __init__(self, network: Network, answer: Answer) -> None:
        """Use the weights of `network`."""
        super().__init__()
        self.network = network
        self.answer = answer
        self.layers = answer.modules()

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Run the model.

        Args:
            input_ids: `(texts, length)`, padded on the right.
            attention_mask: `(texts, length)`, 1 for tokens and 0 for padding.
            token_type_ids: `(texts, length)`, for models that read them.

        Returns:
            The two outputs of `answer`.
        """
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        output = self.network.model(input_ids=input_ids, attention_mask=attention_mask, **types)
        if self.answer.task == bundle_pb2.TASK_EMBED:
            return self.answer.embed(Padded(output[0], attention_mask))
        return self.answer.judge(output.logits)
