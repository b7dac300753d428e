"""One text, or one request of tensors, for a model that answers at once; and what came of it."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from headwaiter_server.encoding import Encoding
from headwaiter_server.model.contract import FloatArray, Source, Values, Wanted
from headwaiter_server.model.tensors import TensorRows, Tensors
from headwaiter_server.scheduling.calls import Pending
from headwaiter_server.tracing import CallSpan

Source_co = TypeVar("Source_co", covariant=True)
Wanted_co = TypeVar("Wanted_co", covariant=True)


class Task(Protocol[Source_co, Wanted_co]):
    """What is asked."""

    @property
    def source(self) -> Source_co:
        """What the model reads."""
        ...

    @property
    def wanted(self) -> Wanted_co:
        """What is wanted of it."""
        ...


@dataclass(frozen=True, slots=True)
class EncodingTask:
    """What is asked for one text.

    Attributes:
        source: The text.
        raw: Whether the answer is wanted before normalisation, softmax or sigmoid.
    """

    source: Encoding
    raw: bool

    @property
    def wanted(self) -> bool:
        """See `Task`."""
        return self.raw


@dataclass(frozen=True, slots=True)
class TensorTask:
    """What is asked in one request of tensors.

    Attributes:
        source: The inputs.
        wanted: Names of the outputs.
    """

    source: TensorRows
    wanted: tuple[str, ...]


# Not frozen, though nobody alters one: Python 3.11 cannot call `Answer`, an alias, where it is and has slots.
@dataclass(slots=True)
class RunAnswer(Generic[Values]):
    """What came of one text, or of one request of tensors.

    Attributes:
        values: The model's answer; see `BatchModel.run`.
        queue_seconds: From submission to its run.
        inference_seconds: Length of its run.
        batch_size: Rows of its run.
        batch_tokens: Tokens of its run, padding left out; 0 for tensors.
        batch_id: Number of its run.
    """

    values: Values
    queue_seconds: float
    inference_seconds: float
    batch_size: int
    batch_tokens: int
    batch_id: int


BatchEntry = Pending[Task[Source, Wanted], RunAnswer[Values]]
Answer = RunAnswer[FloatArray]
EncodingEntry = Pending[EncodingTask, Answer]
TensorEntry = Pending[TensorTask, RunAnswer[Tensors]]


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
        rows: Texts, or rows of tensors.
        tokens: Tokens of the texts; 0 for tensors.
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
