"""One text for an encoder model, and what came of it."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from headwaiter_server.encoding import Encoding
from headwaiter_server.model.contract import FloatArray
from headwaiter_server.scheduling.calls import Pending


@dataclass(frozen=True, slots=True)
class EncodingTask:
    """What is asked for one text.

    Attributes:
        source: The text.
        raw: Whether the answer is wanted before normalisation, softmax or sigmoid.
    """

    source: Encoding
    raw: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one text.

    Attributes:
        values: The model's answer; see `EncoderModel.run`.
        queue_seconds: From submission to its run.
        inference_seconds: Length of its run.
        batch_size: Rows of its run.
        batch_tokens: Tokens of its run, padding left out.
        batch_id: Number of its run.
    """

    values: FloatArray
    queue_seconds: float
    inference_seconds: float
    batch_size: int
    batch_tokens: int
    batch_id: int


EncodingEntry = Pending[EncodingTask, Answer]


class CloseReason(enum.Enum):
    """Why no more texts were put into a run.

    Attributes:
        BUDGET: Others waited, and the run was full, or they did not suit it.
        EMPTY: Nobody else waited, or idle workers take the others.
        ALONE: The text fills a run by itself, or texts are not batched.
    """

    BUDGET = "budget"
    EMPTY = "empty"
    ALONE = "alone"


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What one run did, for metrics.

    Attributes:
        batch_id: Its number in the server's life.
        seconds: Its length.
        rows: Texts.
        tokens: Tokens of the texts.
        padding_tokens: Tokens computed beyond these.
        reason: Why it held no more.
        abandoned: Whether it was ended early, because nobody waited for it any more.
    """

    batch_id: int
    seconds: float
    rows: int
    tokens: int
    padding_tokens: int
    reason: CloseReason
    abandoned: bool
