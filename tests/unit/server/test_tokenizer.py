"""Texts to tokens with real tokenizers, built here and read back from their JSON as a bundle's is."""

from __future__ import annotations

from typing import cast

import pytest
from headwaiter_server.errors import BundleError, InvalidRequestError
from headwaiter_server.tokenizer import TextTokenizer
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

PAD, BOS, EOS, UNK = range(4)
FIRST_LETTER = 4


def letters(*, end: bool = True) -> Tokenizer:
    """A tokenizer of single lower-case letters; what surrounds a text is stripped."""
    specials = ["<pad>", "<bos>", "<eos>", "<unk>"]
    vocabulary = {token: index for index, token in enumerate([*specials, *"abcdefgh "])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))  # noqa: S106 - no password
    tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Strip()])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(specials)
    if end:
        tokenizer.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", EOS)])
    return tokenizer


def words() -> Tokenizer:
    """A tokenizer of whole words, so that one unknown token may be any length."""
    tokenizer = Tokenizer(models.WordLevel({"<unk>": UNK, "a": FIRST_LETTER}, unk_token="<unk>"))  # noqa: S106 - no password
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


def opened(tokenizer: Tokenizer, *, max_tokens: int = 10, refused_id: int | None = UNK) -> TextTokenizer:
    return TextTokenizer.from_json(tokenizer.to_str(), max_tokens, refused_id)


def refusal(tokenizer: TextTokenizer, text: str) -> InvalidRequestError:
    with pytest.raises(InvalidRequestError) as caught:
        tokenizer.encode(text, "texts[3]")
    assert caught.value.field == "texts[3]"
    return caught.value


def test_text_becomes_ids_with_the_end_token() -> None:
    """A text is read as the training did: normalized, split, with its special tokens."""
    assert opened(letters()).encode(" BaD ", "texts[0]").ids == [FIRST_LETTER + 1, FIRST_LETTER, FIRST_LETTER + 3, EOS]


