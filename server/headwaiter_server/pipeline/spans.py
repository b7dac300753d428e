"""Labelled tokens to labelled stretches of a text. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from headwaiter_server.model.contract import FloatArray

Aggregation = Literal["entities", "none"]

OUTSIDE = "O"
# How a label says where in its entity a token stands: IOB2's B- and I-, and the E- (L-) and S- (U-) of schemes that
# mark ends as well.
_BEGINS = {"B", "S", "U"}
_CONTINUES = {"I", "E", "L"}
_ENDS = {"E", "L", "S", "U"}


@dataclass(frozen=True, slots=True)
class Span:
    """A labelled stretch of a text.

    Attributes:
        start: First character, in Unicode code points.
        end: One past the last.
        label: Its label.
        score: Its score: of several tokens, the mean.
    """

    start: int
    end: int
    label: str
    score: float


@dataclass(slots=True)
class _Entity:
    """Tokens that are one entity so far."""

    start: int
    end: int
    label: str
    scores: list[float] = field(default_factory=list)
    closed: bool = False

    def span(self) -> Span:
        return Span(self.start, self.end, self.label, sum(self.scores) / len(self.scores))


def spans_of(
    text: str, offsets: Sequence[tuple[int, int]], values: FloatArray, labels: Sequence[str], how: Aggregation
) -> list[Span]:
    """The spans of one text.

    A token is labelled with its best label. Tokens that stand for no character of the text, special tokens among them,
    are left out, and so is white space at the ends of a token.

    Args:
        text: The text.
        offsets: First character of each token, and one past its last.
        values: Scores, `(tokens, labels)`.
        labels: The labels.
        how: "entities" makes neighbouring tokens of one entity one span, see `entities`; "none" leaves tokens alone.
    """
    best = values.argmax(axis=1).tolist()
    scores = values.max(axis=1).tolist()
    tokens = (
        Span(*_trimmed(text, start, end), labels[label], score)
        for (start, end), label, score in zip(offsets, best, scores, strict=True)
    )
    words = (token for token in tokens if token.start < token.end)
    return list(words if how == "none" else entities(words))


def entities(tokens: Iterable[Span]) -> Iterator[Span]:
    """Neighbouring tokens of one entity as one span, without those outside of every entity.

    A label is a kind of entity after a `B-` (or `S-`, `U-`), which begins an entity, or an `I-` (or `E-`, `L-`), which
    goes on with the one before it if that is of the same kind, and else begins one as well: models do leave out a `B-`.
    After `E-`, `L-`, `S-` and `U-` an entity is complete. A label without any of these goes on like `I-`.
    """
    entity: _Entity | None = None
    for token in tokens:
        place, kind = _parted(token.label)
        if entity is not None and (entity.closed or entity.label != kind or place in _BEGINS or token.label == OUTSIDE):
            yield entity.span()
            entity = None
        if token.label == OUTSIDE:
            continue
        if entity is None:
            entity = _Entity(token.start, token.end, kind)
        entity.end = token.end
        entity.scores.append(token.score)
        entity.closed = place in _ENDS
    if entity is not None:
        yield entity.span()


def _parted(label: str) -> tuple[str, str]:
    """Where in its entity a label says that a token stands, if it does, and the kind of entity."""
    place, dash, kind = label.partition("-")
    if dash and kind and (place in _BEGINS or place in _CONTINUES):
        return place, kind
    return "", label


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """A stretch without white space at its ends; some tokenizers count the space before a word as part of it."""
    while start < end and text[start].isspace():
        start += 1
    while start < end and text[end - 1].isspace():
        end -= 1
    return start, end
