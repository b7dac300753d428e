"""Word and phoneme error rates of greedy pronunciations."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from headwaiter_export.transformer import Transformer, greedy_decode

from examples.pronounce.batches import Example, pad

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tokenizers import Tokenizer

    from examples.pronounce.data import Entry

_STRESS = re.compile(r"[012]$")
# Sorted by length first, so a batch decodes hardly any padding; bounded, so memory does not follow the split.
_DECODE_WORDS = 256


@dataclass(frozen=True)
class ErrorRates:
    """Error rates against the listed pronunciation nearest to each answer.

    Attributes:
        words: Words scored.
        wer: Part of the words whose answer is none of the listed pronunciations.
        per: Edits to the nearest listed pronunciation, over that pronunciation's phonemes, all words summed.
        wer_no_stress: As `wer`, ignoring the stress digits.
        per_no_stress: As `per`, ignoring the stress digits.
    """

    words: int
    wer: float
    per: float
    wer_no_stress: float
    per_no_stress: float


def pronounce(model: Transformer, tokenizer: Tokenizer, examples: Sequence[Example]) -> list[list[str]]:
    """Greedy pronunciations, in the order of the examples."""
    answers: list[list[str]] = [[] for _ in examples]
    order = sorted(range(len(examples)), key=lambda index: len(examples[index].source))
    for start in range(0, len(order), _DECODE_WORDS):
        indices = order[start : start + _DECODE_WORDS]
        ids, lengths = pad([examples[index].source for index in indices])
        # An English word has about as many phonemes as letters; twice as many means the model is lost.
        limit = min(model.config.max_target_length, 2 * ids.size(1) + 4)
        for index, row in zip(indices, greedy_decode(model, ids, lengths, limit).tolist(), strict=True):
            answers[index] = tokenizer.decode(row).split()
    return answers


def error_rates(entries: Iterable[Entry], answers: Iterable[Sequence[str]]) -> ErrorRates:
    """Score answers, each against the best of its entry's listed pronunciations."""
    pairs = list(zip(entries, answers, strict=True))
    scored = [_nearest(answer, entry.pronunciations) for entry, answer in pairs]
    plain = [
        _nearest(without_stress(answer), [without_stress(each) for each in entry.pronunciations])
        for entry, answer in pairs
    ]
    return ErrorRates(len(pairs), *_rates(scored), *_rates(plain))


def without_stress(phonemes: Iterable[str]) -> tuple[str, ...]:
    """Drop the stress digit of every vowel."""
    return tuple(_STRESS.sub("", phoneme) for phoneme in phonemes)


def edit_distance(left: Sequence[str], right: Sequence[str]) -> int:
    """Levenshtein distance: insertions, deletions and substitutions, each costing 1."""
    previous = list(range(len(right) + 1))
    for row, a in enumerate(left, start=1):
        current = [row]
        for column, b in enumerate(right, start=1):
            current.append(min(previous[column] + 1, current[-1] + 1, previous[column - 1] + (a != b)))
        previous = current
    return previous[-1]


def _nearest(answer: Sequence[str], listed: Iterable[Sequence[str]]) -> tuple[int, int]:
    """(edits, phonemes) of the listed pronunciation nearest to the answer."""
    return min((edit_distance(answer, each), len(each)) for each in listed)


def _rates(scored: Sequence[tuple[int, int]]) -> tuple[float, float]:
    wrong = sum(edits > 0 for edits, _ in scored)
    return wrong / len(scored), sum(edits for edits, _ in scored) / sum(phonemes for _, phonemes in scored)
