"""The parts of an encoder-decoder model while they are traced, and the attention of each."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from headwaiter_export.generation.cached import cached_attention, refuse_more
from headwaiter_export.generation.packing import attend

ATTENTION: Final = "headwaiter_encoder_decoder"

Pair = tuple[Tensor, Tensor]


class Part(enum.Enum):
    """Which part of the model is traced.

    Attributes:
        ENCODER: Its encoder.
        PROJECTIONS: What the layers of the decoder make of the encoder's answer; all else that runs is thrown away.
        DECODER: Its decoder.
    """

    ENCODER = enum.auto()
    PROJECTIONS = enum.auto()
    DECODER = enum.auto()


@dataclass
class Run:
    """One part of the model while it is traced.

    Attributes:
        part: Which.
        positions: Number of each token in its text, `(rows, tokens)`.
        bias: Added to the scores of the encoder, or to those of the decoder towards its source.
        cross: Keys and values of the source, by layer of the decoder, `(rows, heads, source, head_dim)`.
        weights: Of each layer of the decoder, what its last token attends to in the source, `(rows, heads, source)`.
    """

    part: Part
    positions: Tensor
    bias: Tensor
    cross: dict[int, Pair] = field(default_factory=dict)
    weights: list[Tensor] = field(default_factory=list)


_run: ContextVar[Run] = ContextVar("run")


def current() -> Run:
    """The part that is traced now."""
    return _run.get()


@contextmanager
def running(run: Run) -> Iterator[Run]:
    """Let the attention of every layer know which part is traced."""
    token = _run.set(run)
    try:
        yield run
    finally:
        _run.reset(token)


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **more: Any,  # noqa: ANN401 (what families hand to their attention)
) -> tuple[Tensor, None]:
    """The attention of whichever part runs: of the encoder, of the decoder to itself, or to its source."""
    run = current()
    if run.part is Part.PROJECTIONS:
        return query.transpose(1, 2), None
    to_source = any(key is known for known, _ in run.cross.values())
    if run.part is Part.DECODER and not to_source:
        return cached_attention(module, query, key, value, attention_mask, **more)
    factor, position_bias = more.pop("scaling", None), more.pop("position_bias", None)
    refuse_more(more)
    scores = (query * (query.size(-1) ** -0.5 if factor is None else factor)) @ key.transpose(-2, -1) + run.bias
    if not to_source:
        if position_bias is not None:  # towards the source it is zeros
            scores = scores + position_bias
        return attend(scores, value).transpose(1, 2), None
    weights = torch.softmax(scores, -1)
    run.weights.append(weights[:, :, -1])
    return (weights @ value).transpose(1, 2), None


AttentionInterface.register(ATTENTION, attention)
