"""How near a variant's answers are to fp32's, whether they depend on who else is there, and how fast they come."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

import numpy as np
from headwaiter_proto.v1 import bundle_pb2
from numpy.typing import NDArray

from headwaiter_export.generation.cache import LOWEST
from headwaiter_export.generation.given import CHUNK, Given, read
from headwaiter_export.generation.runtime import FloatArray, Graphs
from headwaiter_export.quantization.judge import Quality

# Tokens of one run of an encoder: a product over more columns is added up in several parts.
RUN_TOKENS: Final = 128
# Texts that are read alone and in groups, and how many are in a group at most.
_GROUPED: Final = 24
_TOGETHER: Final = (2, 5, 16)
# Rows of the steps that are timed, and how many steps.
_TIMED_ROWS: Final = (1, 16, 64)
_TIMED_STEPS: Final = 16


def compare(expected: Sequence[FloatArray], found: Sequence[FloatArray]) -> Quality:
    """Hold a variant's logits to fp32's, `(tokens, vocab)` of each text.

    A cosine is that of the logits less their mean: what is added to all of them changes no probability. Those of tokens
    that are never generated do not count: they are so low that any two answers would be alike.
    """
    wanted, given = np.concatenate(expected), np.concatenate(found)
    counted = (wanted > LOWEST).any(0)
    wanted, given = wanted[:, counted], given[:, counted]
    cosines = (_direction(wanted) * _direction(given)).sum(-1)
    stays = wanted.argmax(-1) == given.argmax(-1)
    # numpy's min keeps a NaN.
    return Quality(float(cosines.mean()), float(cosines.min()), float(stays.mean()))


def group_differences(graphs: Graphs, texts: Sequence[Given]) -> list[bundle_pb2.ParityPoint]:
    """The same texts alone and in groups, at different places: for each group, the largest difference of any logit."""
    chosen = texts[:_GROUPED]
    alone = [read(graphs, [text])[1][0] for text in chosen]
    generator = np.random.default_rng(0)
    points = []
    for most in _TOGETHER:
        for members in _groups(chosen, most, generator):
            group = [chosen[index] for index in members]
            found = read(graphs, group)[1]
            differences = [np.abs(own - alone[index]).max() for own, index in zip(found, members, strict=True)]
            lengths = {len(text.text) for text in group}
            points.append(
                bundle_pb2.ParityPoint(
                    batch=len(group),
                    length=max(lengths),
                    padded=len(lengths) > 1,
                    steps=max(len(text.tokens) for text in group),
                    max_abs_diff=float(np.max(differences)),
                )
            )
    return points


def speedup(fp32: Graphs, variant: Graphs, texts: Sequence[Given]) -> float:
    """How many times faster than fp32 a step is, one thread each: the mean over steps of few rows and of many.

    Both take turns, so that whatever else the machine does hits both.
    """
    ratios = []
    for count in _TIMED_ROWS:
        group = [Given(each.text[:RUN_TOKENS], each.tokens) for each in (list(texts) * count)[:count]]
        rows = [graphs.begin([each.text for each in group], _TIMED_STEPS + 1, CHUNK)[0] for graphs in (fp32, variant)]
        tokens = np.array([[each.tokens[0]] for each in group])
        seconds: NDArray[np.float64] = np.zeros((2, _TIMED_STEPS))
        for turn in range(_TIMED_STEPS):
            for which, own in enumerate(rows):
                start = time.perf_counter()
                own.read(tokens, 0)
                seconds[which, turn] = time.perf_counter() - start
        slow, fast = np.median(seconds, axis=1)
        ratios.append(slow / fast)
    return float(np.exp(np.log(ratios).mean()))


def _direction(logits: FloatArray) -> NDArray[np.float64]:
    centred = logits - logits.mean(-1, keepdims=True, dtype=np.float64)
    direction: NDArray[np.float64] = centred / np.maximum(np.linalg.norm(centred, axis=-1, keepdims=True), 1e-12)
    return direction


def _groups(texts: Sequence[Given], most: int, generator: np.random.Generator) -> list[list[int]]:
    """Indices in random order, at most so many together, and no more tokens than a run of an encoder has."""
    groups: list[list[int]] = [[]]
    tokens = 0
    for index in generator.permutation(len(texts)).tolist():
        length = len(texts[index].text)
        if groups[-1] and (len(groups[-1]) == most or tokens + length > RUN_TOKENS):
            groups.append([])
            tokens = 0
        groups[-1].append(index)
        tokens += length
    return groups
