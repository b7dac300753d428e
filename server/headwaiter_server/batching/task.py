"""One text for an encoder model, and what came of it."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from headwaiter_server.encoding import Encoding
from headwaiter_server.model.contract import FloatArray
from headwaiter_server.scheduling.calls import Pending
from headwaiter_server.tracing import CallSpan


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
        BUDGET: Others waited, and the run was full, or they did not suit it; or it was full, and so waited no longer.
        EMPTY: Nobody else waited, or idle workers take the others.
        ALONE: The text fills a run by itself, or texts are not batched.
        DELAY: The oldest text that waited had waited for mates as long as it may; only where texts do.
        DEADLINE: A text would have been too late if it had waited for more mates; only where texts do.
    """

    BUDGET = "budget"
    EMPTY = "empty"
    ALONE = "alone"
    DELAY = "delay"
    DEADLINE = "deadline"


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
        wait_seconds: For how long it could have been under way already: its oldest text was there, and a worker idle.
        cpu_seconds: Processor time, of all its threads.
        started: When it began, on the scheduler's clock.
        failures: Texts on which the model failed.
        spans: Of its calls, those that are traced.
    """

    batch_id: int
    seconds: float
    rows: int
    tokens: int
    padding_tokens: int
    reason: CloseReason
    abandoned: bool
    wait_seconds: float = 0.0
    cpu_seconds: float = 0.0
    started: float = 0.0
    failures: int = 0
    spans: tuple[CallSpan, ...] = ()
