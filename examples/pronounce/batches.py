"""Words as ids, and batches of words of like length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from examples.pronounce.tokenizer import BOS_ID, EOS_ID, PAD_ID

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tokenizers import Tokenizer

    from examples.pronounce.data import Entry


@dataclass(frozen=True)
class Example:
    """One word as ids.

    Attributes:
        source: Letters and `</s>`.
        targets: Each listed pronunciation, `<s>`, phonemes, `</s>`.
    """

    source: list[int]
    targets: list[list[int]]


@dataclass(frozen=True)
class Batch:
    """Padded ids.

    Attributes:
        source_ids: `(batch, source)`.
        source_lengths: `(batch,)`.
        target_ids: `(batch, target + 1)`: columns `[:-1]` are the decoder's input, `[1:]` its labels.
        target_lengths: `(batch,)`, of the decoder's input.
    """

    source_ids: Tensor
    source_lengths: Tensor
    target_ids: Tensor
    target_lengths: Tensor


def encode_entries(entries: Sequence[Entry], tokenizer: Tokenizer) -> list[Example]:
    """Encode words and pronunciations.

    Raises:
        KeyError: A phoneme is not in the tokenizer's vocabulary.
    """
    vocabulary = tokenizer.get_vocab()
    return [
        Example(
            tokenizer.encode(entry.word).ids,
            [[BOS_ID, *(vocabulary[each] for each in phonemes), EOS_ID] for phonemes in entry.pronunciations],
        )
        for entry in entries
    ]


def epoch_batches(examples: Sequence[Example], batch_words: int, seed: int, epoch: int) -> Iterator[Batch]:
    """One epoch: every word once, with one of its pronunciations drawn evenly.

    Words are shuffled and then sorted by length, so that a batch is random words of like lengths and hardly
    any padding; then the batches are shuffled. Everything follows from the seed and the epoch's number, so
    that a resumed training sees the batches it would have seen.

    Args:
        examples: The words.
        batch_words: Words a batch; the last one of an epoch may have fewer.
        seed: The training's seed.
        epoch: The epoch's number.

    Yields:
        `batch_count(len(examples), batch_words)` batches.
    """
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    draws = torch.rand(len(examples), generator=generator).tolist()
    pairs = [(each.source, each.targets[int(u * len(each.targets))]) for each, u in zip(examples, draws, strict=True)]
    order = torch.randperm(len(pairs), generator=generator).tolist()
    order.sort(key=lambda index: (len(pairs[index][0]), len(pairs[index][1])))
    starts = torch.randperm(batch_count(len(pairs), batch_words), generator=generator)
    for start in (starts * batch_words).tolist():
        yield collate([pairs[index] for index in order[start : start + batch_words]])


def batch_count(words: int, batch_words: int) -> int:
    """Batches of an epoch."""
    return -(-words // batch_words)


def collate(pairs: Sequence[tuple[list[int], list[int]]]) -> Batch:
    """Pad (source, target) pairs to one batch."""
    source_ids, source_lengths = pad([source for source, _ in pairs])
    target_ids, target_lengths = pad([target for _, target in pairs])
    return Batch(source_ids, source_lengths, target_ids, target_lengths - 1)


def pad(rows: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
    """Pad rows on the right.

    Returns:
        Ids `(batch, longest)` and lengths `(batch,)`.
    """
    longest = max(len(row) for row in rows)
    ids = torch.tensor([row + [PAD_ID] * (longest - len(row)) for row in rows])
    return ids, torch.tensor([len(row) for row in rows])
