"""Characters in, phonemes out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tokenizers import Tokenizer

from examples.pronounce.tokenizer import BOS_ID, EOS_ID, PAD_ID, SPECIAL_TOKENS, UNKNOWN_ID, build_tokenizer

if TYPE_CHECKING:
    from examples.pronounce.data import Entry

pytestmark = pytest.mark.torch


def test_special_tokens_come_first(tokenizer: Tokenizer) -> None:
    """The ids 0 to 3 are padding, begin, end and unknown, as the model's configuration says."""
    ids = [tokenizer.token_to_id(token) for token in SPECIAL_TOKENS]
    assert ids == [PAD_ID, BOS_ID, EOS_ID, UNKNOWN_ID] == [0, 1, 2, 3]


def test_every_word_encodes_to_its_characters(tokenizer: Tokenizer, entries: list[Entry]) -> None:
    """Each dictionary word gives one known id per character and the end token."""
    for entry in entries[::17]:
        assert tokenizer.encode(entry.word).tokens == [*entry.word, "</s>"]


def test_every_pronunciation_survives(tokenizer: Tokenizer, entries: list[Entry]) -> None:
    """Phonemes to ids and back, special tokens skipped, is the dictionary's line."""
    vocabulary = tokenizer.get_vocab()
    for entry in entries[::17]:
        phonemes = entry.pronunciations[0]
        ids = [BOS_ID, *(vocabulary[each] for each in phonemes), EOS_ID, PAD_ID, PAD_ID]
        assert tokenizer.decode(ids) == " ".join(phonemes)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("CAT", ["c", "a", "t", "</s>"]),
        ("Café", ["c", "a", "f", "e", "</s>"]),
        ("\uff23at ", ["c", "a", "t", "</s>"]),
        ("a b", ["a", "<unk>", "b", "</s>"]),
        ("a\nb", ["a", "<unk>", "b", "</s>"]),
        ("c4t", ["c", "<unk>", "t", "</s>"]),
        ("AH0", ["a", "h", "<unk>", "</s>"]),
        ("", ["</s>"]),
    ],
)
def test_any_text_is_read_as_letters(tokenizer: Tokenizer, text: str, tokens: list[str]) -> None:
    """Case, accents and width are folded, unknown characters are one unknown each, phonemes never come in."""
    assert tokenizer.encode(text).tokens == tokens


def test_json_round_trip(tokenizer: Tokenizer) -> None:
    """The tokenizer read back from its file behaves the same."""
    again = Tokenizer.from_str(tokenizer.to_str(pretty=True))
    assert again.encode("About").ids == tokenizer.encode("About").ids
    assert again.get_vocab() == tokenizer.get_vocab()


def test_colliding_symbols_are_refused() -> None:
    """A letter that is also a phoneme would make an id mean two things."""
    with pytest.raises(ValueError, match="collide"):
        build_tokenizer(["a", "b"], ["b"])