@pytest.mark.parametrize("text", ["", " ", "\n\t  "])
@pytest.mark.parametrize("end", [True, False])
def test_empty_text_is_refused(text: str, end: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """A text of which nothing is left is refused, whether or not the tokenizer adds special tokens of its own."""
    assert "is empty" in refusal(opened(letters(end=end)), text).description


def test_longest_text_is_taken_and_a_longer_one_refused_with_both_numbers() -> None:
    """The limit counts special tokens; the error tells the length and the limit."""
    tokenizer = opened(letters(), max_tokens=5)
    assert len(tokenizer.encode("abcd", "texts[0]")) == 5
    description = refusal(tokenizer, "abcde").description
    assert "6" in description
    assert "5" in description


def test_text_of_megabytes_is_refused_unread() -> None:
    """A text that cannot have few enough tokens is refused by its characters, with both numbers."""
    tokenizer = opened(letters(), max_tokens=10)
    assert "is empty" in refusal(tokenizer, " " * 1280).description
    description = refusal(tokenizer, " " * 1281).description
    assert "1281 characters, more than 1280" in description
    assert "10 tokens" in description


@pytest.mark.parametrize(
    ("text", "shown", "point", "position"),
    [
        ("abéd", "é", "U+00E9", 3),
        ("😀a", "😀", "U+1F600", 1),
        ("a\0", "\\x00", "U+0000", 2),
        ("  ab?", "?", "U+003F", 5),
    ],
)
def test_unknown_character_is_named_with_code_point_and_position(
    text: str, shown: str, point: str, position: int
) -> None:
    """The first character that the vocabulary lacks is named, as it was sent and counted from 1."""
    description = refusal(opened(letters()), text).description
    assert f"'{shown}' ({point}) at character {position}," in description


def test_first_unknown_character_is_the_one_named() -> None:
    """Of several unknown characters the first is named."""
    assert "'x'" in refusal(opened(letters()), "axbycz").description


def test_unknown_character_is_read_as_unknown_where_that_is_allowed() -> None:
    """A model that was trained with the unknown token gets it."""
    assert opened(letters(), refused_id=None).encode("a?", "texts[0]").ids == [FIRST_LETTER, UNK, EOS]


def test_long_unknown_word_does_not_fill_the_error() -> None:
    """An error stays short however long the unknown word is: it travels in headers, which are limited."""
    assert len(refusal(opened(words(), max_tokens=1000), "a " + "x" * 100_000).description) < 1000


def test_spelled_out_special_token_is_text() -> None:
    """A caller who writes "<eos>" sends five characters and cannot end, pad or start the text for the model."""
    assert "'<' (U+003C) at character 2," in refusal(opened(letters()), "a<eos>b").description
    assert opened(letters(), refused_id=None).encode("<pad>", "texts[0]").ids.count(PAD) == 0


def test_decoding_leaves_special_tokens_out() -> None:
    """Only text comes back: neither start, nor end, nor padding."""
    assert opened(letters()).decode([BOS, FIRST_LETTER, FIRST_LETTER + 1, EOS, PAD, PAD]) == "ab"
    assert opened(letters()).decode([]) == ""


def test_truncation_in_the_file_does_not_truncate_here() -> None:
    """A tokenizer that cuts texts off would answer for another text than the one that was sent."""
    tokenizer = letters()
    tokenizer.enable_truncation(max_length=3)
    assert len(opened(tokenizer).encode("abcdef", "texts[0]")) == 7
    assert "has 12 tokens" in refusal(opened(tokenizer), "a" * 11).description


def test_padding_in_the_file_does_not_pad_here() -> None:
    """A tokenizer that pads would make every text as long as the longest; empty texts stay recognised."""
    tokenizer = letters()
    tokenizer.enable_padding(pad_id=PAD, pad_token="<pad>", length=8)  # noqa: S106 - no password
    assert opened(tokenizer).encode("ab", "texts[0]").ids == [FIRST_LETTER, FIRST_LETTER + 1, EOS]
    assert "is empty" in refusal(opened(tokenizer), "").description


@pytest.mark.parametrize("text", ["", "{", "null", "{}", '{"version": "1.0", "model": {"type": "Nonsense"}}'])
def test_corrupt_file_is_a_broken_bundle(text: str) -> None:
    """What is no tokenizer is refused when the model is loaded, naming the file."""
    with pytest.raises(BundleError, match=r"tokenizer\.json"):
        TextTokenizer.from_json(text, 10, None)


class Recording:
    """A tokenizer that remembers how many characters it was given at one time."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.characters: list[int] = []

    def encode(self, text: str) -> object:
        return self._tokenizer.encode(text)

    def encode_batch_fast(self, texts: list[str]) -> object:
        self.characters.append(sum(map(len, texts)))
        return self._tokenizer.encode_batch_fast(texts)


def test_refused_call_costs_no_more_than_its_first_texts() -> None:
    """Of megabytes of texts that are too long, little is encoded before the first one is refused."""
    recording = Recording(words())
    tokenizer = TextTokenizer(cast("Tokenizer", recording), max_tokens=1000, refused_id=None)
    with pytest.raises(InvalidRequestError, match=r"texts\[0\]: has 50000 tokens"):
        tokenizer.encode_all(["a " * 50_000] * 80, "texts")
    assert recording.characters == [100_000]


def test_texts_are_encoded_in_few_pieces() -> None:
    """Many short texts are encoded together, and long ones in pieces, all in their order."""
    recording = Recording(words())
    tokenizer = TextTokenizer(cast("Tokenizer", recording), max_tokens=100_000, refused_id=None)
    texts = ["a " * length for length in (*range(1, 101), 30_000, 20_000, 40_000, 1, 2)]
    assert [len(each) for each in tokenizer.encode_all(texts, "texts")] == [len(text) // 2 for text in texts]
    assert recording.characters == [10_100, 60_000, 40_000, 80_000, 6]
