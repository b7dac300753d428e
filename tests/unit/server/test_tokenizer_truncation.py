"""Cutting what is too long, pairs, many at once: always what the tokenizers library itself would give."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from headwaiter_server.encoding import Encoding
from headwaiter_server.errors import InvalidRequestError
from headwaiter_server.tokenizer import TextTokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

CORPUS = [
    "the quick brown fox jumps over the lazy dog while seven wizards brew",
    "a tokenizer cuts words into pieces, and pieces into letters; naïve façade",
    "reading, writing and arithmetic are taught to the tune of a hickory stick",
] * 3
LIMIT = 12


def bert() -> Tokenizer:
    """Word pieces with [CLS] and [SEP], and token types, as BERT has them."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))  # noqa: S106 - no password
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=120, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return tokenizer


def roberta() -> Tokenizer:
    """Byte pairs with <s> and </s>, of which a pair has two in its middle, as RoBERTa has them."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 1), ("<s>", 0))
    return tokenizer


def templated() -> Tokenizer:
    """Words of one letter with one special token in front, two between, and token types from 1 on."""
    tokenizer = Tokenizer(
        models.WordLevel({"<x>": 0, "<y>": 1, "?": 2, **{c: 3 + i for i, c in enumerate("abcdef")}}, "?")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(["<x>", "<y>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<x>:1 $A:1", pair="<x>:1 $A:1 <y>:2 <x>:2 $B:2", special_tokens=[("<x>", 0), ("<y>", 1)]
    )
    return tokenizer


KINDS = {kind.__name__: kind().to_str() for kind in (bert, roberta, templated)}
OURS = {name: TextTokenizer.from_json(content, LIMIT, None) for name, content in KINDS.items()}
Kinds = pytest.mark.parametrize("kind", KINDS)

words = st.lists(
    st.sampled_from(["a", "b", "fox", "wizards", "naïve", "hickory,", "zzz", "é!", "a b c d e f"]), max_size=16
)
texts = words.map(" ".join)


def theirs(kind: str, strategy: str = "longest_first") -> Tokenizer:
    """The library's own truncation, on an instance of its own."""
    tokenizer = Tokenizer.from_str(KINDS[kind])
    tokenizer.encode_special_tokens = True
    tokenizer.enable_truncation(LIMIT, strategy=strategy)
    return tokenizer


@Kinds
@settings(max_examples=150, deadline=None)
@given(text=texts)
def test_cut_text_is_what_the_library_cuts(kind: str, text: str) -> None:
    """Ids, token types and places of a text that is cut are the library's, and so are those of one that fits."""
    expected = theirs(kind).encode(text)
    whole = len(Tokenizer.from_str(KINDS[kind]).encode(text))
    try:
        got = OURS[kind].encode(text, "texts[0]", truncate=True, offsets=True)
    except InvalidRequestError as error:
        assert "is empty" in error.description  # noqa: PT017 - the other outcome is below
        assert not text.strip()
        return
    assert (got.ids, got.offsets, got.truncated) == (expected.ids, expected.offsets, whole > LIMIT)
    assert (got.type_ids or [0] * len(got)) == expected.type_ids
    assert OURS[kind].encode(text, "texts[0]", truncate=True).ids == expected.ids


@Kinds
@pytest.mark.parametrize("strategy", ["longest_first", "only_second"])
@settings(max_examples=150, deadline=None)
@given(first=texts, second=texts)
def test_cut_pair_is_what_the_library_cuts(kind: str, strategy: str, first: str, second: str) -> None:
    """Of a pair the longer text is cut, or only the second, down to the token the library cuts at."""
    keep_first = strategy == "only_second"
    try:
        got = OURS[kind].encode_pair(first, second, "texts[0]", truncate=True, keep_first=keep_first)
    except InvalidRequestError as error:
        if "is empty" in error.description:
            assert not first.strip() or not second.strip()
        else:
            assert keep_first
            with pytest.raises(Exception, match="too short"):
                theirs(kind, strategy).encode(first, second)
        return
    expected = theirs(kind, strategy).encode(first, second)
    assert (got.ids, got.type_ids) == (expected.ids, expected.type_ids)


