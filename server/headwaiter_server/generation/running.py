"""One running batch of generations, and one iteration of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from headwaiter_server.errors import EngineError
from headwaiter_server.generation.sequence import FinishReason, GenerationEntry, Sequence
from headwaiter_server.model.contract import DecodingBatch, GenerationModel
from headwaiter_server.scheduling.isolation import Try, run_isolating


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
        wait_seconds: For how long it could have been under way already: somebody was there for it, and a worker idle.
        cpu_seconds: Processor time, of all its threads.
        first_tokens: From the arrival of its call to now, of each text whose first token this is.
        next_tokens: Texts that got a token after one of the iteration before.
        token_seconds: Since the end of that one.
    """

    batch_id: int
    seconds: float = 0.0
    rows: int = 0
    joined: int = 0
    source_tokens: int = 0
    finished: int = 0
    wait_seconds: float = 0.0
    cpu_seconds: float = 0.0
    first_tokens: list[float] = field(default_factory=list)
    next_tokens: int = 0
    token_seconds: float = 0.0

    @property
    def tokens(self) -> int:
        """Tokens computed: the newcomers' source tokens and one for each row."""
        return self.source_tokens + self.rows


@dataclass(slots=True)
class Outcome:
    """Who left the batch in an iteration, and how.

    Attributes:
        facts: What the iteration did.
        now: Its end, on the scheduler's clock.
        finished: Whose generation has ended.
        failed: On whom the model failed.
        spent: Everybody who has left, those among them whose caller has gone, and the processor time of each.
    """

    facts: IterationFacts
    now: float
    finished: list[Sequence] = field(default_factory=list)
    failed: list[tuple[GenerationEntry, EngineError]] = field(default_factory=list)
    spent: list[tuple[GenerationEntry, float]] = field(default_factory=list)


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

    def __init__(self, model: GenerationModel, threads: int, clock: Callable[[], float]) -> None:
        """An empty batch.

        Args:
            model: The model.
            threads: Threads that it runs on.
            clock: The scheduler's clock.
        """
        self._bos_id = model.bos_id
        self._eos_id = model.eos_id
        self._batch: DecodingBatch = model.new_batch()
        self._threads = threads
        self._clock = clock
        self._ended = 0.0
        # Of a row that was there from the beginning: what a row costs is summed up for all of them at once.
        self._row_cpu_seconds = 0.0
        self._rows: list[Sequence | None] = []
        self.sequences: list[Sequence] = []
        self.newcomers: list[GenerationEntry] = []
        self.in_flight = False
        self.deferred = False

    @property
    def entries(self) -> list[GenerationEntry]:
        """Everybody who waits for an answer from this batch."""
        return [*self.newcomers, *(sequence.entry for sequence in self.sequences)]

    @property
    def spent(self) -> list[tuple[GenerationEntry, float]]:
        """Processor time of each text that is being generated."""
        return [(sequence.entry, self._cpu_seconds(sequence)) for sequence in self.sequences]

    def iterate(self, batch_id: int, idle_since: float) -> Outcome:
        """Let go of rows nobody waits for, take newcomers in, and decode one token of every row.

        Args:
            batch_id: Number of this iteration.
            idle_since: Since when its worker had nothing to do.

        Returns:
            Whose generation has ended. Their rows are free from now on.
        """
        started = self._clock()
        outcome = Outcome(IterationFacts(batch_id), started)
        facts = outcome.facts
        there_since = self._ended if self.sequences else min(each.call.submitted for each in self.newcomers)
        facts.wait_seconds = max(0.0, started - max(idle_since, there_since))
        self._drop_gone(outcome)
        joined = self._join(self.newcomers, started, outcome)
        self._close_gaps(facts)
        self.sequences = [each for each in self._rows if each is not None]
        self.newcomers = []
        if self.sequences:
            self._step(outcome)
        outcome.now = now = self._clock()
        facts.seconds = now - started
        facts.first_tokens = [now - each.entry.call.terms.arrived for each in joined if each.token_ids]
        facts.next_tokens -= len(facts.first_tokens)
        facts.token_seconds, self._ended = now - self._ended, now
        return outcome

    def _drop_gone(self, outcome: Outcome) -> None:
        for row, sequence in enumerate(self._rows):
            if sequence is not None and sequence.entry.call.over:
                self._leave(row, sequence, outcome)

    def _leave(self, row: int, sequence: Sequence, outcome: Outcome) -> None:
        self._rows[row] = None
        outcome.spent.append((sequence.entry, self._cpu_seconds(sequence)))

    def _cpu_seconds(self, sequence: Sequence) -> float:
        return sequence.cpu_seconds + self._row_cpu_seconds

    def _join(self, newcomers: list[GenerationEntry], started: float, outcome: Outcome) -> list[Sequence]:
        """Newcomers take the free rows first: a row that is filled again needs no other one to be moved into it."""
        free = [row for row, sequence in enumerate(self._rows) if sequence is None]
        places = [*free, *range(len(self._rows), len(self._rows) + len(newcomers))][: len(newcomers)]
        self._rows += [None] * (len(newcomers) - len(free))

        def join(start: int, stop: int) -> None:
            self._batch.join([entry.payload.source for entry in newcomers[start:stop]], places[start:stop])

        tries: list[Try] = []
        failures = run_isolating(join, 0, len(newcomers), tries)
        shares = self._shares([len(entry.payload.source) for entry in newcomers], tries)
        outcome.failed += [(newcomers[index], error) for index, error in failures.items()]
        facts = outcome.facts
        facts.cpu_seconds += sum(shares)
        joined = []
        for index, (entry, row, share) in enumerate(zip(newcomers, places, shares, strict=True)):
            entry.call.terms.trail.began(started, facts.batch_id)
            if index in failures:
                outcome.spent.append((entry, share))
                continue
            sequence = Sequence(entry, self._bos_id, started, facts.batch_id, share - self._row_cpu_seconds)
            self._rows[row] = sequence
            joined.append(sequence)
            facts.source_tokens += len(entry.payload.source)
        facts.joined = len(joined)
        return joined

    def _shares(self, source_tokens: list[int], tries: list[Try]) -> list[float]:
        """Each newcomer's part of the processor time that encoding took, by its tokens."""
        shares = [0.0] * len(source_tokens)
        for start, stop, cpu_seconds in tries:
            token_seconds = cpu_seconds * self._threads / max(1, sum(source_tokens[start:stop]))
            for index in range(start, stop):
                shares[index] += token_seconds * source_tokens[index]
        return shares

    def _close_gaps(self, facts: IterationFacts) -> None:
        """Move the last rows into the rows that stayed free, so that a step runs over neighbours."""
        order = [row for row, sequence in enumerate(self._rows) if sequence is not None]
        if len(order) == len(self._rows):
            return
        for row in range(len(order)):
            if self._rows[row] is None:
                order.insert(row, order.pop())
        began = time.thread_time()
        self._batch.keep(order)
        self._rows = [self._rows[row] for row in order]
        if order:
            cpu_seconds = (time.thread_time() - began) * self._threads
            facts.cpu_seconds += cpu_seconds
            self._row_cpu_seconds += cpu_seconds / len(order)

    def _step(self, outcome: Outcome) -> None:
        sequences = self.sequences
        last_tokens = np.array([sequence.last_token for sequence in sequences], np.int64)
        outcome.facts.rows = len(sequences)
        next_tokens = np.empty_like(last_tokens)

        def step(start: int, stop: int) -> None:
            next_tokens[start:stop] = self._batch.step(last_tokens[start:stop], start, stop).argmax(axis=-1)

        tries: list[Try] = []
        failures = run_isolating(step, 0, len(sequences), tries)
        self._charge_steps(tries, outcome.facts)
        rows, tokens = outcome.facts.rows, outcome.facts.tokens
        for row, (sequence, token) in enumerate(zip(sequences, next_tokens.tolist(), strict=True)):
            if row in failures:
                outcome.failed.append((sequence.entry, failures[row]))
                self._leave(row, sequence, outcome)
                continue
            sequence.accept(token, self._eos_id)
            sequence.batch_size = max(sequence.batch_size, rows)
            sequence.batch_tokens = max(sequence.batch_tokens, tokens)
            if sequence.finish_reason is not None:
                outcome.finished.append(sequence)
                self._leave(row, sequence, outcome)
        finished = outcome.finished
        ended = sum(each.finish_reason is FinishReason.END_OF_SEQUENCE for each in finished)
        outcome.facts.next_tokens = rows - len(failures) - ended
        outcome.facts.finished = len(finished)
        self.sequences = [each for each in self._rows if each is not None]

    def _charge_steps(self, tries: list[Try], facts: IterationFacts) -> None:
        for start, stop, cpu_seconds in tries:
            row_seconds = cpu_seconds * self._threads / (stop - start)
            facts.cpu_seconds += cpu_seconds * self._threads
            if stop - start == len(self.sequences):
                self._row_cpu_seconds += row_seconds
                continue
            for sequence in self.sequences[start:stop]:
                sequence.cpu_seconds += row_seconds
