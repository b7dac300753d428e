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
    """Sequences that are decoded together; sequence i is row i of the model's batch.

    Used by one thread at a time: the event loop reads and fills it between iterations, a worker during one.
    """

    def __init__(self, model: GenerationModel, clock: Callable[[], float]) -> None:
        self._bos_id = model.bos_id
        self._eos_id = model.eos_id
        self._batch: DecodingBatch = model.new_batch()
        self._clock = clock
        self.sequences: list[Sequence] = []
        self.in_flight = False

    def iterate(self, newcomers: list[GenerationEntry], batch_id: int) -> Outcome:
        """Let go of rows nobody waits for, take newcomers in, and decode one token of every row.

        Args:
            newcomers: Entries to join.
            batch_id: Number of this iteration.

        Returns:
            Whose generation has ended. Their rows are free already.
        """
        started = self._clock()
        outcome = Outcome(IterationFacts(batch_id), started)
        self._keep([row for row, sequence in enumerate(self.sequences) if not sequence.entry.call.over])
        self._join(newcomers, started, outcome)
        if self.sequences:
            self._step(outcome)
        outcome.now = self._clock()
        outcome.facts.seconds = outcome.now - started
        return outcome

    def _join(self, newcomers: list[GenerationEntry], started: float, outcome: Outcome) -> None:
        joined: list[GenerationEntry] = []

        def join(start: int, stop: int) -> None:
            self._batch.join([entry.payload.source for entry in newcomers[start:stop]])
            joined.extend(newcomers[start:stop])

        failures = run_isolating(join, 0, len(newcomers))
        outcome.failed += [(newcomers[index], error) for index, error in failures.items()]
        facts = outcome.facts
        facts.joined = len(joined)
        facts.source_tokens = sum(len(entry.payload.source) for entry in joined)
        self.sequences += [Sequence(entry, self._bos_id, started, facts.batch_id) for entry in joined]

    def _step(self, outcome: Outcome) -> None:
        sequences = self.sequences
        last_tokens = np.array([sequence.last_token for sequence in sequences], np.int64)
        outcome.facts.rows = len(sequences)
        next_tokens = np.empty_like(last_tokens)

        def step(start: int, stop: int) -> None:
            next_tokens[start:stop] = self._batch.step(last_tokens[start:stop], start, stop).argmax(axis=-1)

        failures = run_isolating(step, 0, len(sequences))
        outcome.failed += [(sequences[row].entry, error) for row, error in failures.items()]
        rows, tokens = outcome.facts.rows, outcome.facts.tokens
        for row, token in enumerate(next_tokens.tolist()):
            if row in failures:
                continue
            sequence = sequences[row]
            sequence.accept(token, self._eos_id)
            sequence.batch_size = max(sequence.batch_size, rows)
            sequence.batch_tokens = max(sequence.batch_tokens, tokens)
            if sequence.finish_reason is not None:
                outcome.finished.append(sequence)
        outcome.facts.finished = len(outcome.finished)
        self._keep([row for row, each in enumerate(sequences) if each.finish_reason is None and row not in failures])

    def _keep(self, rows: list[int]) -> None:
        """Keep these rows, ascending. The last ones move into the free places, so that few rows are copied."""
        if len(rows) == len(self.sequences):
            return
        staying = [row for row in rows if row < len(rows)]
        moving = [row for row in rows if row >= len(rows)]
        order = list(range(len(rows)))
        for free in sorted(set(order).difference(staying)):
            order[free] = moving.pop()
        self._batch.keep(order)
        self.sequences = [self.sequences[row] for row in order]
