"""The Transformer of "Attention Is All You Need" (Vaswani et al. 2017), to be read beside the paper.

`attention` is section 3.2, `layers` and `stacks` are 3.1 and 3.3, `positional` is 3.4 and 3.5, `model` is
figure 1. `incremental` decodes one token at a time, `decoding` is greedy search on top of it, `checkpoint`
is the folder format.
"""

from __future__ import annotations

from headwaiter_export.transformer.attention import MultiHeadAttention, scaled_dot_product_attention
from headwaiter_export.transformer.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from headwaiter_export.transformer.config import TransformerConfig
from headwaiter_export.transformer.decoding import greedy_decode
from headwaiter_export.transformer.errors import (
    CheckpointError,
    ConfigError,
    CorruptFileError,
    MissingFileError,
    ShapeMismatchError,
    TransformerError,
    UnknownArchitectureError,
    UnknownFieldError,
)
from headwaiter_export.transformer.incremental import KeyValue, StepOutput, cross_keys_values, step
from headwaiter_export.transformer.masks import causal_mask, padding_mask
from headwaiter_export.transformer.model import Transformer

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "ConfigError",
    "CorruptFileError",
    "KeyValue",
    "MissingFileError",
    "MultiHeadAttention",
    "ShapeMismatchError",
    "StepOutput",
    "Transformer",
    "TransformerConfig",
    "TransformerError",
    "UnknownArchitectureError",
    "UnknownFieldError",
    "causal_mask",
    "cross_keys_values",
    "greedy_decode",
    "load_checkpoint",
    "padding_mask",
    "save_checkpoint",
    "scaled_dot_product_attention",
    "step",
]
