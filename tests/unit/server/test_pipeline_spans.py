"""Labelled tokens become spans of the text."""

from __future__ import annotations

import numpy as np
import pytest
from headwaiter_server.pipeline.spans import Span, entities, spans_of
from hypothesis import given
from hypothesis import strategies as st


def tagged(*labels: str) -> list[tuple[int, int, str]]:
    """The entities of tokens of one character each, parted by spaces, with these labels."""
    tokens = [Span(2 * index, 2 * index + 1, label, 0.5) for index, label in enumerate(labels)]
    return [(span.start, span.end, span.label) for span in entities(tokens)]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ("B-PER I-PER O B-LOC", [(0, 3, "PER"), (6, 7, "LOC")]),
        ("B-PER B-PER", [(0, 1, "PER"), (2, 3, "PER")]),
        ("I-PER I-PER", [(0, 3, "PER")]),
        ("I-PER I-LOC", [(0, 1, "PER"), (2, 3, "LOC")]),
        ("B-PER I-LOC I-LOC", [(0, 1, "PER"), (2, 5, "LOC")]),
        ("PER PER O PER", [(0, 3, "PER"), (6, 7, "PER")]),
        ("B-PER I-PER E-PER I-PER", [(0, 5, "PER"), (6, 7, "PER")]),
        ("S-PER S-PER", [(0, 1, "PER"), (2, 3, "PER")]),
        ("U-PER L-PER", [(0, 1, "PER"), (2, 3, "PER")]),
        ("B-X-RAY I-X-RAY", [(0, 3, "X-RAY")]),
        ("B- B-", [(0, 3, "B-")]),
        ("X-RAY X-RAY", [(0, 3, "X-RAY")]),
        ("O O", []),
        ("", []),
    ],
)
def test_neighbours_of_one_entity_are_one_span(labels: str, expected: list[tuple[int, int, str]]) -> None:
    """B- begins, I- goes on or begins, ends close, another kind begins, and O is left out."""
    assert tagged(*labels.split()) == expected


def test_score_of_a_span_is_the_mean_of_its_tokens() -> None:
    """Every token of an entity counts alike."""
    (span,) = entities([Span(0, 1, "B-A", 0.5), Span(1, 2, "I-A", 0.75), Span(2, 3, "I-A", 1.0)])
    assert span == Span(0, 3, "A", 0.75)


LABELS = ["O", "B-A", "I-A"]


def best(*indices: int) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """Scores by which these labels are the best."""
    return np.eye(len(LABELS), dtype=np.float32)[list(indices)] * np.float32(0.9)


def test_special_tokens_and_white_space_are_no_part_of_a_span() -> None:
    """A token without characters gives no span, a space that a tokenizer counts in is taken off."""
    text = "😀 né x"
    offsets = [(0, 0), (0, 1), (1, 4), (4, 5), (4, 6), (0, 0)]
    spans = spans_of(text, offsets, best(1, 0, 1, 2, 2, 1), LABELS, "none")
    assert [(text[span.start : span.end], span.label) for span in spans] == [("😀", "O"), ("né", "B-A"), ("x", "I-A")]
    (entity,) = spans_of(text, offsets, best(1, 0, 1, 2, 2, 1), LABELS, "entities")
    assert (text[entity.start : entity.end], entity.label) == ("né x", "A")
    assert entity.score == pytest.approx(0.9)


@given(st.lists(st.sampled_from(["O", "B-A", "I-A", "E-A", "S-A", "B-B", "I-B", "C"]), max_size=12))
def test_every_token_but_the_outer_ones_is_in_one_span(labels: list[str]) -> None:
    """Spans are in order, do not overlap, and cover what is labelled and nothing else."""
    spans = tagged(*labels)
    inside = [index for index, label in enumerate(labels) if label != "O"]
    covered = [index for index in range(len(labels)) for start, end, _ in spans if start <= 2 * index < end]
    assert covered == inside
    assert spans == sorted(spans)
