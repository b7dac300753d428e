"""Texts read together with tokens that are given, whatever a model would choose: so that models can be compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from headwaiter_export.generation.runtime import CachedRows, FloatArray, Graphs, generate

# Tokens of a text that are read at one time, as a server reads them.
CHUNK: Final = 64


@dataclass(frozen=True)
class Given:
    """One text.

    Attributes:
        text: Its tokens.
        tokens: What follows, at least one.
    """

    text: list[int]
    tokens: list[int]


def divided(texts: Sequence[Sequence[int]], most_tokens: int) -> list[Given]:
    """Texts for a model that goes on with them: a quarter is the text, the rest what follows."""
    cut = [list(text[:most_tokens]) for text in texts if len(text) > 1]
    return [Given(text[: -(-len(text) // 4)], text[-(-len(text) // 4) :]) for text in cut]


def answered(
    graphs: Graphs, texts: Sequence[Sequence[int]], ends: frozenset[int], limit: int, together: int
) -> list[Given]:
    """Texts for a model with an encoder, with what it answers, greedily."""
    found: list[Given] = []
    for start in range(0, len(texts), together):
        part = texts[start : start + together]
        tokens, _ = generate(graphs, part, limit=limit, ends=ends, chunk=CHUNK)
        found += [Given(list(text), answer) for text, answer in zip(part, tokens, strict=True)]
    return found


def read(graphs: Graphs, group: Sequence[Given]) -> tuple[CachedRows, list[FloatArray]]:
    """Read some texts together.

    Returns:
        The rows; and for each text the logits that stand where each given token follows, `(tokens, vocab)`.
    """
    steps = max(len(each.tokens) for each in group)
    rows, logits = graphs.begin([each.text for each in group], steps, CHUNK)
    seen = [logits]
    for at in range(steps - 1):
        # A text that has ended reads on, and nobody looks.
        tokens = [each.tokens[min(at, len(each.tokens) - 1)] for each in group]
        seen.append(rows.read(np.array(tokens)[:, np.newaxis], 0))
    together = np.stack(seen, 1)  # (texts, steps, vocab)
    return rows, [own[: len(each.tokens)] for each, own in zip(group, together, strict=True)]


def read_all(graphs: Graphs, texts: Sequence[Given], together: int) -> list[FloatArray]:
    """Read texts, so many at a time; their logits as `read` gives them."""
    groups = (texts[start : start + together] for start in range(0, len(texts), together))
    return [logits for group in groups for logits in read(graphs, group)[1]]
