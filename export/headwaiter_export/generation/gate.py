"""PyTorch's greedy tokens and logits, and the graphs held to them, with texts together at different places."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from headwaiter_proto.v1 import bundle_pb2
from numpy.typing import NDArray

from headwaiter_export.errors import TokensDifferError
from headwaiter_export.generation.cache import LOWEST
from headwaiter_export.generation.runtime import Graphs, generate
from headwaiter_export.parity import certify, scaled_difference
from headwaiter_export.progress import Progress
from headwaiter_export.texts import Texts

# Texts that are decoded together, tokens of a text that are read at one time: so that rows stand at different places,
# and most texts are read in several pieces.
_TOGETHER: Final = (1, 2, 7, 16)
_CHUNKS: Final = (5, 64, 3, 16)


@dataclass(frozen=True)
class Continuation:
    """What PyTorch made of a text.

    Attributes:
        tokens: The new ones, with the one that ends the text.
        logits: That they were chosen from, `(new tokens, vocab)`.
    """

    tokens: list[int]
    logits: NDArray[np.float32]

    def clear(self, tolerance: float) -> bool:
        """Whether at each token the likeliest was ahead of the next by more than the tolerance."""
        return all(_lead(logits) > tolerance for logits in self.logits)


@dataclass(frozen=True)
class Group:
    """Texts that are decoded together.

    Attributes:
        first: Index of the first of them.
        texts: Their tokens.
        chunk: Tokens of a text that are read at one time.
    """

    first: int
    texts: list[list[int]]
    chunk: int

    def __str__(self) -> str:
        return f"texts {self.first} to {self.first + len(self.texts) - 1}, read {self.chunk} tokens at a time"


def groups(texts: Sequence[Sequence[int]]) -> list[Group]:
    """Texts in groups of different sizes, read in pieces of different lengths."""
    found: list[Group] = []
    first = 0
    while first < len(texts):
        size, chunk = (each[len(found) % len(each)] for each in (_TOGETHER, _CHUNKS))
        found.append(Group(first, [list(text) for text in texts[first : first + size]], chunk))
        first += size
    return found


class Gate:
    """What PyTorch makes of some texts. The graphs are held to it, group after group.

    Attributes:
        texts: The texts.
        wanted: What PyTorch makes of each.
        limit: Most new tokens of each.
        ends: Tokens that end a text.
        ties: Indices of texts at one of whose tokens PyTorch had no clear choice; known after `certify`.
    """

    def __init__(self, texts: Texts, wanted: Sequence[Continuation], limit: int, ends: frozenset[int]) -> None:
        """Take texts and answers."""
        self.texts, self.wanted, self.limit, self.ends = texts, list(wanted), limit, ends
        self.ties: list[int] = []

    def certify(self, graphs: Graphs, tolerance: float, progress: Progress) -> bundle_pb2.ParityCertificate:
        """Hold tokens and logits of every text to PyTorch's.

        Raises:
            TokensDifferError: A token differs, or too few texts could be compared.
            ToleranceExceededError: The logits differ by more than the tolerance.
        """
        self.ties = []

        def measure(group: Group) -> bundle_pb2.ParityPoint:
            point = self._compare(graphs, group, tolerance)
            progress.advance(len(group.texts))
            return point

        points = list(certify(groups(self.texts.rows), tolerance, measure))
        same = len(self.wanted) - len(self.ties)
        if same < len(self.ties):
            raise TokensDifferError(
                f"in {len(self.ties)} of {len(self.wanted)} texts the two likeliest tokens are too near to each other"
                " to say that the graphs choose as PyTorch does"
            )
        return bundle_pb2.ParityCertificate(
            tolerance=tolerance, points=points, texts_compared=same, texts_identical=same
        )

    def remarks(self) -> list[str]:
        """What there is to say about texts that could not be compared to the end."""
        near = len(self.ties)
        return [f"in {near} texts the two likeliest tokens were too near to each other to compare further"] * bool(near)

    def _compare(self, graphs: Graphs, group: Group, tolerance: float) -> bundle_pb2.ParityPoint:
        tokens, logits = generate(graphs, group.texts, limit=self.limit, ends=self.ends, chunk=group.chunk)
        worst = 0.0
        for at, found in enumerate(zip(tokens, logits, strict=True), group.first):
            try:
                difference, tied = held(found, self.wanted[at], tolerance)
            except ValueError as error:
                raise TokensDifferError(f"greedy decoding of {self.texts.names[at]}: {error}") from error
            worst = float(np.maximum(worst, difference))
            if tied:
                self.ties.append(at)
        lengths = {len(text) for text in group.texts}
        return bundle_pb2.ParityPoint(
            batch=len(group.texts),
            length=max(lengths),
            padded=len(lengths) > 1,
            steps=max(map(len, tokens)),
            max_abs_diff=worst,
        )


def held(found: tuple[list[int], NDArray[np.float32]], wanted: Continuation, tolerance: float) -> tuple[float, bool]:
    """Hold one text's tokens and logits to PyTorch's.

    Where PyTorch's two likeliest tokens are nearer to each other than the tolerance, either is right, and the text is
    compared no further.

    Returns:
        The largest difference of the logits; and whether there was a tie at which the tokens parted.

    Raises:
        ValueError: The tokens differ.
    """
    tokens, logits = found
    same = _agreeing(tokens, wanted.tokens)
    steps = min(same + 1, len(logits), len(wanted.logits))
    difference = _difference(logits[:steps], wanted.logits[:steps])
    if tokens == wanted.tokens:
        return difference, False
    if same < len(wanted.tokens) and _lead(wanted.logits[same]) <= tolerance:
        return difference, True
    raise ValueError(f"the tokens differ, {tokens} on onnxruntime, {wanted.tokens} on PyTorch")


def _difference(found: NDArray[np.float32], wanted: NDArray[np.float32]) -> float:
    """The largest difference of logits, those apart that stand for tokens that are never generated.

    They are so low that no difference counted beside them. NaN where there is something else that is no number.
    """
    never = wanted <= LOWEST
    if not (found[never] <= LOWEST).all():  # a NaN is not
        return math.inf
    one, other = (np.where(never, 0.0, logits) for logits in (found, wanted))
    return scaled_difference(one, other) if np.isfinite(one).all() and np.isfinite(other).all() else math.nan


def _agreeing(found: Sequence[int], wanted: Sequence[int]) -> int:
    """How many tokens are the same before the first that differs."""
    pairs = zip(found, wanted, strict=False)
    return next((at for at, (one, other) in enumerate(pairs) if one != other), min(len(found), len(wanted)))


def _lead(logits: NDArray[np.float32]) -> float:
    """By how much the likeliest token is ahead of the next."""
    second, first = np.partition(logits, -2)[-2:]
    return float(first - second)
