"""Texts in the rows of a model that generates, each beside a twin that is alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import numpy as np
import pytest
from headwaiter_server.encoding import Encoding
from headwaiter_server.lifecycle.building import build_model
from headwaiter_server.lifecycle.repository import BundleLocation
from headwaiter_server.model.cached import CachedModel
from headwaiter_server.model.contract import FloatArray, IntArray
from headwaiter_server.model.onnx import OnnxGraph

# Prompts are read in pieces of so many tokens, the text alone and the text beside others.
PIECE = 5


def model_of(folder: Path) -> CachedModel:
    """The model of a bundle, checked as a server does."""
    location = BundleLocation(folder.parent.name, int(folder.name), folder)
    body = build_model(location, "fp32", lambda name, graph, **_: OnnxGraph.load(name, graph, 1)).body
    assert isinstance(body, CachedModel)
    return body


class Twin:
    """A text that has rows for itself.

    Attributes:
        source: What was encoded; None without an encoder.
        pieces: What was read, at once or token by token.
        logits: Of what follows.
    """

    def __init__(self, model: CachedModel, source: list[int] | None) -> None:
        self.source = source
        self.pieces: list[list[int]] = []
        self.logits: FloatArray = np.empty(0, np.float32)
        self._model = model
        self._rows = model.new_rows(1)
        if source is not None:
            self._rows.encode([Encoding(source)], [0])

    @property
    def tokens(self) -> int:
        return sum(map(len, self.pieces))

    def read(self, piece: list[int]) -> FloatArray:
        self.logits = self._rows.read(0, piece, self.tokens).copy()
        self.pieces.append(piece)
        return self.logits

    def attention(self) -> FloatArray:
        return self._rows.attention(0)

    def again(self) -> Twin:
        """Another that has read the same."""
        twin = Twin(self._model, self.source)
        for piece in self.pieces:
            twin.read(piece)
        return twin

    def shared(self, other: Twin) -> int:
        """Tokens from the beginning that two have read in the same way."""
        if self.source != other.source:
            return 0
        pairs = enumerate(zip(self.pieces, other.pieces, strict=False))
        same = next((at for at, (one, two) in pairs if one != two), min(len(self.pieces), len(other.pieces)))
        return sum(map(len, self.pieces[:same]))


@dataclass
class Texts:
    """Rows, and what each of them should answer.

    Attributes:
        model: The model.
        random: Says what happens next.
        vocab: Tokens that are read are below it.
        poison: What no text survives; None if there is no such token.
        longest_source: Tokens of a source.
    """

    model: CachedModel
    random: Random
    vocab: int
    poison: int | None = None
    longest_source: int = 20
    rows: int = 6
    twins: dict[int, Twin] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.batch = self.model.new_rows(self.rows)

    def act(self) -> None:
        """Do one of the things that happen to a batch."""
        acts = [self.begin, self.step, self.step, self.step, self.copy, self.free]
        if self.poison is not None:
            acts.append(self.fail)
        self.random.choice(acts)()

    def begin(self) -> None:
        free = [row for row in range(self.rows) if row not in self.twins]
        rows = self.random.sample(free, min(len(free), self.random.randint(1, 3)))
        if not rows:
            return
        if self.model.start_id is None:
            for row in rows:
                self._begin(row, None, self._tokens(self.random.randint(1, 12)))
            return
        sources = [self._tokens(self.random.randint(1, self.longest_source)) for _ in rows]
        if self.poison is not None and self.random.random() < 0.2:
            with pytest.raises(ValueError, match="no finite number"):
                self.batch.encode([Encoding([*source, self.poison]) for source in sources], rows)
        self.batch.encode([Encoding(source) for source in sources], rows)
        for row, source in zip(rows, sources, strict=True):
            self._begin(row, source, [self.model.start_id])

    def _begin(self, row: int, source: list[int] | None, prompt: list[int]) -> None:
        twin = self.twins[row] = Twin(self.model, source)
        for start in range(0, len(prompt), PIECE):
            piece = prompt[start : start + PIECE]
            found = self.batch.read(row, piece, start)
            assert np.array_equal(found, twin.read(piece))
            if self.random.random() < 0.5:
                self.step(but=row)

    def step(self, but: int | None = None) -> None:
        """One token for some neighbouring rows, of which some have no text, and some no token."""
        start = self.random.randrange(self.rows)
        self._step(start, self.random.randint(start + 1, self.rows), but)

    def copy(self) -> None:
        if not self.twins:
            return
        source = self.random.choice(sorted(self.twins))
        target = self.random.choice([row for row in range(self.rows) if row != source])
        original = self.twins[source]
        first = original.shared(self.twins[target]) if target in self.twins else 0
        self.batch.copy(source, target, self.random.randint(0, first), original.tokens)
        self.twins[target] = original.again()

    def free(self) -> None:
        if self.twins:
            row = self.random.choice(sorted(self.twins))
            del self.twins[row]
            self.batch.free(row)

    def fail(self) -> None:
        """A token that makes the model compute NaN spoils its run; the others are stepped again without it."""
        assert self.poison is not None
        row = self.random.randrange(self.rows)
        place = self.twins[row].tokens if row in self.twins else 0
        if place == self.batch.capacity:
            return
        tokens, places = self._dummies(0, self.rows)
        tokens[row], places[row] = self.poison, place
        with pytest.raises(ValueError, match="no finite number"):
            self.batch.step(tokens, places, 0)
        if row in self.twins:
            del self.twins[row]
            self.batch.free(row)
        for start, stop in ((0, row), (row + 1, self.rows)):
            if start < stop:
                self._step(start, stop, None)

    def _step(self, start: int, stop: int, but: int | None) -> None:
        tokens, places = self._dummies(start, stop)
        stepped = []
        for row in range(start, stop):
            twin = self.twins.get(row)
            if twin is not None and row != but and twin.tokens < self.batch.capacity and self.random.random() < 0.8:
                tokens[row - start] = self.random.randrange(self.vocab)
                stepped.append(row)
        found = self.batch.step(tokens, places, start).copy()
        for row in stepped:
            expected = self.twins[row].read([int(tokens[row - start])])
            assert np.array_equal(found[row - start], expected), f"row {row} of {start} to {stop}"
            if self.model.start_id is not None:
                assert np.array_equal(self.batch.attention(row), self.twins[row].attention())

    def _dummies(self, start: int, stop: int) -> tuple[IntArray, IntArray]:
        """What rows read that get no token: something that is read over, where a text has none yet."""
        taken = [self.twins[row].tokens if row in self.twins else 0 for row in range(start, stop)]
        places = np.array([min(place, self.batch.capacity - 1) for place in taken], np.int64)
        return np.array(self._tokens(stop - start), np.int64), places

    def _tokens(self, count: int) -> list[int]:
        return [self.random.randrange(self.vocab) for _ in range(count)]


def generate(model: CachedModel, sources: Sequence[list[int]], limit: int) -> list[list[int]]:
    """Go on with texts together, greedily, always with the same number of tokens."""
    rows = model.new_rows(len(sources))
    if model.start_id is not None:
        rows.encode([Encoding(source) for source in sources], range(len(sources)))
    prompts = [source if model.start_id is None else [model.start_id] for source in sources]
    chosen = [[int(rows.read(row, prompt, 0).argmax())] for row, prompt in enumerate(prompts)]
    for step in range(limit - 1):
        tokens = np.array([text[-1] for text in chosen])
        places = np.array([len(prompt) + step for prompt in prompts])
        for text, token in zip(chosen, rows.step(tokens, places, 0).argmax(axis=-1).tolist(), strict=True):
            text.append(token)
    return chosen
