"""One text being generated."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from headwaiter_server.encoding import Encoding
from headwaiter_server.generation.beam_rows import BeamRows
from headwaiter_server.generation.beams import Hypothesis
from headwaiter_server.generation.choosing import Chooser, ChosenToken
from headwaiter_server.generation.decoding import Decoding
from headwaiter_server.generation.texts import TextStream
from headwaiter_server.model.contract import FloatArray
from headwaiter_server.scheduling.calls import Pending
from headwaiter_server.tracing import GeneratedText


class FinishReason(enum.Enum):
    """Why a generation ended."""

    END_OF_SEQUENCE = enum.auto()
    LENGTH = enum.auto()
    STOP = enum.auto()


@dataclass(frozen=True, slots=True)
class Progress:
    """What a text has got in one iteration.

    Attributes:
        text: What is certain of it now; empty where the task has no `text`.
        tokens: Its tokens, without those that end it.
        seconds: When they came, on the scheduler's clock.
    """

    text: str
    tokens: tuple[ChosenToken, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class GenerationTask:
    """What is asked for one text.

    Attributes:
        source: The text.
        decoding: How its tokens are chosen, and when it ends.
        text: Makes text of its tokens as they come, where pieces or stop strings are wanted; of this task alone.
        watch: Told on the event loop of what came in each iteration; never with beams, nor after the call is over.
    """

    source: Encoding
    decoding: Decoding
    text: TextStream | None = None
    watch: Callable[[Progress], None] | None = None


@dataclass(frozen=True, slots=True)
class Generated:
    """What came of one text.

    Attributes:
        token_ids: The generated tokens, without one that ended it; of the best hypothesis, with beams.
        finish_reason: Why there are no more.
        queue_seconds: From submission to its first run.
        inference_seconds: From the start of its first run to the end of its last.
        batch_size: Most rows of any of its runs.
        batch_tokens: Most tokens of any of its runs.
        batch_id: Number of its first run.
        text: Their text, where it was made as they came; it ends before the string that stopped it.
        tokens: The tokens with their log-probabilities, where these were asked for.
        score: Of the best hypothesis, with beams.
        hypotheses: Those that were asked for, best first, with beams.
        stopped_by: The string or token that stopped it.
        attention: What each of the tokens attends to, `(tokens, layers, heads, source)`, where that was asked for.
        token_times: When each token came, on the scheduler's clock; nothing with beams, whose tokens come at the end.
    """

    token_ids: list[int]
    finish_reason: FinishReason
    queue_seconds: float
    inference_seconds: float
    batch_size: int
    batch_tokens: int
    batch_id: int
    text: str | None = None
    tokens: tuple[ChosenToken, ...] | None = None
    score: float | None = None
    hypotheses: tuple[Hypothesis, ...] = ()
    stopped_by: str | int | None = None
    attention: FloatArray | None = None
    token_times: tuple[float, ...] = ()


GenerationEntry = Pending[GenerationTask, Generated]


@dataclass(slots=True, eq=False)
class Sequence:
    """A text in the running batch.

    Attributes:
        entry: The call's entry it answers.
        rows: The rows that are its own: one, or one for each beam.
        reserved_bytes: What is kept free for it in the cache.
        chooser: Chooses its tokens; None with beams.
        beams: Its hypotheses; None without beams.
        unread: Tokens of its source that are still to be read.
        begun: Whether something of its source was read.
        under_way: Whether it takes part in steps: its source is read, and it has what a step reads.
        started: When its first run began, on the scheduler's clock.
        prefilled: When the last of its source was read that is read.
        batch_id: Number of its first run.
        cpu_seconds: Processor time spent on it, beyond that of any row of its batch.
        token_ids: Generated so far.
        token_times: When each of them came.
        tokens: The same with their log-probabilities, where these were asked for.
        attention: What each of them attends to, and one that ended the text, where that was asked for.
        attended: The same of all its tokens, once it is done.
        finish_reason: None while it goes on.
        stopped_by: What stopped it.
        batch_size: Most rows of any of its runs so far.
        batch_tokens: Most tokens of any of its runs so far.
        plain: Whether its tokens are the likeliest, and nothing else is wanted of them than what they attend to.
        attentive: Whether it is to be told what each token attends to.
        watched: Whether somebody is told of each of its tokens.
    """

    entry: GenerationEntry
    rows: list[int]
    reserved_bytes: int
    chooser: Chooser | None
    beams: BeamRows | None
    unread: int
    begun: bool = False
    under_way: bool = False
    started: float = 0.0
    prefilled: float = 0.0
    batch_id: int = 0
    cpu_seconds: float = 0.0
    token_ids: list[int] = field(default_factory=list)
    token_times: list[float] = field(default_factory=list)
    tokens: list[ChosenToken] = field(default_factory=list)
    attention: list[FloatArray] = field(default_factory=list)
    attended: FloatArray | None = None
    finish_reason: FinishReason | None = None
    stopped_by: str | int | None = None
    batch_size: int = 0
    batch_tokens: int = 0
    # Taken out of the task, for every step reads them.
    _most_tokens: int = field(init=False)
    plain: bool = field(init=False)
    attentive: bool = field(init=False)
    watched: bool = field(init=False)
    _stop_token_ids: frozenset[int] = field(init=False)
    _text: TextStream | None = field(init=False)
    _logprobs: bool = field(init=False)

    def __post_init__(self) -> None:
        """Look at the task."""
        task = self.entry.payload
        decoding = task.decoding
        self._most_tokens = decoding.max_new_tokens
        self._stop_token_ids = decoding.stop_token_ids
        self._text = task.text if self.beams is None else None
        self._logprobs = decoding.logprobs is not None
        self.plain = self.chooser is not None and self.chooser.greedy
        self.attentive = self.beams is None and decoding.attention
        self.watched = self.beams is None and task.watch is not None

    @property
    def live_rows(self) -> list[int]:
        """Those of its rows that take part in steps."""
        return self.rows if self.beams is None else self.beams.rows

    def begin(self, now: float, batch_id: int) -> None:
        """Note its first run."""
        self.begun, self.started, self.batch_id = True, now, batch_id
        self.entry.call.terms.trail.began(now, batch_id)

    def accept(self, token: int, chosen: ChosenToken | None, now: float, end_ids: frozenset[int]) -> str | None:
        """Take the next token, and notice the end.

        Args:
            token: The token.
            chosen: The same with its log-probabilities, where these were asked for.
            now: When it came.
            end_ids: Tokens that end every text.

        Returns:
            The text that is certain now, beyond what was before; None where the token ends the text, and is none of it.
        """
        if token in end_ids:
            self.finish_reason = FinishReason.END_OF_SEQUENCE
            return None
        if token in self._stop_token_ids:
            self.finish_reason, self.stopped_by = FinishReason.STOP, token
            return None
        token_ids = self.token_ids
        token_ids.append(token)
        self.token_times.append(now)
        if len(token_ids) >= self._most_tokens:
            self.finish_reason = FinishReason.LENGTH
        if self._logprobs and chosen is not None:
            self.tokens.append(chosen)
        if self._text is None:
            return ""
        piece = self._text.push(token)
        if self._text.stopped_by is not None:
            self.finish_reason, self.stopped_by = FinishReason.STOP, self._text.stopped_by
        return piece

    def finish(self) -> str:
        """Put together what is told at the end; gives the rest of the text, certain once there are no more tokens."""
        if self.attention:
            self.attended = np.stack(self.attention)[: len(self.token_ids)]
        if self._text is None:
            return ""
        rest = self._text.finish()
        if self._text.stopped_by is not None:
            self.finish_reason, self.stopped_by = FinishReason.STOP, self._text.stopped_by
        return rest

    def result(self, now: float) -> Generated:
        """The answer of a sequence that has finished.

        Args:
            now: End of its last run, on the scheduler's clock.
        """
        hypotheses = self.beams.search.hypotheses if self.beams is not None else ()
        tokens = hypotheses[0].tokens if hypotheses else tuple(self.tokens) if self._logprobs else None
        return Generated(
            token_ids=self.token_ids,
            finish_reason=self.finish_reason or FinishReason.LENGTH,
            queue_seconds=self.started - self.entry.call.submitted,
            inference_seconds=now - self.started,
            batch_size=self.batch_size,
            batch_tokens=self.batch_tokens,
            batch_id=self.batch_id,
            text=None if self._text is None else self._text.text,
            tokens=tokens,
            score=hypotheses[0].score if hypotheses else None,
            hypotheses=hypotheses,
            stopped_by=self.stopped_by,
            attention=self.attended,
            token_times=tuple(self.token_times),
        )

    def finish_beams(self, end_ids: frozenset[int]) -> None:
        """Take over what the best hypothesis is, once the search is done."""
        if self.beams is None or not self.beams.search.done:
            return
        best = self.beams.search.hypotheses[0]
        self.token_ids = best.token_ids
        if best.ended_by is None:
            self.finish_reason = FinishReason.LENGTH
        elif best.ended_by in end_ids:
            self.finish_reason = FinishReason.END_OF_SEQUENCE
        else:
            self.finish_reason, self.stopped_by = FinishReason.STOP, best.ended_by

    def trace(self, now: float) -> None:
        """Tell how a sequence has finished, where its call is traced; `now` as for `result`."""
        call = self.entry.call
        if call.over or (span := call.terms.trail.span) is None or self.finish_reason is None:
            return
        span.generated(
            GeneratedText(
                index=self.entry.index,
                started=self.started,
                ended=now,
                source_tokens=self.entry.cost_tokens,
                generated_tokens=len(self.token_ids),
                finish_reason=self.finish_reason.name.lower(),
                batch_id=self.batch_id,
                batch_size=self.batch_size,
                prefilled=self.prefilled,
                first_token=self.token_times[0] if self.token_times else None,
                rows=len(self.rows),
            )
        )
