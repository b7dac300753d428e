"""Texts laid end to end, as packed graphs take them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from headwaiter_server.encoding import Encoding
from headwaiter_server.model.contract import IntArray


@dataclass(frozen=True, slots=True)
class Packing:
    """The tokens of some texts, end to end.

    Attributes:
        input_ids: Token ids, `(tokens,)`.
        position_ids: Place of each token in its text, from 0, `(tokens,)`.
        segment: Which text each token belongs to, `(tokens,)`.
        starts: Index of each text's first token, `(texts,)`.
        stops: Index behind each text's last token, `(texts,)`.
    """

    input_ids: IntArray
    position_ids: IntArray
    segment: IntArray
    starts: IntArray
    stops: IntArray


def pack(sources: Sequence[Encoding]) -> Packing:
    """Lay texts end to end.

    Args:
        sources: The texts, at least one.
    """
    lengths = np.array([len(source.ids) for source in sources], np.int64)
    stops = lengths.cumsum()
    starts, total = stops - lengths, int(stops[-1])
    return Packing(
        input_ids=np.fromiter(itertools.chain.from_iterable([source.ids for source in sources]), np.int64, total),
        position_ids=np.arange(total, dtype=np.int64) - np.repeat(starts, lengths),
        segment=np.repeat(np.arange(len(sources), dtype=np.int64), lengths),
        starts=starts,
        stops=stops,
    )


def packs(sources: Sequence[Encoding], most_tokens: int) -> Iterator[slice]:
    """Neighbouring texts that are laid end to end: as many as fit, at least one.

    Args:
        sources: The texts, at least one.
        most_tokens: Of a pack; a text of more is alone in its own.
    """
    start = tokens = 0
    for index, source in enumerate(sources):
        if index > start and tokens + len(source) > most_tokens:
            yield slice(start, index)
            start, tokens = index, 0
        tokens += len(source)
    yield slice(start, len(sources))
