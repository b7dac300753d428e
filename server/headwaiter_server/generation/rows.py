"""Which rows of a batch belong to whom, what each reads next, and when a gap between them is worth closing. Pure.

A step runs over the rows from the first to the last that takes part; the others among them read a token for nobody.
Newcomers take the first rows that are free, which closes gaps for nothing. A gap that stays open is closed by the last
row, once the steps for nobody have cost as much as copying it does: so neither costs more than twice what the best
choice had. Every copy closes a gap that a text has left: one row's tokens for each text, however long the cache is.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from collections.abc import Sequence as Items

import numpy as np

from headwaiter_server.generation.sequence import Sequence
from headwaiter_server.model.contract import IntArray

# Tokens whose copying costs about what a row costs in a step for nobody: 240 or more with the pronounce model, 400 or
# more with a GPT-2 of 14 million parameters.
_TOKENS_A_STEP = 256
# What a row reads that takes no part.
_NO_TOKEN = 0


class RowTable:
    """The rows of one batch.

    Attributes:
        owners: Who has each row.
        tokens: What each row reads in the next step.
        places: How many tokens each row has read.
    """

    def __init__(self, rows: int) -> None:
        """Rows that nobody has.

        Args:
            rows: How many.
        """
        self.owners: list[Sequence | None] = [None] * rows
        self.tokens: IntArray = np.full(rows, _NO_TOKEN, np.int64)
        self.places: IntArray = np.zeros(rows, np.int64)
        self._free = list(range(rows))  # a heap
        self._steps_for_nobody = 0

    @property
    def used(self) -> int:
        """Rows that somebody has."""
        return len(self.owners) - len(self._free)

    @property
    def top(self) -> int:
        """One past the last row of whoever is under way; 0 if nobody is."""
        return self._top(len(self.owners))

    def take(self, rows: int) -> list[int]:
        """The first free rows.

        Args:
            rows: How many; no more than are free.
        """
        return [heapq.heappop(self._free) for _ in range(rows)]

    def give(self, sequence: Sequence) -> None:
        """Let a text have its rows."""
        for row in sequence.rows:
            self.owners[row] = sequence

    def free(self, sequence: Sequence) -> None:
        """Take back the rows of a text."""
        for row in sequence.rows:
            self._clear(row)

    def read(self, row: int, place: int) -> None:
        """Note how many tokens a row has read that does not take part in steps."""
        self.tokens[row], self.places[row] = _NO_TOKEN, place

    def put(self, rows: Items[int], tokens: Items[int], place: int) -> None:
        """Say what rows read next that have read so many tokens.

        Args:
            rows: The rows.
            tokens: What each reads; fewer than rows where those at the end take no part.
            place: How many tokens each has read.
        """
        for row, token in zip(rows, tokens, strict=False):
            self.tokens[row], self.places[row] = token, place

    def advance(self, rows: list[int], tokens: list[int]) -> None:
        """Say what rows read next that have read one more token."""
        self.tokens[rows] = tokens
        self.places[rows] += 1

    def moves(self) -> Iterator[tuple[int, int]]:
        """Rows that are worth moving before a step, and where to; `move` is to be called for each before the next."""
        top = self.top
        if self._free and self._free[0] < top:
            self._steps_for_nobody += sum([row < top for row in self._free])
        else:
            self._steps_for_nobody = 0
        while self._free and self._free[0] < top:
            cost = -(-int(self.places[top - 1]) // _TOKENS_A_STEP)
            if cost > self._steps_for_nobody:
                break
            self._steps_for_nobody -= cost
            yield top - 1, self._free[0]
            top = self._top(top - 1)

    def move(self, source: int, target: int) -> None:
        """Let the owner of a row have another one instead, the first that is free."""
        if target != heapq.heappop(self._free):
            raise ValueError(f"row {target} is not the first that is free")
        if (owner := self.owners[source]) is None:
            raise ValueError(f"nobody has row {source}")
        self.owners[target] = owner
        self.tokens[target], self.places[target] = self.tokens[source], self.places[source]
        owner.rows[owner.rows.index(source)] = target
        if owner.beams is not None:
            owner.beams.move(source, target)
        self._clear(source)

    def _top(self, rows: int) -> int:
        while rows and ((owner := self.owners[rows - 1]) is None or not owner.under_way):
            rows -= 1
        return rows

    def _clear(self, row: int) -> None:
        self.owners[row] = None
        heapq.heappush(self._free, row)
        self.tokens[row], self.places[row] = _NO_TOKEN, 0
