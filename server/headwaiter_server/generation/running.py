"""One running batch of generations, and one iteration of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from headwaiter_server.errors import EngineError
from headwaiter_server.generation.sequence import GenerationEntry, Sequence
from headwaiter_server.model.contract import DecodingBatch, GenerationModel
from headwaiter_server.scheduling.isolation import run_isolating


@dataclass(slots=True)
class IterationFacts:
    """What one iteration did, for metrics.

    Attributes:
        batch_id: Its number in the server's life.
        seconds: Its length.
        rows: Rows stepped.
        joined: Rows that joined.
        source_tokens: Source tokens encoded for them.
        finished: Rows that ended.
    """

    batch_id: int
    seconds: float = 0.0
    rows: int = 0
    joined: int = 0
    source_tokens: int = 0
    finished: int = 0

    @property
    def tokens(self) -> int:
        """Tokens computed: the newcomers' source tokens and one for each row."""
        return self.source_tokens + self.rows


@dataclass(slots=True)
class Outcome:
    """Who left the batch in an iteration, and how."""

    facts: IterationFacts
    now: float
    finished: list[Sequence] = field(default_factory=list)
    failed: list[tuple[GenerationEntry, EngineError]] = field(default_factory=list)


class RunningBatch:
    """Sequences that are decoded together, one row of the model's batch each.

    Used by one thread at a time: the event loop reads and fills it between iterations, a worker during one.

    Attributes:
        sequences: Who is being generated, in the order of their rows.
        newcomers: Who joins in the next iteration. They wait here and nowhere else, so that whoever fails everybody
            finds them.
        in_flight: Whether a worker has it.
        deferred: Whether newcomers were put off in the last iteration.
    """

    def __init__(self, model: GenerationModel, clock: Callable[[], float]) -> None:
        self._bos_id = model.bos_id
        self._eos_id = model.eos_id
        self._batch: DecodingBatch = model.new_batch()
        self._clock = clock
        self._rows: list[Sequence | None] = []
        self.sequences: list[Sequence] = []
        self.newcomers: list[GenerationEntry] = []
        self.in_flight = False
        self.deferred = False

    @property
    def entries(self) -> list[GenerationEntry]:
        """Everybody who waits for an answer from this batch."""
        return [*self.newcomers, *(sequence.entry for sequence in self.sequences)]

    def iterate(self, batch_id: int) -> Outcome:
        """Let go of rows nobody waits for, take newcomers in, and decode one token of every row.

        Args:
            batch_id: Number of this iteration.

        Returns:
            Whose generation has ended. Their rows are free from now on.
        """
        started = self._clock()
        outcome = Outcome(IterationFacts(batch_id), started)
        self._rows = [None if each is None or each.entry.call.over else each for each in self._rows]
        self._join(self.newcomers, started, outcome)
        self._close_gaps()
        self.sequences = [each for each in self._rows if each is not None]
        self.newcomers = []
        if self.sequences:
            self._step(outcome)
        outcome.now = self._clock()
        outcome.facts.seconds = outcome.now - started
        return outcome

    def _join(self, newcomers: list[GenerationEntry], started: float, outcome: Outcome) -> None:
        """Newcomers take the free rows first: a row that is filled again needs no other one to be moved into it."""
        free = [row for row, sequence in enumerate(self._rows) if sequence is None]
        places = [*free, *range(len(self._rows), len(self._rows) + len(newcomers))][: len(newcomers)]
        self._rows += [None] * (len(newcomers) - len(free))

        def join(start: int, stop: int) -> None:
            self._batch.join([entry.payload.source for entry in newcomers[start:stop]], places[start:stop])

        failures = run_isolating(join, 0, len(newcomers))
        outcome.failed += [(newcomers[index], error) for index, error in failures.items()]
        facts = outcome.facts
        for index, (entry, row) in enumerate(zip(newcomers, places, strict=True)):
            if index not in failures:
                self._rows[row] = Sequence(entry, self._bos_id, started, facts.batch_id)
                facts.joined += 1
                facts.source_tokens += len(entry.payload.source)

    def _close_gaps(self) -> None:
        """Move the last rows into the rows that stayed free, so that a step runs over neighbours."""
        order = [row for row, sequence in enumerate(self._rows) if sequence is not None]
        if len(order) == len(self._rows):
            return
        for row in range(len(order)):
            if self._rows[row] is None:
                order.insert(row, order.pop())
        self._batch.keep(order)
        self._rows = [self._rows[row] for row in order]

    def _step(self, outcome: Outcome) -> None:
        sequences = self.sequences
        last_tokens = np.array([sequence.last_token for sequence in sequences], np.int64)
        outcome.facts.rows = len(sequences)
        next_tokens = np.empty_like(last_tokens)

        def step(start: int, stop: int) -> None:
            next_tokens[start:stop] = self._batch.step(last_tokens[start:stop], start, stop).argmax(axis=-1)

        failures = run_isolating(step, 0, len(sequences))
        rows, tokens = outcome.facts.rows, outcome.facts.tokens
        for row, (sequence, token) in enumerate(zip(sequences, next_tokens.tolist(), strict=True)):
            if row in failures:
                outcome.failed.append((sequence.entry, failures[row]))
                self._rows[row] = None
                continue
            sequence.accept(token, self._eos_id)
            sequence.batch_size = max(sequence.batch_size, rows)
            sequence.batch_tokens = max(sequence.batch_tokens, tokens)
            if sequence.finish_reason is not None:
                outcome.finished.append(sequence)
                self._rows[row] = None
        outcome.facts.finished = len(outcome.finished)
        self.sequences = [each for each in self._rows if each is not None]
