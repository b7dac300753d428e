"""One running batch of generations, and one iteration of it."""

from __future__ import annotations

import time
from collections.abc import Callable

from headwaiter_server.generation.beam_rows import BeamRows
from headwaiter_server.generation.beams import BeamSearch
from headwaiter_server.generation.choosing import Chooser, ChosenToken
from headwaiter_server.generation.engine import Came, Engine, Failures
from headwaiter_server.generation.outcome import IterationFacts, Outcome, Spent
from headwaiter_server.generation.reading import Reading
from headwaiter_server.generation.room import Room
from headwaiter_server.generation.sequence import GenerationEntry, Progress, Sequence
from headwaiter_server.model.contract import FloatArray
from headwaiter_server.model.generation import GenerationModel
from headwaiter_server.scheduling.isolation import failed


class RunningBatch:
    """Sequences that are generated together, each on rows of its own.

    Used by one thread at a time: the event loop reads and fills it between iterations, a worker during one.

    Attributes:
        sequences: Who is in it, in the order in which they came.
        newcomers: Who joins in the next iteration. They wait here and nowhere else, so that whoever fails everybody
            finds them.
        outcome: Of the iteration that is under way, or was the last.
        reserved_bytes: What is set aside for those in it.
        in_flight: Whether a worker has it.
        short_of_room: Whether somebody could not join for want of bytes alone.
    """

    def __init__(
        self, model: GenerationModel, room: Room, most_tokens: int, threads: int, clock: Callable[[], float]
    ) -> None:
        """An empty batch.

        Args:
            model: The model.
            room: What the batch has place for.
            most_tokens: Source tokens that may be read in one iteration, beside those of a first text, or part of one.
            threads: Threads that it runs on.
            clock: The scheduler's clock.
        """
        self._model = model
        self._room = room
        self._most_tokens = most_tokens
        self._clock = clock
        self._engine = Engine(model, room, threads, clock)
        self._ended = 0.0
        self.sequences: list[Sequence] = []
        self.newcomers: list[GenerationEntry] = []
        self.outcome = Outcome(IterationFacts(0), 0.0)
        self.reserved_bytes = 0
        self.in_flight = False
        self.short_of_room = False

    @property
    def entries(self) -> list[GenerationEntry]:
        """Everybody who waits for an answer from this batch, and those who have left it in its last iteration."""
        # In this order, and a copy: the worker moves them on meanwhile, from each of the three to the next.
        return [*self.newcomers, *(sequence.entry for sequence in list(self.sequences)), *self.outcome.left]

    @property
    def used_rows(self) -> int:
        """Rows that somebody has."""
        return self._engine.table.used

    @property
    def unbegun_tokens(self) -> int:
        """Source tokens of those who are in it, and of which nothing is read yet."""
        return sum([each.unread for each in self.sequences if not each.begun])

    def iterate(self, batch_id: int, idle_since: float) -> Outcome:
        """Let go of rows nobody waits for, take newcomers in, read sources, and step everybody who is under way.

        Args:
            batch_id: Number of this iteration.
            idle_since: Since when its worker had nothing to do.

        Returns:
            Who has left. Their rows are free from now on.
        """
        started, began, engine = self._clock(), time.perf_counter(), self._engine
        self.outcome = outcome = Outcome(IterationFacts(batch_id, short_of_room=self.short_of_room), started)
        facts = outcome.facts
        before = (engine.copied_bytes, engine.cpu_seconds, engine.model_seconds)
        there_since = self._ended if self.sequences else min(each.call.submitted for each in self.newcomers)
        facts.wait_seconds = max(0.0, started - max(idle_since, there_since))
        # Calls are answered on the event loop: here their state is only read.
        for sequence in [each for each in self.sequences if not each.entry.call.wanted(started)]:
            outcome.unwanted.append(sequence.entry)
            self._leave(sequence)
        self._seat_newcomers(started)
        came = self._read_sources(started)
        if stepping := [each for each in self.sequences if each.under_way]:
            engine.close_gaps(stepping)
            came += self._step(stepping)
        outcome.now = now = self._clock()
        self._accept(came, now)
        facts.seconds = now - started
        facts.token_seconds, self._ended = now - self._ended, now
        facts.reserved_bytes = self.reserved_bytes
        facts.copied_bytes = engine.copied_bytes - before[0]
        facts.cpu_seconds = engine.cpu_seconds - before[1]
        facts.python_seconds = max(0.0, time.perf_counter() - began - (engine.model_seconds - before[2]))
        return outcome

    def write_off(self) -> None:
        """Count what was spent on everybody who is in it, where its state is lost."""
        self.outcome.spent += [self._spent_on(sequence) for sequence in self.sequences]

    def _seat_newcomers(self, started: float) -> None:
        """Give newcomers their rows, and what is set aside for them."""
        for entry in self.newcomers:
            if entry.call.wanted(started):
                self.sequences.append(self._seated(entry))
            else:
                self.outcome.unwanted.append(entry)
        self.newcomers = []

    def _seated(self, entry: GenerationEntry) -> Sequence:
        task, model, table = entry.payload, self._model, self._engine.table
        rows = table.take(task.decoding.num_beams)
        # What the decoder reads before its first token.
        prompt = task.source.ids if model.start_id is None else [model.start_id]
        beams, chooser = None, None
        if len(rows) > 1:
            beams = BeamRows(BeamSearch(task.decoding, model.end_ids, prompt), rows)
        else:
            chooser = Chooser(task.decoding, prompt)
        sequence = Sequence(entry, rows, self._room.bytes_for(task), chooser, beams, len(task.source))
        table.give(sequence)
        self.reserved_bytes += sequence.reserved_bytes
        return sequence

    def _read_sources(self, started: float) -> list[Came]:
        """Read as much of what is unread as this iteration may; texts that the model goes on with get a first token."""
        facts, came = self.outcome.facts, list[Came]()
        if not (unread := [each for each in self.sequences if each.unread]):
            return came
        reading = Reading(self._engine.encodes, self._most_tokens, self._engine.step_seconds)
        others_wait = len(unread) < len(self.sequences)
        while portion := reading.next(unread, others_wait=others_wait or bool(came)):
            for sequence in portion:
                if not sequence.begun:
                    sequence.begin(started, facts.batch_id)
                    facts.joined += 1
            tokens, began = sum(map(reading.size, portion)), self._clock()
            if self._engine.encodes:
                failures = self._engine.encode(portion)
            else:
                first, failures = self._engine.read(portion[0])
                came += first
            self._fail(failures)
            reading.note(portion, tokens, self._clock() - began)
            unread = [each for each in unread if each.unread and each not in failures]
        facts.prefill_tokens = reading.tokens
        return came

    def _step(self, stepping: list[Sequence]) -> list[Came]:
        facts = self.outcome.facts
        came, failures = self._engine.step(stepping)
        facts.rows, facts.dummy_rows = self._engine.stepped_rows, self._engine.idle_rows
        self._fail(failures)
        return came

    def _accept(self, came: list[Came], now: float) -> None:
        """Hand out what came, and let go of whoever is done."""
        facts, accept = self.outcome.facts, self._accept_token
        # Texts that were only read are of the run as well.
        rows = facts.rows + sum([not each[0].under_way for each in came])
        tokens = facts.tokens
        failures: Failures = {}
        for sequence, token, chosen, attention in came:
            sequence.batch_size = max(sequence.batch_size, rows)
            sequence.batch_tokens = max(sequence.batch_tokens, tokens)
            try:
                if sequence.beams is not None:
                    sequence.finish_beams(self._model.end_ids)
                else:
                    accept(sequence, token, chosen, attention, now)
            except Exception as error:  # noqa: BLE001 - whatever a tokenizer raises, the others get their tokens
                failures[sequence] = failed(error)
                continue
            if sequence.finish_reason is not None:
                facts.finish_reasons.append(sequence.finish_reason)
                self.outcome.finished.append(sequence)
                self._leave(sequence)
            elif not sequence.under_way:
                self._engine.set_out(sequence)
        self._fail(failures)
        facts.finished = len(facts.finish_reasons)

    def _accept_token(
        self, sequence: Sequence, token: int, chosen: ChosenToken | None, attention: FloatArray | None, now: float
    ) -> None:
        facts = self.outcome.facts
        piece = sequence.accept(token, chosen, now, self._model.end_ids)
        if piece is not None:
            if len(sequence.token_ids) == 1:
                facts.first_tokens.append(now - sequence.entry.call.terms.arrived)
            else:
                facts.next_tokens += 1
        if attention is not None:
            sequence.attention.append(attention)
        rest = sequence.finish() if sequence.finish_reason is not None else ""
        if sequence.watched and (piece is not None or rest):
            tokens = () if piece is None else (chosen or ChosenToken(token),)
            self.outcome.progress.append((sequence.entry, Progress((piece or "") + rest, tokens, now)))

    def _fail(self, failures: Failures) -> None:
        for sequence, error in failures.items():
            self.outcome.failed.append((sequence.entry, error))
            self._leave(sequence)

    def _leave(self, sequence: Sequence) -> None:
        """Take rows and room back from a text."""
        self.outcome.spent.append(self._spent_on(sequence))
        self.sequences.remove(sequence)
        self.reserved_bytes -= sequence.reserved_bytes
        self._engine.free(sequence)

    def _spent_on(self, sequence: Sequence) -> Spent:
        tokens = len(sequence.token_ids) * len(sequence.rows)
        return Spent(sequence.entry, self._engine.cpu_seconds_of(sequence), tokens)
