"""The parity gate of encoders: a graph on batches of every make-up against PyTorch on each text alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
from headwaiter_proto.v1 import bundle_pb2
from numpy.typing import NDArray

from headwaiter_export.encoders.checkpoint import Checkpoint
from headwaiter_export.encoders.layout import Layout, Tokens
from headwaiter_export.encoders.reference import expected
from headwaiter_export.errors import UnknownArchitectureError
from headwaiter_export.parity import certify, scaled_difference
from headwaiter_export.progress import Progress
from headwaiter_export.runtime import Graph

# Lengths tried, with the longest a model reads: dense where texts are, sparse where runs are slow.
_LENGTHS: Final = (1, 2, 3, 5, 8, 13, 16, 21, 34, 64, 128, 256, 512, 1024, 2048)
# Attention scores of one layer of one run; longer texts are not run, on either side.
_MOST_SCORES_BYTES: Final = 1 << 28
# Many texts of one length, and the longest of those that are run sixteen at a time.
_ONE_LENGTH: Final = 16
_MEDIUM: Final = 256


@dataclass(frozen=True)
class Composition:
    """One batch: texts by their index in the pool."""

    lengths: tuple[int, ...]
    members: tuple[int, ...]

    def __str__(self) -> str:
        if len(self.members) == 1:
            return f"a text of {self.lengths[0]} tokens alone"
        return f"a batch of {len(self.members)} texts of up to {max(self.lengths)} tokens"


class Gate:
    """PyTorch's answers to a pool of texts, and batches of them.

    The pool is run by PyTorch once; every batch, of every graph, is held to it.
    """

    def __init__(self, checkpoint: Checkpoint, pool: Sequence[Tokens]) -> None:
        """Ask PyTorch for the answers to `pool`.

        Raises:
            UnknownArchitectureError: The model does not run on token ids alone.
        """
        self.checkpoint = checkpoint
        self.pool = list(pool)
        try:
            self.expected = [expected(checkpoint, text) for text in self.pool]
        except Exception as error:  # whatever a model's code raises
            line = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UnknownArchitectureError(f"{checkpoint.folder}: the model does not run on texts: {line}") from error

    def compositions(self) -> list[Composition]:
        """Batches to try: each text alone; many short; many equal; the longest with short ones; all mixed."""
        lengths = [len(text.ids) for text in self.pool]
        by_length = sorted(range(len(self.pool)), key=lambda index: lengths[index])
        shortest, longest = by_length[:16], by_length[-1]
        medium = [index for index in by_length if lengths[index] <= _MEDIUM]
        equal = [index for index in by_length if lengths[index] == lengths[_commonest(lengths)]][:16]
        batches = [
            *([index] for index in by_length),
            [by_length[0]] * 16,
            shortest,
            shortest[::-1],
            equal,
            [longest, by_length[0]],
            [by_length[1 % len(by_length)], longest, *shortest[:14]],
            medium[2::7][:16],
            medium[::-1][:16],
            [shortest[0], *medium[:: max(1, len(medium) // 15)][:14], shortest[-1]],
        ]
        return [Composition(tuple(lengths[index] for index in batch), tuple(batch)) for batch in batches if batch]

    def certify(
        self, graph: Graph, layout: Layout, tolerance: float, progress: Progress
    ) -> list[bundle_pb2.ParityPoint]:
        """Hold a graph to PyTorch's answers, and batches to what the graph itself says of a text alone.

        Raises:
            ToleranceExceededError: Naming the batch and the difference.
            GraphRejectedError: onnxruntime does not run it.
        """
        batches = self.compositions()
        progress.stage("parity", len(batches))
        alone: dict[int, list[NDArray[Any]]] = {}
        points: list[bundle_pb2.ParityPoint] = []
        for point in certify(batches, tolerance, partial(self._measure, graph, layout, alone)):
            points.append(point)
            progress.advance()
        return _merged(points)

    def _measure(
        self, graph: Graph, layout: Layout, alone: dict[int, list[NDArray[Any]]], batch: Composition
    ) -> bundle_pb2.ParityPoint:
        texts = [self.pool[index] for index in batch.members]
        by_token = self.checkpoint.answer.task == bundle_pb2.TASK_TAG
        found = [layout.split(value, texts, by_token=by_token) for value in graph.run(layout.feeds(texts)).values()]
        differences = [0.0]
        for place, index in enumerate(batch.members):
            own = [output[place] for output in found]
            # Batches of one come first, so that what a text gets alone is known when it comes with others.
            for one, two, against in zip(own, self.expected[index], alone.setdefault(index, own), strict=True):
                differences += [scaled_difference(one, two), scaled_difference(one, against)]
        return bundle_pb2.ParityPoint(
            batch=len(texts),
            length=max(batch.lengths),
            padded=len(set(batch.lengths)) > 1,
            # numpy's max keeps a NaN, Python's may lose it.
            max_abs_diff=float(np.max(differences)),
        )


def pool_of(checkpoint: Checkpoint) -> tuple[list[Tokens], list[str]]:
    """Random texts of the lengths to try, and a remark if the longest cannot be tried.

    Token types, where there are any, change halfway, as in a pair of texts.
    """
    config = checkpoint.reference.config
    scores = _MOST_SCORES_BYTES // np.dtype(np.float32).itemsize
    affordable = int((scores / int(getattr(config, "num_attention_heads", 1))) ** 0.5)
    longest = min(checkpoint.max_tokens, affordable)
    remarks = []
    if longest < checkpoint.max_tokens:
        remarks.append(f"texts of more than {longest} tokens were not compared with PyTorch: they take too much memory")
    lengths = sorted({length for length in _LENGTHS if length < longest} | {longest})
    equal = min(_ONE_LENGTH, longest)
    generator = np.random.default_rng(0)
    ids = np.array(sorted(set(range(config.vocab_size)) - checkpoint.special_ids) or range(config.vocab_size))
    kinds = int(getattr(config, "type_vocab_size", 1) or 1)
    pool = []
    for length in [*lengths, *[equal] * 15]:
        types = np.arange(length) * min(kinds, 2) // length
        pool.append(Tokens(generator.choice(ids, length).tolist(), types.tolist()))
    return pool, remarks


def _commonest(lengths: list[int]) -> int:
    return max(range(len(lengths)), key=lambda index: lengths.count(lengths[index]))


def _merged(points: list[bundle_pb2.ParityPoint]) -> list[bundle_pb2.ParityPoint]:
    """One point for each shape: the worst of it."""
    worst: dict[tuple[int, int, bool], bundle_pb2.ParityPoint] = {}
    for point in points:
        shape = (point.batch, point.length, point.padded)
        if shape not in worst or point.max_abs_diff > worst[shape].max_abs_diff:
            worst[shape] = point
    return list(worst.values())