@Kinds
def test_too_long_is_an_error_unless_truncation_is_asked_for(kind: str) -> None:
    """Without being asked to, nothing is cut: the error has the field, the count and the limit."""
    text = "a b c d e f a b c d e f a"
    count = len(Tokenizer.from_str(KINDS[kind]).encode(text))
    for encode in (
        lambda: OURS[kind].encode(text, "texts[3]"),
        lambda: OURS[kind].encode_all(["a", "b", "c", text], "texts"),
    ):
        with pytest.raises(InvalidRequestError) as caught:
            encode()
        assert (caught.value.field, caught.value.description) == (
            "texts[3]",
            f"has {count} tokens, the limit is {LIMIT}",
        )
    with pytest.raises(InvalidRequestError, match=rf"pairs\[1\]: has \d+ tokens, the limit is {LIMIT}$"):
        OURS[kind].encode_pairs([("a", "b"), ("a", text)], "pairs")


def test_truncation_changes_nothing_for_others() -> None:
    """A text that is cut for one caller is whole for the next."""
    tokenizer = TextTokenizer.from_json(KINDS["bert"], 40, None)
    text = "a b c d e f " * 3
    before = tokenizer.encode(text, "texts[0]")
    assert tokenizer.encode("a " * 100, "texts[0]", truncate=True).truncated
    assert tokenizer.encode(text, "texts[0]") == before
    assert not before.truncated


@Kinds
def test_many_at_once_are_as_one_by_one(kind: str) -> None:
    """A list of texts, or of pairs, is encoded as each alone would be, in order."""
    some = ["a fox", "b", "the quick brown", "naïve façade!", "wizards brew " * 9]
    for options in ({}, {"offsets": True}):
        got = OURS[kind].encode_all(some, "texts", truncate=True, **options)
        assert got == [OURS[kind].encode(text, "x", truncate=True, **options) for text in some]
    pairs = list(zip(some, reversed(some), strict=True))
    got = OURS[kind].encode_pairs(pairs, "texts", truncate=True)
    assert got == [OURS[kind].encode_pair(*pair, "x", truncate=True) for pair in pairs]
    assert OURS[kind].encode_all([], "texts") == []


def test_errors_of_many_name_the_one() -> None:
    """Of several texts, or pairs, the first that is wrong is named by its index."""
    tokenizer = OURS["bert"]
    with pytest.raises(InvalidRequestError, match=r"^texts\[1\]: is empty"):
        tokenizer.encode_all(["a", " ", ""], "texts")
    for pair in (("a", " "), ("", "a"), ("", "")):
        with pytest.raises(InvalidRequestError, match=r"^texts\[1\]: is empty"):
            tokenizer.encode_pairs([("a", "b"), pair], "texts")
    strict = TextTokenizer.from_json(KINDS["bert"], LIMIT, 1)
    with pytest.raises(InvalidRequestError, match=r"^texts\[2\]: holds '☃' \(U\+2603\) at character 3,"):
        strict.encode_pairs([("a", "b"), ("b", "a"), ("a", "b ☃")], "texts")


def test_query_that_leaves_no_room_is_refused() -> None:
    """Where only the second text may be cut, a first one that fills the model alone is an error."""
    with pytest.raises(InvalidRequestError, match=r"what must stay leaves no room"):
        OURS["bert"].encode_pair("a b c d e f a b c", "a b", "texts[0]", truncate=True, keep_first=True)


def test_types_are_given_only_where_there_are_any() -> None:
    """A single text costs no list of zeros; a pair, and a template with types of its own, have theirs."""
    assert OURS["bert"].encode("a", "x").type_ids is None
    assert OURS["bert"].encode_pair("a", "b", "x").type_ids == [0, 0, 0, 1, 1]
    assert OURS["templated"].encode("a b", "x").type_ids == [1, 1, 1]
    assert OURS["bert"].encode("a", "x") == Encoding(OURS["bert"].encode("a", "x").ids)


