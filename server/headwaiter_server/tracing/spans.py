"""What is told of calls and runs to be traced, in plain Python. All times are seconds of the scheduler's clock."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class CallEnd:
    """How a call, or a message of a stream, ended; None is what it did not come to.

    Attributes:
        ended: When its answer was out.
        code: gRPC status code, `OK`.
        code_number: The same as a number.
        model: The model that answered.
        version: Its version.
        texts: Texts answered.
        tokens: Tokens of its texts.
        tokenizing: When tokenizing began.
        tokenized: When that was done.
        submitted: When its texts began to wait.
        started: When the first run began that held one of them.
        batch_id: Number of the first run.
        batch_size: Most texts of any of its runs.
        batch_tokens: Most tokens of any of its runs.
    """

    ended: float
    code: str
    code_number: int
    model: str
    version: str
    texts: int
    tokens: int | None
    tokenizing: float | None
    tokenized: float | None
    submitted: float | None
    started: float | None
    batch_id: int | None
    batch_size: int | None
    batch_tokens: int | None


@dataclass(frozen=True, slots=True)
class GeneratedText:
    """One text that was generated.

    Attributes:
        index: Which of its call's texts it is.
        started: When its first run began.
        ended: When its last run ended.
        source_tokens: Tokens of the text it was generated from.
        generated_tokens: Tokens that were generated.
        finish_reason: Why there are no more.
        batch_id: Number of its first run.
        batch_size: Most texts of any of its runs.
        prefilled: When all of its source had been read; None where that is not known.
        first_token: When its first token was there; None if none came.
        rows: Rows of the batch that it had: one, or one for each beam.
    """

    index: int
    started: float
    ended: float
    source_tokens: int
    generated_tokens: int
    finish_reason: str
    batch_id: int
    batch_size: int
    prefilled: float | None = None
    first_token: float | None = None
    rows: int = 1


@dataclass(frozen=True, slots=True)
class TracedRun:
    """One run of an encoder.

    Attributes:
        model: Its model.
        batch_id: Its number in the server's life.
        started: When a worker began it.
        ended: When that worker was done.
        rows: Texts.
        tokens: Tokens of the texts.
        padding_tokens: Tokens computed beyond these.
        reason: Why it held no more.
        abandoned: Whether it was ended early, because nobody waited for it any more.
        failures: Texts on which the model failed.
    """

    model: str
    batch_id: int
    started: float
    ended: float
    rows: int
    tokens: int
    padding_tokens: int
    reason: str
    abandoned: bool
    failures: int


class CallSpan(Protocol):
    """A call, or a message of a stream, that is traced. Used on the event loop."""

    @property
    def trace_id(self) -> str:
        """Of its trace, 32 hexadecimal digits."""
        ...

    def generated(self, text: GeneratedText) -> None:
        """One of its texts was generated."""
        ...

    def finish(self, end: CallEnd) -> None:
        """The call is over; nothing is told afterwards but of runs that it left behind."""
        ...


class Tracing(Protocol):
    """Decides which calls are traced, and passes on what they went through. Never blocks, never fails a call."""

    def begin(self, method: str, arrived: float, metadata: Iterable[tuple[str, str | bytes]]) -> CallSpan | None:
        """A call has arrived.

        Args:
            method: `package.Service/Method`.
            arrived: When.
            metadata: Its metadata, in which W3C's `traceparent` and `tracestate` count.

        Returns:
            Its span; None if it is not traced.
        """
        ...

    def run(self, run: TracedRun, calls: Sequence[CallSpan]) -> None:
        """A run has ended that held texts of these calls, at least one."""
        ...

    async def close(self, timeout_seconds: float) -> None:
        """Send what there is, for at most so long; nothing is told afterwards."""
        ...
