"""The hypotheses of a beam search on the rows of a batch: those that go on stay where they are.

Of a hypothesis that goes on with several tokens, one stays in its row; the others take the rows of hypotheses that do
not go on, and get there only what these have not read as well.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from headwaiter_server.generation.beams import BeamSearch
from headwaiter_server.model.contract import FloatArray
from headwaiter_server.model.generation import GenerationRows


class BeamRows:
    """One text's beam search, and which of its rows each hypothesis is in.

    Attributes:
        search: The search.
        rows: The row of each hypothesis that takes part in steps, best first.
    """

    def __init__(self, search: BeamSearch, rows: Sequence[int]) -> None:
        """Before the first step, in which there is one hypothesis.

        Args:
            search: The search.
            rows: As many as it has beams.
        """
        self.search = search
        self.rows = [rows[0]]
        self._own = list(rows)
        # Of two of the rows, how many tokens from the beginning are the same in both.
        self._shared = np.zeros((len(rows), len(rows)), np.int64)

    def advance(self, logits: FloatArray, batch: GenerationRows, place: int) -> list[int]:
        """Choose how the hypotheses go on, and lay them out.

        Args:
            logits: Of what follows each hypothesis, `(hypotheses, vocab)`.
            batch: What the rows belong to.
            place: Tokens that each hypothesis has read.

        Returns:
            The token that each hypothesis reads next, in the order of `rows`; nothing when the search is done.
        """
        moves = self.search.advance(logits)
        if self.search.done or not moves:
            return []
        went_on = {self.rows[parent] for parent, _ in moves}
        free = [row for row in self._own if row not in went_on]
        taken: set[int] = set()
        rows = []
        for parent, _ in moves:
            row = self.rows[parent]
            if row in taken:
                source, row = row, free.pop(0)
                self._copy(batch, source, row, place)
            taken.add(row)
            rows.append(row)
        self.rows = rows
        return [token for _, token in moves]

    def move(self, source: int, target: int) -> None:
        """Note that one of its rows has become another."""
        self.rows = [target if row == source else row for row in self.rows]
        self._own = [target if row == source else row for row in self._own]

    def _copy(self, batch: GenerationRows, source: int, target: int, place: int) -> None:
        shared, here, there = self._shared, self._own.index(source), self._own.index(target)
        batch.copy(source, target, int(shared[here, there]), place)
        shared[there] = shared[here]
        shared[:, there] = shared[:, here]
        shared[here, there] = shared[there, here] = place
