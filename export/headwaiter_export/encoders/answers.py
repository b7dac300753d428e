"""From what a model computes to what a graph answers: pooling and normalisation, or scores and probabilities."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from headwaiter_proto.v1 import bundle_pb2
from torch import Tensor, nn
from torch.nn import functional

from headwaiter_export.encoders.pooling import Packed, Padded
from headwaiter_export.encoders.sentence import Sentence


@dataclass(frozen=True)
class Answer:
    """What is asked of a model.

    Attributes:
        task: One of the encoder tasks.
        sentence: Pooling and what follows it; only for embeddings.
        labels: Names of the outputs of a classifier or tagger, in order.
        multi_label: Whether several labels may hold at once.
        remarks: Why it came to this, where there was a choice.
    """

    task: bundle_pb2.Task
    sentence: Sentence = field(default_factory=Sentence)
    labels: tuple[str, ...] = ()
    multi_label: bool = False
    remarks: tuple[str, ...] = ()

    @property
    def head(self) -> str:
        """Which of transformers' heads the model is loaded with."""
        heads = {bundle_pb2.TASK_EMBED: "base", bundle_pb2.TASK_TAG: "token"}
        return heads.get(self.task, "sequence")

    @property
    def outputs(self) -> tuple[str, str]:
        """Names of the graph's outputs: raw, and on a fixed scale."""
        return ("embedding", "unit_embedding") if self.task == bundle_pb2.TASK_EMBED else ("scores", "probabilities")

    def embed(self, texts: Packed | Padded) -> tuple[Tensor, Tensor]:
        """Token vectors to text vectors, `(texts, dimension)` each: as they are, and of length 1."""
        embedding = torch.cat([texts.pooled(name) for name in self.sentence.poolings], 1)
        for layer in self.sentence.dense:
            embedding = layer(embedding)
        return embedding, functional.normalize(embedding, dim=1)

    def judge(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Logits to scores and probabilities; the last axis goes where there is one score a text."""
        if self.task == bundle_pb2.TASK_RERANK:
            logits = logits.squeeze(-1)
        # One label alone would always have a softmax of 1.
        independent = self.multi_label or self.task == bundle_pb2.TASK_RERANK or len(self.labels) == 1
        return logits, torch.sigmoid(logits) if independent else torch.softmax(logits, -1)

    def modules(self) -> nn.ModuleList:
        """The layers after pooling, to be owned by whoever uses them."""
        return nn.ModuleList(self.sentence.dense)
