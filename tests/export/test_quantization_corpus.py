"""Texts to choose on and texts to certify on do not meet, and a text's side never changes."""

from __future__ import annotations

from pathlib import Path

import pytest
from headwaiter_export import errors
from headwaiter_export.quantization.corpus import Corpus, corpus_of, default_corpus, halves, ordered

pytestmark = pytest.mark.torch


def test_halves_do_not_meet_and_lose_nothing() -> None:
    """Each text in exactly one half, repeated ones once."""
    texts = [f"text {number}" for number in range(500)] * 2
    one, other = halves(texts)
    assert not set(one) & set(other)
    assert sorted([*one, *other]) == sorted(set(texts))
    assert min(len(one), len(other)) > 200


def test_a_texts_half_does_not_depend_on_its_company() -> None:
    """Neither on the order nor on what else there is; pinned, so that it never changes between versions."""
    texts = [f"text {number}" for number in range(50)]
    one, other = halves(texts)
    again = halves([*texts[::-1], *(f"more {number}" for number in range(50))])
    assert set(one) <= set(again[0])
    assert set(other) <= set(again[1])
    assert halves(["apple", "pear", "plum", "fig"]) == (["pear"], ["plum", "apple", "fig"])
    assert ordered(texts) == ordered(texts[::-1])


def test_default_texts_are_many_and_of_two_domains(corpus: Corpus) -> None:
    """A few hundred of each at least; no text in two sets."""
    sets = [corpus.choosing, *corpus.certifying.values()]
    assert list(corpus.certifying) == ["held-out texts", "another domain"]
    assert min(map(len, sets)) >= 300
    assert sum(map(len, sets)) == len({text for each in sets for text in each})
    licence = sum(
        "license" in text.lower() or "copyright" in text.lower() for text in corpus.certifying["another domain"]
    )
    assert licence > 5 * sum("license" in text.lower() for text in corpus.certifying["held-out texts"])


def test_default_texts_are_the_same_every_time(corpus: Corpus) -> None:
    """In the same order, too."""
    assert default_corpus() == corpus


def test_own_texts_are_halved(tmp_path: Path) -> None:
    """A user's texts make both halves; the other domain stays."""
    file = tmp_path / "texts.txt"
    lines = [f"an order of {number} pies" for number in range(200)]
    file.write_text("\n".join([*lines, "", "  "]))
    corpus = corpus_of(file)
    assert sorted([*corpus.choosing, *corpus.certifying["held-out texts"]]) == sorted(lines)
    assert len(corpus.certifying["another domain"]) >= 300


@pytest.mark.parametrize("content", [b"one\ntwo\nthree\n", b"", b"\xff\xfe\xff", None])
def test_unusable_texts_are_refused(content: bytes | None, tmp_path: Path) -> None:
    """Too few, none, not text, no file: by name."""
    file = tmp_path / "texts.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(errors.TextsError, match=r"texts\.txt"):
        corpus_of(file)
