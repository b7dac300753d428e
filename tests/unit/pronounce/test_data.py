"""The dictionary as data, and the split that no test word may cross."""

from __future__ import annotations

import hashlib
from collections import Counter

import pytest

from examples.pronounce.data import (
    Entry,
    Split,
    alphabet,
    entries_of,
    parse_entries,
    split_key,
    split_of,
)

pytestmark = pytest.mark.torch

_LINES = [
    "aalborg AO1 L B AO0 R G # place, danish",
    "a AH0",
    "a(2) EY1",
    "a(3) AH0",
    "A's EY1 Z",
]


def test_variants_are_grouped_and_remarks_dropped() -> None:
    """A word's variants become one entry in the listed order, each pronunciation once."""
    assert parse_entries(_LINES) == [
        Entry("a", (("AH0",), ("EY1",))),
        Entry("a's", (("EY1", "Z"),)),
        Entry("aalborg", (("AO1", "L", "B", "AO0", "R", "G"),)),
    ]


def test_alphabet_is_what_occurs() -> None:
    """Letters and phonemes are those of the entries given, sorted."""
    assert alphabet(parse_entries(_LINES[1:])) == (["'", "a", "s"], ["AH0", "EY1", "Z"])


@pytest.mark.parametrize(
    ("word", "key"),
    [
        ("cat", "cat"),
        ("Cat's", "cat"),
        ("cats'", "cats"),
        ("co-op", "coop"),
        ("a.b.'s", "ab"),
        ("'s", "s"),
        ("'", "'"),
        ("3", "3"),
    ],
)
def test_forms_of_a_word_share_a_key(word: str, key: str) -> None:
    """Possessive endings, hyphens and full stops do not make another word."""
    assert split_key(word) == key


def test_split_follows_the_written_rule(entries: list[Entry]) -> None:
    """The split recomputed here from the rule in words is the split the code makes."""
    for entry in entries:
        stem = entry.word
        for ending in ("'s", "'"):
            if stem.endswith(ending) and len(stem) > len(ending):
                stem = stem[: -len(ending)]
                break
        key = "".join(each for each in stem if "a" <= each <= "z") or stem
        number = int(hashlib.sha256(key.encode()).hexdigest()[:16], 16) % 100
        expected = Split.TEST if number < 5 else Split.VALIDATION if number < 10 else Split.TRAIN
        assert split_of(entry.word) is expected, entry.word


def test_no_test_word_in_training_in_any_form(entries: list[Entry]) -> None:
    """No word to be tested or validated is learned, not with another ending, hyphen, case or variant."""

    def forms(split: Split) -> set[str]:
        words = {entry.word.lower() for entry in entries_of(entries, split)}
        stems = {word.removesuffix("'s").removesuffix("'") or word for word in words}
        return words | stems | {"".join(filter(str.isalpha, each)) or each for each in stems}

    train, validation, test = forms(Split.TRAIN), forms(Split.VALIDATION), forms(Split.TEST)
    # Letters such as "b" and "b." are one word by the rule, and this check agrees with it.
    assert not train & test
    assert not train & validation
    assert not validation & test


def test_every_word_is_in_one_split_of_about_its_size(entries: list[Entry]) -> None:
    """The splits cover the dictionary and are close to 90, 5 and 5 percent of it."""
    counts = Counter(split_of(entry.word) for entry in entries)
    assert counts.total() == len(entries)
    assert counts[Split.TRAIN] / len(entries) == pytest.approx(0.90, abs=0.01)
    assert counts[Split.VALIDATION] / len(entries) == pytest.approx(0.05, abs=0.01)
    assert counts[Split.TEST] / len(entries) == pytest.approx(0.05, abs=0.01)
