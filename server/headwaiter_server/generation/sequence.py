"""One text being generated."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from headwaiter_server.encoding import Encoding
from headwaiter_server.scheduling.calls import Pending
from headwaiter_server.tracing import GeneratedText


class FinishReason(enum.Enum):
    """Why a generation ended."""

    END_OF_SEQUENCE = enum.auto()
    LENGTH = enum.auto()


@dataclass(frozen=True, slots=True)
class GenerationTask:
    """What is asked for one text.

    Attributes:
        source: The text.
        max_new_tokens: Most tokens to generate, the end-of-sequence token included.
    """

    source: Encoding
    max_new_tokens: int


@dataclass(frozen=True, slots=True)
class Generated:
    """What came of one text.

    Attributes:
        token_ids: The generated tokens, without the end-of-sequence token.
        finish_reason: Why there are no more.
        queue_seconds: From submission to its first run.
        inference_seconds: From the start of its first run to the end of its last.
        batch_size: Most rows of any of its runs.
        batch_tokens: Most tokens of any of its runs.
        batch_id: Number of its first run.
    """

    token_ids: list[int]
    finish_reason: FinishReason
    queue_seconds: float
    inference_seconds: float
    batch_size: int
    batch_tokens: int
    batch_id: int


GenerationEntry = Pending[GenerationTask, Generated]


@dataclass(slots=True, eq=False)
class Sequence:
    """A text in the running batch.

    Attributes:
        entry: The call's entry it answers.
        last_token: What the next step reads.
        started: When its first run began, on the scheduler's clock.
        batch_id: Number of its first run.
        cpu_seconds: Processor time spent on it, beyond that of any row of its batch.
        token_ids: Generated so far.
        finish_reason: None while it goes on.
        batch_size: Most rows of any of its runs so far.
        batch_tokens: Most tokens of any of its runs so far.
    """

    entry: GenerationEntry
    last_token: int
    started: float
    batch_id: int
    cpu_seconds: float
    token_ids: list[int] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    batch_size: int = 0
    batch_tokens: int = 0

    def accept(self, token: int, eos_id: int) -> None:
        """Take the next token, and notice the end."""
        if token == eos_id:
            self.finish_reason = FinishReason.END_OF_SEQUENCE
            return
        self.token_ids.append(token)
        self.last_token = token
        if len(self.token_ids) >= self.entry.payload.max_new_tokens:
            self.finish_reason = FinishReason.LENGTH

    def result(self, now: float) -> Generated:
        """The answer of a sequence that has finished.

        Args:
            now: End of its last run, on the scheduler's clock.
        """
        return Generated(
            token_ids=self.token_ids,
            finish_reason=self.finish_reason or FinishReason.LENGTH,
            queue_seconds=self.started - self.entry.call.submitted,
            inference_seconds=now - self.started,
            batch_size=self.batch_size,
            batch_tokens=self.batch_tokens,
            batch_id=self.batch_id,
        )

    def trace(self, now: float) -> None:
        """Tell how a sequence has finished, where its call is traced; `now` as for `result`."""
        call = self.entry.call
        if call.over or (span := call.terms.trail.span) is None:
            return
        result = self.result(now)
        span.generated(
            GeneratedText(
                index=self.entry.index,
                started=self.started,
                ended=now,
                source_tokens=self.entry.cost_tokens,
                generated_tokens=len(result.token_ids),
                finish_reason=result.finish_reason.name.lower(),
                batch_id=result.batch_id,
                batch_size=result.batch_size,
            )
        )
