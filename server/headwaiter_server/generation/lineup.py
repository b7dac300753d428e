"""Who takes part in a step, and what the step has answered."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Items

import numpy as np

from headwaiter_server.generation.sequence import Sequence
from headwaiter_server.model.contract import FloatArray, IntArray


class Lineup:
    """Who takes part in a step, sorted by how their tokens are chosen.

    Attributes:
        sequences: All of them.
        plain: Those whose tokens are the likeliest.
        plain_rows: Their rows.
        choosy: Those with other ways.
        searching: Those with beams.
        attending: Rows of which it is to be told what they attend to.
        rows: Rows of all of them.
    """

    def __init__(self, sequences: Items[Sequence]) -> None:
        """Sort them."""
        self.sequences = sequences
        self.plain = [each for each in sequences if each.plain]
        self.plain_rows = [each.rows[0] for each in self.plain]
        self.choosy: list[Sequence] = []
        self.searching: list[Sequence] = []
        self.attending = [each.rows[0] for each in sequences if each.attentive]
        self.rows = len(sequences)
        if len(self.plain) < len(sequences):
            self.choosy = [each for each in sequences if not each.plain and each.beams is None]
            self.searching = [each for each in sequences if each.beams is not None]
            self.rows += sum(len(each.live_rows) - 1 for each in self.searching)


class Answers:
    """What a step has answered, put together from its tries.

    Attributes:
        likeliest: The likeliest token of each row.
        logits: Of each row, where they are kept.
        attention: Of the rows that it was asked for.
    """

    def __init__(self, rows: int, *, keeps: bool) -> None:
        """Nothing yet.

        Args:
            rows: Rows of the step.
            keeps: Whether more than the likeliest tokens are wanted.
        """
        self.likeliest: IntArray = np.empty(rows, np.int64)
        self.logits: FloatArray = np.empty((0, 0), np.float32)
        self.attention: dict[int, FloatArray] = {}
        self._rows = rows
        self._keeps = keeps

    def take(self, logits: FloatArray, attention: Mapping[int, FloatArray], start: int) -> None:
        """Take what some neighbouring rows have answered; the next run may overwrite the logits."""
        stop = start + len(logits)
        self.likeliest[start:stop] = logits.argmax(axis=-1)
        self.attention.update(attention)
        if self._keeps and len(logits) == self._rows:
            self.logits = logits
        elif self._keeps:
            if not len(self.logits):
                self.logits = np.zeros((self._rows, logits.shape[-1]), np.float32)
            self.logits[start:stop] = logits
