"""What one iteration of a running batch did, and who left it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from headwaiter_server.errors import EngineError
from headwaiter_server.generation.sequence import FinishReason, GenerationEntry, Progress, Sequence


@dataclass(slots=True)
class IterationFacts:
    """What one iteration did, for metrics.

    Attributes:
        batch_id: Its number in the server's life.
        seconds: Its length.
        rows: Rows stepped for somebody; a text with beams has one for each.
        dummy_rows: Rows stepped between them, for nobody.
        joined: Texts of whose source something was read for the first time.
        prefill_tokens: Tokens of sources that were read.
        finished: Texts that ended.
        finish_reasons: Why, for each of them.
        wait_seconds: For how long it could have been under way already: somebody was there for it, and a worker idle.
        cpu_seconds: Processor time, of all its threads.
        python_seconds: Its length without the model's part.
        copied_bytes: What of the cache was copied from place to place.
        reserved_bytes: What of the cache was set aside for those who were left at its end.
        short_of_room: Whether somebody had to wait for bytes of the cache alone.
        first_tokens: From the arrival of its call to now, of each text whose first token this is; not with beams.
        next_tokens: Texts that got a token after one of the iteration before; not with beams.
        token_seconds: Since the end of that one.
    """

    batch_id: int
    seconds: float = 0.0
    rows: int = 0
    dummy_rows: int = 0
    joined: int = 0
    prefill_tokens: int = 0
    finished: int = 0
    finish_reasons: list[FinishReason] = field(default_factory=list)
    wait_seconds: float = 0.0
    cpu_seconds: float = 0.0
    python_seconds: float = 0.0
    copied_bytes: int = 0
    reserved_bytes: int = 0
    short_of_room: bool = False
    first_tokens: list[float] = field(default_factory=list)
    next_tokens: int = 0
    token_seconds: float = 0.0

    @property
    def tokens(self) -> int:
        """Tokens computed: those of sources, and one for each row."""
        return self.prefill_tokens + self.rows


class Spent(NamedTuple):
    """What was spent on a text that has left.

    Attributes:
        entry: The text.
        cpu_seconds: Processor time.
        tokens: Tokens generated, in all of its rows.
    """

    entry: GenerationEntry
    cpu_seconds: float
    tokens: int


@dataclass(slots=True)
class Outcome:
    """Who left the batch in an iteration, and how; and what came for those who watch.

    Attributes:
        facts: What the iteration did.
        now: Its end, on the scheduler's clock.
        unwanted: Who had gone when it began, or was too late: they have no rows any more.
        progress: What came, for those who watch.
        finished: Whose generation has ended.
        failed: On whom the model failed.
        spent: Everybody who has left, those among them whose caller has gone.
    """

    facts: IterationFacts
    now: float
    unwanted: list[GenerationEntry] = field(default_factory=list)
    progress: list[tuple[GenerationEntry, Progress]] = field(default_factory=list)
    finished: list[Sequence] = field(default_factory=list)
    failed: list[tuple[GenerationEntry, EngineError]] = field(default_factory=list)
    spent: list[Spent] = field(default_factory=list)

    @property
    def left(self) -> list[GenerationEntry]:
        """Who left and is to be answered."""
        return [*self.unwanted, *(sequence.entry for sequence in self.finished), *(entry for entry, _ in self.failed)]
