"""Offline batches of the encoder benchmark."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.encoders.batches import Rule, parse_rule

_TEXTS = st.lists(st.integers(1, 256).map(lambda length: list(range(length))), max_size=60)


def _cost(batch: list[list[int]], *, packed: bool) -> int:
    lengths = [len(text) for text in batch]
    return sum(lengths) if packed else len(lengths) * max(lengths)


@given(texts=_TEXTS, limit=st.integers(1, 512), packed=st.booleans())
def test_every_text_is_in_one_batch_and_no_batch_exceeds_its_tokens(
    texts: list[list[int]], limit: int, *, packed: bool
) -> None:
    batches = Rule(limit, by_tokens=True).batches(texts, packed=packed)
    assert sorted(len(text) for batch in batches for text in batch) == sorted(map(len, texts))
    assert all(len(batch) == 1 or _cost(batch, packed=packed) <= limit for batch in batches)


def test_batches_by_tokens_are_as_full_as_they_can_be() -> None:
    texts = [[0] * 32 for _ in range(12)]
    for packed in (True, False):
        batches = Rule(128, by_tokens=True).batches(texts, packed=packed)
        assert [len(batch) for batch in batches] == [4, 4, 4]


def test_a_padded_batch_pays_for_its_longest_text() -> None:
    texts = [[0] * 100, [0] * 10, [0] * 10]
    padded = Rule(200, by_tokens=True).batches(texts, packed=False)
    packed = Rule(200, by_tokens=True).batches(texts, packed=True)
    assert sorted(map(len, padded)) == [1, 2]
    assert list(map(len, packed)) == [3]


def test_batches_by_rows_keep_the_order_of_arrival() -> None:
    texts = [[number] for number in range(70)]
    batches = parse_rule("rows:32").batches(texts, packed=False)
    assert [len(batch) for batch in batches] == [32, 32, 6]
    assert [text for batch in batches for text in batch] == texts


@pytest.mark.parametrize("text", ["rows", "rows:0", "rows:-1", "tokens:x", "words:3"])
def test_an_unknown_rule_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected rows:N or tokens:N"):
        parse_rule(text)
