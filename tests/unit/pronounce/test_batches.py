"""An epoch: every word once, like lengths together, the same for the same seed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from examples.pronounce.batches import Example, batch_count, collate, encode_entries, epoch_batches
from examples.pronounce.data import Entry
from examples.pronounce.tokenizer import BOS_ID, EOS_ID, PAD_ID

if TYPE_CHECKING:
    from tokenizers import Tokenizer

pytestmark = pytest.mark.torch

_BATCH_WORDS = 64


@pytest.fixture(scope="module")
def examples(entries: list[Entry], tokenizer: Tokenizer) -> list[Example]:
    return encode_entries(entries[::40], tokenizer)


def test_encoding_frames_both_sides(tokenizer: Tokenizer) -> None:
    """A source ends with the end token, a target is framed by begin and end."""
    [example] = encode_entries([Entry("go", (("G", "OW1"), ("G", "UW1")))], tokenizer)
    assert tokenizer.decode(example.source, skip_special_tokens=False) == "g o </s>"
    assert [(each[0], each[-1]) for each in example.targets] == [(BOS_ID, EOS_ID)] * 2
    assert [tokenizer.decode(each) for each in example.targets] == ["G OW1", "G UW1"]


def test_an_epoch_has_every_word_once(examples: list[Example]) -> None:
    """Each word comes once an epoch, with one of its own pronunciations."""
    seen = []
    for batch in epoch_batches(examples, _BATCH_WORDS, seed=1, epoch=0):
        rows = zip(
            batch.source_ids.tolist(),
            batch.source_lengths.tolist(),
            batch.target_ids.tolist(),
            batch.target_lengths.tolist(),
            strict=True,
        )
        # target_lengths counts the decoder's input, which is one shorter than the framed target.
        seen += [(source[:length], target[: end + 1]) for source, length, target, end in rows]
    assert sorted(source for source, _ in seen) == sorted(each.source for each in examples)
    listed = {(tuple(each.source), tuple(target)) for each in examples for target in each.targets}
    assert {(tuple(source), tuple(target)) for source, target in seen} <= listed


def test_batches_are_of_like_lengths(examples: list[Example]) -> None:
    """Fewer than one source token in fifty is padding; in shuffled batches it would be half of them."""
    batches = list(epoch_batches(examples, _BATCH_WORDS, seed=1, epoch=0))
    assert len(batches) == batch_count(len(examples), _BATCH_WORDS)
    assert max(len(batch.source_ids) for batch in batches) == _BATCH_WORDS
    real = sum(int(batch.source_lengths.sum()) for batch in batches)
    assert real / sum(batch.source_ids.numel() for batch in batches) > 0.98


def test_lengths_are_not_in_order(examples: list[Example]) -> None:
    """Batches come shuffled: training must not see all short words first."""
    lengths = [batch.source_ids.size(1) for batch in epoch_batches(examples, _BATCH_WORDS, seed=1, epoch=0)]
    assert lengths != sorted(lengths)


def test_the_seed_and_the_epoch_decide(examples: list[Example]) -> None:
    """The same seed and epoch give the same batches; another epoch or seed gives others."""

    def first(seed: int, epoch: int) -> torch.Tensor:
        return next(epoch_batches(examples, _BATCH_WORDS, seed, epoch)).source_ids

    assert torch.equal(first(1, 3), first(1, 3))
    assert not torch.equal(first(1, 3), first(1, 4))
    assert not torch.equal(first(1, 3), first(2, 3))


def test_every_pronunciation_is_drawn_in_time(tokenizer: Tokenizer) -> None:
    """Over some epochs each listed pronunciation of a word is learned from."""
    examples = encode_entries([Entry("a", (("AH0",), ("EY1",), ("AA1",)))], tokenizer)
    drawn = {
        tuple(batch.target_ids[0].tolist()) for epoch in range(30) for batch in epoch_batches(examples, 1, 1, epoch)
    }
    assert drawn == {tuple(target) for target in examples[0].targets}


def test_collate_pads_on_the_right() -> None:
    """Short rows are filled up at the end, and the lengths say how far each is real."""
    batch = collate([([5, 2], [1, 9, 2]), ([5, 6, 2], [1, 2])])
    assert batch.source_ids.tolist() == [[5, 2, PAD_ID], [5, 6, 2]]
    assert batch.source_lengths.tolist() == [2, 3]
    assert batch.target_ids.tolist() == [[1, 9, 2], [1, 2, PAD_ID]]
    assert batch.target_lengths.tolist() == [2, 1]
