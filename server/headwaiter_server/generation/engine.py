"""A batch's runs of the model: reading, stepping, choosing. Each is made again with fewer texts where it raises.

A run that raised may have written into rows, at the very places that the next try writes again; what it has chosen is
forgotten. So whoever stays is not harmed by whoever fails.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from collections.abc import Sequence as Items
from itertools import repeat

import numpy as np

from headwaiter_server.errors import EngineError
from headwaiter_server.generation.choosing import ChosenToken, choose
from headwaiter_server.generation.lineup import Answers, Lineup
from headwaiter_server.generation.room import Room
from headwaiter_server.generation.rows import RowTable
from headwaiter_server.generation.sequence import Sequence
from headwaiter_server.model.contract import FloatArray
from headwaiter_server.model.generation import CHUNK_TOKENS, GenerationModel
from headwaiter_server.scheduling.isolation import Try, run_isolating

# What came for a text: the text, its token, the same with log-probabilities where these were asked for, and what it
# attends to. With beams, where each hypothesis has a token of its own, it only says that they came.
Came = tuple[Sequence, int, ChosenToken | None, FloatArray | None]
_OF_BEAMS = -1

Failures = dict[Sequence, EngineError]


class Engine:
    """The model's side of a batch.

    Attributes:
        table: Who has which row.
        encodes: Whether the model has an encoder.
        cpu_seconds: Processor time so far, of all its threads.
        step_seconds: Length of the last step.
        stepped_rows: Rows of the last step.
        idle_rows: Rows that it ran over for nobody.
    """

    def __init__(self, model: GenerationModel, room: Room, threads: int, clock: Callable[[], float]) -> None:
        """Rows that nobody has.

        Args:
            model: The model.
            room: What there is place for.
            threads: Threads that the model runs on.
            clock: The scheduler's clock.
        """
        self.table = RowTable(room.rows)
        self.encodes = model.start_id is not None
        self.cpu_seconds = 0.0
        self.step_seconds = 0.0
        self.stepped_rows = 0
        self.idle_rows = 0
        self._start_id = model.start_id or 0
        self._rows = model.new_rows(room.rows, room.capacity)
        self._threads = threads
        self._clock = clock
        # Of a row that was there from the beginning: what a row costs is summed up for all of them at once.
        self._row_cpu_seconds = 0.0

    @property
    def copied_bytes(self) -> int:
        """What has been copied from place to place so far."""
        return self._rows.copied_bytes

    @property
    def model_seconds(self) -> float:
        """Time in the model's runs so far."""
        return self._rows.run_seconds

    def cpu_seconds_of(self, sequence: Sequence) -> float:
        """Processor time spent on a text."""
        return sequence.cpu_seconds + (self._row_cpu_seconds if sequence.under_way else 0.0)

    def set_out(self, sequence: Sequence) -> None:
        """Have a text take part in steps, and pay for them, from now on."""
        sequence.under_way = True
        sequence.cpu_seconds -= self._row_cpu_seconds

    def free(self, sequence: Sequence) -> None:
        """Take the rows of a text back."""
        self.table.free(sequence)
        for row in sequence.rows:
            self._rows.free(row)

    def encode(self, texts: Items[Sequence]) -> Failures:
        """Encode texts; those who do not fail are under way."""
        sources = [each.entry.payload.source for each in texts]

        def encode(start: int, stop: int) -> None:
            self._rows.encode(sources[start:stop], [each.rows[0] for each in texts[start:stop]])

        tries: list[Try] = []
        failures = run_isolating(encode, 0, len(texts), tries)
        self._charge(tries, texts, [len(source) for source in sources])
        for index, sequence in enumerate(texts):
            if index not in failures:
                sequence.unread, sequence.prefilled = 0, self._clock()
                self.table.put(sequence.live_rows, [self._start_id], 0)
                self.set_out(sequence)
        return {texts[index]: error for index, error in failures.items()}

    def read(self, sequence: Sequence) -> tuple[list[Came], Failures]:
        """Read the next part of a text; the last one gives its first token."""
        ids = sequence.entry.payload.source.ids
        place = len(ids) - sequence.unread
        part = ids[place : place + CHUNK_TOKENS]
        row, end = sequence.rows[0], place + len(part)
        came: list[Came] = []

        def read(_start: int, _stop: int) -> None:
            logits = self._rows.read(row, part, place)[np.newaxis]
            if end == len(ids):
                came[:] = [self._first(sequence, logits, end)]

        tries: list[Try] = []
        failures = run_isolating(read, 0, 1, tries)
        self._charge(tries, [sequence], [1])
        if not failures:
            sequence.unread -= len(part)
            sequence.prefilled = self._clock()
            if sequence.unread:
                self.table.read(row, end)
        return came, {sequence: failures[0]} if failures else {}

    def close_gaps(self, stepping: Items[Sequence]) -> None:
        """Move rows into others that are free, where that is worth it."""
        moved, began = False, time.thread_time()
        for source, target in self.table.moves():
            self._rows.copy(source, target, 0, int(self.table.places[source]))
            self.table.move(source, target)
            self._rows.free(source)
            moved = True
        if moved:
            self._charge_rows((time.thread_time() - began) * self._threads, Lineup(stepping))

    def step(self, stepping: Items[Sequence]) -> tuple[list[Came], Failures]:
        """Have everybody who is under way read a token, and choose the next one."""
        began, top, lineup = self._clock(), self.table.top, Lineup(stepping)
        answers = Answers(top, keeps=bool(lineup.choosy or lineup.searching))

        def step(start: int, stop: int) -> None:
            logits = self._rows.step(self.table.tokens[start:stop], self.table.places[start:stop], start)
            attention = {row: self._rows.attention(row) for row in lineup.attending if start <= row < stop}
            answers.take(logits, attention, start)

        tries: list[Try] = []
        failed_rows = run_isolating(step, 0, top, tries)
        self._charge_steps(tries, lineup, top)
        self.step_seconds, self.stepped_rows, self.idle_rows = self._clock() - began, lineup.rows, top - lineup.rows
        failures: Failures = {}
        if failed_rows:
            failures = {each: failed_rows[row] for each in stepping for row in each.live_rows if row in failed_rows}
            lineup = Lineup([each for each in stepping if each not in failures])
        came: list[Came] = []
        if lineup.plain:
            rows = lineup.plain_rows
            tokens = answers.likeliest[rows].tolist()
            self.table.advance(rows, tokens)
            attention = map(answers.attention.get, rows) if lineup.attending else repeat(None)
            came = list(zip(lineup.plain, tokens, repeat(None), attention, strict=False))
        if lineup.choosy or lineup.searching:
            came += self._choose(lineup, answers, failures)
        return came, failures

    def _choose(self, lineup: Lineup, answers: Answers, failures: Failures) -> list[Came]:
        """Choose the next tokens of those who do not just take the likeliest."""
        came: list[Came] = []
        choosy, searching = lineup.choosy, lineup.searching

        def draw(start: int, stop: int) -> None:
            drawing = choosy[start:stop]
            rows = [each.rows[0] for each in drawing]
            chosen = choose(answers.logits, [each.chooser for each in drawing if each.chooser is not None], rows)
            tokens = [each.token_id for each in chosen]
            self.table.advance(rows, tokens)
            came.extend(zip(drawing, tokens, chosen, map(answers.attention.get, rows), strict=True))

        def search(start: int, stop: int) -> None:
            for each in searching[start:stop]:
                self._search(each, answers.logits[each.live_rows], int(self.table.places[each.live_rows[0]]) + 1)
                came.append((each, _OF_BEAMS, None, None))

        tries: list[Try] = []
        failed = run_isolating(draw, 0, len(choosy), tries)
        failures |= {choosy[index]: error for index, error in failed.items()}
        self._charge(tries, choosy, [1] * len(choosy))
        for index, each in enumerate(searching):  # one by one: a search that has gone on cannot do so again
            tries = []
            if failed := run_isolating(search, index, index + 1, tries):
                failures[each] = failed[index]
            self._charge(tries, searching, [1] * len(searching))
        return came

    def _first(self, sequence: Sequence, logits: FloatArray, place: int) -> Came:
        """The first token of a text that the model goes on with."""
        if sequence.beams is not None:
            self._search(sequence, logits, place)
            return sequence, _OF_BEAMS, None, None
        chosen = None
        if sequence.plain or sequence.chooser is None:
            token = int(logits[0].argmax())
        else:
            (chosen,) = choose(logits, [sequence.chooser])
            token = chosen.token_id
        self.table.put(sequence.rows, [token], place)
        return sequence, token, chosen, None

    def _search(self, sequence: Sequence, logits: FloatArray, place: int) -> None:
        if (beams := sequence.beams) is not None:
            tokens = beams.advance(logits, self._rows, place)
            self.table.put(beams.rows, tokens, place)

    def _charge(self, tries: Items[Try], texts: Items[Sequence], weights: Items[int]) -> None:
        """Charge each try to the texts that were in it, by their weights."""
        for start, stop, cpu_seconds in tries:
            self.cpu_seconds += cpu_seconds * self._threads
            unit_seconds = cpu_seconds * self._threads / max(1, sum(weights[start:stop]))
            for sequence, weight in zip(texts[start:stop], weights[start:stop], strict=True):
                sequence.cpu_seconds += unit_seconds * weight

    def _charge_steps(self, tries: Items[Try], lineup: Lineup, top: int) -> None:
        """Charge each try of a step to the rows that were in it; what rows for nobody cost is theirs."""
        for start, stop, cpu_seconds in tries:
            if stop - start == top:
                self._charge_rows(cpu_seconds * self._threads, lineup)
                continue
            sequences = lineup.sequences
            live = [each for each in sequences for row in each.live_rows if start <= row < stop] or sequences
            self._charge([Try(0, len(live), cpu_seconds)], live, [1] * len(live))

    def _charge_rows(self, cpu_seconds: float, lineup: Lineup) -> None:
        """Charge every row that takes part in a step alike."""
        self.cpu_seconds += cpu_seconds
        self._row_cpu_seconds += cpu_seconds / lineup.rows
        for each in lineup.searching:
            each.cpu_seconds += (len(each.live_rows) - 1) * cpu_seconds / lineup.rows