@Kinds
@pytest.mark.parametrize("filler", ["the quick brown fox, ", "a b ", "naïve "])
def test_megabytes_are_cut_without_being_read(kind: str, filler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a text of megabytes as much is read as decides its first tokens, and they are the library's."""
    text = filler * 20_000
    expected = theirs(kind).encode(text)
    tokenizer = TextTokenizer.from_json(KINDS[kind], LIMIT, None)
    read: list[int] = []

    class Counting:
        """Notes how long the texts are that are tokenized."""

        def __init__(self, inner: Tokenizer) -> None:
            self.inner = inner

        def encode(self, one: str, **options: bool) -> object:
            read.append(len(one))
            return self.inner.encode(one, **options)

        def encode_batch_fast(self, many: list[str | tuple[str, str]]) -> object:
            read.extend(len(each) if isinstance(each, str) else sum(map(len, each)) for each in many)
            return self.inner.encode_batch_fast(many)

    monkeypatch.setattr(tokenizer, "_tokenizer", Counting(tokenizer._tokenizer))
    got = tokenizer.encode(text, "texts[0]", truncate=True)
    assert (got.ids, got.truncated) == (expected.ids, True)
    assert sum(read) < 128 * LIMIT * 3
    got = tokenizer.encode_pair("a b", text, "texts[0]", truncate=True, keep_first=True)
    assert got.ids == theirs(kind, "only_second").encode("a b", text).ids
    assert sum(read) < 128 * LIMIT * 6


@pytest.mark.parametrize("text", ["a" + "\u0301" * 5000 + " b c d", "x" * 5000, " " * 5000 + "a b c d"])
def test_beginning_that_decides_nothing_is_not_cut_at(text: str) -> None:
    """Where the allowed characters do not decide the first tokens, the text is refused instead of read otherwise."""
    with pytest.raises(InvalidRequestError, match=r"characters, more than 1536; the limit is 12 tokens"):
        OURS["bert"].encode(text, "texts[0]", truncate=True)


def test_text_of_one_endless_word_is_cut_only_if_it_is_read_whole() -> None:
    """A tokenizer that takes all for one word may read the beginning otherwise for what follows: no guessing."""
    tokenizer = Tokenizer(models.BPE())
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(["abcabc"], trainers.BpeTrainer(vocab_size=260, initial_alphabet=alphabet))
    ours = TextTokenizer.from_json(tokenizer.to_str(), LIMIT, None)
    tokenizer.enable_truncation(LIMIT)
    assert ours.encode("abc" * 400, "x", truncate=True).ids == tokenizer.encode("abc" * 400).ids
    with pytest.raises(InvalidRequestError, match="characters"):
        ours.encode("abc" * 4000, "x", truncate=True)


def test_tokens_for_people() -> None:
    """The tokens of a text are shown as the vocabulary writes them, special ones too, also beyond the model's limit."""
    shown = OURS["bert"].tokens_of("a " * 30 + "?", "texts[0]")
    assert (shown.tokens[:2], shown.tokens[-2:]) == (["[CLS]", "a"], ["[UNK]", "[SEP]"])
    assert shown.offsets[:2] == [(0, 0), (0, 1)]
    assert shown.offsets[-2] == (60, 61)
    assert len(shown.ids) == len(shown.tokens) == len(shown.offsets) == 33 > LIMIT
    assert OURS["bert"].tokens_of("", "texts[0]").tokens == ["[CLS]", "[SEP]"]
    with pytest.raises(InvalidRequestError, match="characters"):
        OURS["bert"].tokens_of("a" * 2000, "texts[0]")


def started_threads(module: str, encode: str, path: Path) -> int:
    """Threads that a process has, beyond its first one, after it has imported a module and encoded with it."""
    script = (
        f"import os, {module}\ntext = open({str(path)!r}).read()\n{encode}\nprint(len(os.listdir('/proc/self/task')))"
    )
    environment = {name: value for name, value in os.environ.items() if name != "TOKENIZERS_PARALLELISM"}
    result = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True, env=environment, timeout=60
    )
    return int(result.stdout) - 1


def test_library_starts_no_threads_of_its_own(tmp_path: Path) -> None:
    """Encoding many texts at once starts no pool sized by the host's processors."""
    path = tmp_path / "tokenizer.json"
    path.write_text(KINDS["bert"], encoding="utf-8")
    assert started_threads("tokenizers", "tokenizers.Tokenizer.from_str(text).encode_batch(['a'] * 9)", path)
    ours = "headwaiter_server.tokenizer.TextTokenizer.from_json(text, 9, None).encode_all(['a'] * 9, '')"
    assert not started_threads("headwaiter_server.tokenizer", ours, path)
