"""How near two graphs' answers are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from headwaiter_proto.v1 import bundle_pb2
from numpy.typing import NDArray

from headwaiter_export.encoders.layout import Layout, Tokens
from headwaiter_export.runtime import Graph

Answers = NDArray[np.float32]

# Tokens of one run, as a server has them; a longer text runs alone.
RUN_TOKENS: Final = 256


@dataclass(frozen=True)
class Quality:
    """A variant beside fp32 on some texts; see `QualityPoint` of the manifest."""

    mean_cosine: float
    worst_cosine: float
    agreement: float


@dataclass(frozen=True)
class Judge:
    """Asks graphs of one model, and compares what they say.

    Attributes:
        task: What the model does.
        layout: How its graphs take texts.
    """

    task: bundle_pb2.Task
    layout: Layout

    def run(self, graph: Graph, texts: Sequence[Tokens]) -> list[list[NDArray[Any]]]:
        """Run texts together; for each output, each text's part."""
        by_token = self.task == bundle_pb2.TASK_TAG
        outputs = graph.run(self.layout.feeds(texts)).values()
        return [self.layout.split(output, texts, by_token=by_token) for output in outputs]

    def answers(self, graph: Graph, texts: Sequence[Tokens]) -> Answers:
        """What a graph says, a row for each text, or, of a tagger, for each token.

        That is the vector, or the scores; where there is one score alone, its probability and what is left to 1,
        because a single number has no direction.
        """
        found: dict[int, NDArray[Any]] = {}
        for batch in batches(texts):
            raw, scaled = self.run(graph, [texts[index] for index in batch])
            for place, index in enumerate(batch):
                row = np.atleast_1d(raw[place])
                if self.task != bundle_pb2.TASK_EMBED and row.shape[-1] == 1:
                    probability = np.atleast_1d(scaled[place])
                    row = np.concatenate([probability, 1 - probability], -1)
                found[index] = np.atleast_2d(row)
        return np.concatenate([found[index] for index in range(len(texts))])

    def compare(self, expected: Answers, found: Answers) -> Quality:
        """Hold a variant's answers to fp32's."""
        cosines = (_unit(expected) * _unit(found)).sum(1)
        stays = self._choices(expected) == self._choices(found)
        # numpy's min keeps a NaN.
        return Quality(float(cosines.mean()), float(cosines.min()), float(stays.mean()))

    def _choices(self, answers: Answers) -> NDArray[np.int64]:
        """What a caller acts on: the nearest other text, whether a text ranks above the one before, or the label."""
        if self.task == bundle_pb2.TASK_EMBED:
            return _nearest(answers)
        if self.task == bundle_pb2.TASK_RERANK:
            return np.asarray(answers[:, 0] > np.roll(answers[:, 0], 1), np.int64)
        return np.asarray(answers.argmax(1), np.int64)


def batches(texts: Sequence[Tokens], most_tokens: int = RUN_TOKENS) -> list[list[int]]:
    """Indices of texts of like length, run by run."""
    runs: list[list[int]] = []
    tokens = most_tokens + 1
    for index in sorted(range(len(texts)), key=lambda each: len(texts[each].ids)):
        length = len(texts[index].ids)
        if tokens + length > most_tokens:
            runs.append([])
            tokens = 0
        runs[-1].append(index)
        tokens += length
    return runs


def _unit(rows: Answers) -> Answers:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12), np.float32)


def _nearest(vectors: Answers) -> NDArray[np.int64]:
    """The nearest other vector of each."""
    directions = _unit(vectors)
    similarity = directions @ directions.T
    np.fill_diagonal(similarity, -np.inf)
    return np.asarray(similarity.argmax(1), np.int64)
