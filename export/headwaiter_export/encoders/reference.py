"""What PyTorch says: the unmodified model, each text alone and unpadded, pooling written out for one text.

It shares no code with the graphs but the model and the layers that came with the checkpoint.
"""

from __future__ import annotations

import numpy as np
import torch
from headwaiter_proto.v1 import bundle_pb2
from numpy.typing import NDArray
from torch import Tensor

from headwaiter_export.encoders.checkpoint import Checkpoint
from headwaiter_export.encoders.layout import Tokens


@torch.inference_mode()
def expected(checkpoint: Checkpoint, text: Tokens) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Both outputs for one text: `(dimension,)`, `(labels,)`, `()` or, for a tagger, `(length, labels)` each."""
    answer = checkpoint.answer
    inputs = {"input_ids": torch.tensor([text.ids]), "attention_mask": torch.ones(1, len(text.ids), dtype=torch.int64)}
    if checkpoint.reference.reads_token_types:
        inputs["token_type_ids"] = torch.tensor([text.types])
    output = checkpoint.reference.model(**inputs)
    if answer.task == bundle_pb2.TASK_EMBED:
        vector = torch.cat([_pooled(name, output[0][0]) for name in answer.sentence.poolings])
        for layer in answer.sentence.dense:
            vector = layer(vector)
        return vector.numpy(), (vector / vector.norm().clamp_min(1e-12)).numpy()
    logits = output.logits[0]
    if answer.task == bundle_pb2.TASK_RERANK:
        return logits[0].numpy(), logits[0].sigmoid().numpy()
    several = answer.multi_label or len(answer.labels) == 1
    return logits.numpy(), (logits.sigmoid() if several else logits.softmax(-1)).numpy()


def _pooled(name: str, hidden: Tensor) -> Tensor:
    """One text's token vectors `(length, width)` to one vector."""
    length = hidden.size(0)
    if name == "cls":
        return hidden[0]
    if name == "lasttoken":
        return hidden[-1]
    if name == "max":
        return hidden.max(0).values
    if name == "weightedmean":
        weights = torch.arange(1, length + 1)
        return (hidden * weights.unsqueeze(1)).sum(0) / weights.sum()
    return hidden.sum(0) / (length**0.5 if name == "mean_sqrt_len" else length)
