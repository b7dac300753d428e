"""What a variant loses against fp32, measured on texts that had no part in making it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from headwaiter_proto.v1 import bundle_pb2
from numpy.typing import NDArray

from headwaiter_export.encoders.layout import Tokens
from headwaiter_export.progress import Progress
from headwaiter_export.quantization.judge import RUN_TOKENS, Judge, Quality
from headwaiter_export.runtime import Graph

# Texts that are run alone and in batches of every make-up, of each set.
_BATCHED_TEXTS: Final = 48
_BATCH_TOKENS: Final = (RUN_TOKENS // 4, RUN_TOKENS // 2, RUN_TOKENS, RUN_TOKENS)
_TIMED_TOKENS: Final = 128
_TIMED_RUNS: Final = 12
_TIMED_ROUNDS: Final = 7


def quality_points(
    judge: Judge, fp32: Graph, variant: Graph, sets: Mapping[str, Sequence[Tokens]], progress: Progress
) -> tuple[list[bundle_pb2.QualityPoint], list[bundle_pb2.ParityPoint]]:
    """Hold a variant to fp32, and to itself.

    Returns:
        For each set its quality, and for each shape of a batch the largest difference that batch-mates made.
    """
    points, shapes = [], []
    progress.stage("int8: certify", len(sets))
    for name, texts in sets.items():
        quality = judge.compare(judge.answers(fp32, texts), judge.answers(variant, texts))
        compared = batch_differences(judge, variant, texts)
        shapes += compared
        points.append(quality_point(name, len(texts), quality, compared))
        progress.advance()
    return points, _worst(shapes)


def quality_point(
    name: str, count: int, quality: Quality, compared: Sequence[bundle_pb2.ParityPoint]
) -> bundle_pb2.QualityPoint:
    """What a certificate says of one set of texts: how near to fp32, and what others made of a text."""
    return bundle_pb2.QualityPoint(
        texts=name,
        count=count,
        mean_cosine=quality.mean_cosine,
        worst_cosine=quality.worst_cosine,
        agreement=quality.agreement,
        # numpy's max keeps a NaN.
        max_batch_diff=float(np.max([point.max_abs_diff for point in compared])),
    )


def batch_differences(judge: Judge, graph: Graph, texts: Sequence[Tokens]) -> list[bundle_pb2.ParityPoint]:
    """The same texts alone and in random batches: for each batch, the largest difference of any number."""
    generator = np.random.default_rng(0)
    chosen = [texts[index] for index in generator.permutation(len(texts))[:_BATCHED_TEXTS]]
    alone = [[output[0] for output in judge.run(graph, [text])] for text in chosen]
    points = []
    for most_tokens in _BATCH_TOKENS:
        for members in _random_batches(chosen, most_tokens, generator):
            together = judge.run(graph, [chosen[index] for index in members])
            differences: list[NDArray[Any]] = [
                np.abs(output[place] - own).max()
                for place, index in enumerate(members)
                for output, own in zip(together, alone[index], strict=True)
            ]
            lengths = [len(chosen[index].ids) for index in members]
            points.append(
                bundle_pb2.ParityPoint(
                    batch=len(members),
                    length=max(lengths),
                    padded=len(set(lengths)) > 1,
                    max_abs_diff=float(np.max(differences)),
                )
            )
    return points


def speedup(judge: Judge, fp32: Graph, variant: Graph, texts: Sequence[Tokens]) -> float:
    """How many times faster than fp32, one thread each, on runs as a server has them.

    Both take turns, so that whatever else the machine does hits both; each run counts with its median.
    """
    members = _random_batches(texts, _TIMED_TOKENS, np.random.default_rng(0))[:_TIMED_RUNS]
    runs = [judge.layout.feeds([texts[index] for index in each]) for each in members]
    seconds = np.zeros((2, _TIMED_ROUNDS, len(runs)))
    for turn in range(-1, _TIMED_ROUNDS):  # the first warms up
        for at, feeds in enumerate(runs):
            for which, graph in enumerate((fp32, variant)):
                start = time.perf_counter()
                graph.run(feeds)
                if turn >= 0:
                    seconds[which, turn, at] = time.perf_counter() - start
    slow, fast = np.median(seconds, axis=1).sum(1)
    return float(slow / fast)


def _random_batches(texts: Sequence[Tokens], most_tokens: int, generator: np.random.Generator) -> list[list[int]]:
    """Indices in random order, cut into runs of at most `most_tokens`, or one longer text."""
    runs: list[list[int]] = []
    tokens = most_tokens + 1
    for index in generator.permutation(len(texts)).tolist():
        length = len(texts[index].ids)
        if tokens + length > most_tokens:
            runs.append([])
            tokens = 0
        runs[-1].append(index)
        tokens += length
    return runs


def _worst(points: list[bundle_pb2.ParityPoint]) -> list[bundle_pb2.ParityPoint]:
    """One point for each shape."""
    worst: dict[tuple[int, int, bool], bundle_pb2.ParityPoint] = {}
    for point in points:
        shape = (point.batch, point.length, point.padded)
        if shape not in worst or not point.max_abs_diff <= worst[shape].max_abs_diff:
            worst[shape] = point
    return list(worst.values())
