"""A text in pieces is the text as a whole: for every kind of tokenizer, any tokens, and any stop strings."""

from __future__ import annotations

import itertools
import json
import os
import random
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import pytest
from headwaiter_server.generation.texts import TextStream
from headwaiter_server.tokenizer import TextTokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

CORPUS = [
    "The waiter brings the menu, and then he doesn't come back. Isn't that strange? It's 12.50 !",
    "Der Ober bringt die Speisekarte; dann kommt er nicht wieder. Möchten Sie noch Käsespätzle?",
    "服务员把菜单拿来了，然后就不见了。请问还要别的吗？",  # noqa: RUF001 (as it is written there)
    "ウェイターがメニューを持ってきて、それから戻ってこない。",
    "Официант приносит меню и больше не возвращается. النادل يحضر القائمة",
    "😀😃😄 family: 👨‍👩‍👧‍👦, flags: 🇩🇪🇯🇵, thumbs: 👍🏽👍🏿, hearts: ❤️🧡",
    "def f(x):\n    if x:\n        return [x]\n\n\n    return   None\t# ok",
    "naïve café — “quotes” … e\u0301 ﬁ \u200d\ufffd",
]
PRONOUNCE = Path(__file__).parents[3] / "examples" / "pronounce" / "checkpoint" / "tokenizer.json"
SPECIALS = ["<s>", "</s>", "<pad>"]


def byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=420, initial_alphabet=alphabet, special_tokens=SPECIALS, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def cut_characters() -> Tokenizer:
    """Byte-level, with tokens that begin and end in the middle of characters."""
    written = [0x21, *range(0x22, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = itertools.count(0x100)
    letters = {byte: chr(byte if byte in written else next(others)) for byte in range(256)}
    parts = [bytes([byte]) for byte in range(256)]
    parts += [
        emoji[start:] + emoji[:stop] for emoji in ("😀".encode(), "菜".encode()) for start in (1, 2) for stop in (1, 2)
    ]
    vocab = {"".join(letters[byte] for byte in part): number for number, part in enumerate(parts)}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token=next(iter(vocab))))
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def word_piece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))  # noqa: S106 (a token)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(cleanup=True)
    trainer = trainers.WordPieceTrainer(vocab_size=350, special_tokens=["[UNK]", *SPECIALS], show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_tokens(["n't", "'s", "'re", "do not", "."])
    return tokenizer


def unigram(scheme: str) -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme=scheme)
    special = ["<unk>", *SPECIALS]
    trainer = trainers.UnigramTrainer(vocab_size=300, special_tokens=special, unk_token="<unk>", show_progress=False)  # noqa: S106 (a token)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_tokens(["▁▁▁▁", "▁"])
    return tokenizer


def byte_fallback() -> Tokenizer:
    """As Llama's: what the vocabulary does not have is written as its bytes, and a line's end is such a byte."""
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    letters = sorted(set("▁" + "".join(CORPUS[:2])) - {"\n"})
    vocab = {
        each: number for number, each in enumerate(["<unk>", *SPECIALS, *bytes_, *letters, "▁th", "th", "▁▁", "▁▁▁▁"])
    }
    merges = [("t", "h"), ("▁", "th"), ("▁", "▁"), ("▁▁", "▁▁")]
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))  # noqa: S106 (a token)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    tokenizer.add_special_tokens(SPECIALS)
    return tokenizer


def end_of_word() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))  # noqa: S106 (a token)
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.BPEDecoder("</w>")
    special = ["<unk>", *SPECIALS]
    trainer = trainers.BpeTrainer(
        vocab_size=350, special_tokens=special, end_of_word_suffix="</w>", show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def many_spaces_dropped() -> Tokenizer:
    tokenizer = unigram("always")
    steps = [decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 12, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    return tokenizer


def cleaned_up_as_a_whole() -> Tokenizer:
    """A decoder that looks back at the whole text, of which nothing is certain before its end."""
    tokenizer = unigram("always")
    cleaning = [decoders.Replace(Regex(" +([.,!?])"), "."), decoders.Replace(Regex(" +$"), "")]
    tokenizer.decoder = decoders.Sequence([decoders.Metaspace(), decoders.Fuse(), *cleaning])
    return tokenizer


KINDS: dict[str, Callable[[], Tokenizer]] = {
    "byte-level": byte_level,
    "cut characters": cut_characters,
    "word piece": word_piece,
    "metaspace always": lambda: unigram("always"),
    "metaspace never": lambda: unigram("never"),
    "byte fallback": byte_fallback,
    "end of word": end_of_word,
    "pronounce": lambda: Tokenizer.from_file(str(PRONOUNCE)),
    "many spaces": many_spaces_dropped,
    "as a whole": cleaned_up_as_a_whole,
}


@cache
def tokenizer_of(kind: str) -> TextTokenizer:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    tokenizer = KINDS[kind]()
    for special in SPECIALS:
        tokenizer.add_special_tokens([special])
    return TextTokenizer.from_json(tokenizer.to_str(), max_tokens=10**6, refused_id=None)


@cache
def vocabulary_of(kind: str) -> list[int]:
    return sorted(tokenizer_of(kind)._tokenizer.get_vocab(with_added_tokens=True).values())


def stream_of(kind: str, stop: Sequence[str] = ()) -> TextStream:
    tokenizer = tokenizer_of(kind)
    return TextStream(tokenizer.decode, stop, **tokenizer.detokenizing)


def tokens_of(kind: str, text: str) -> list[int]:
    ids: list[int] = tokenizer_of(kind)._tokenizer.encode(text, add_special_tokens=False).ids
    return ids


@st.composite
def token_lists(draw: st.DrawFn, kind: str) -> list[int]:
    """Tokens of texts that somebody could write, of any others, and of no text at all."""
    vocabulary = vocabulary_of(kind)
    anything = st.lists(st.sampled_from([*vocabulary, max(vocabulary) + 5]), max_size=12)
    written = st.one_of(st.sampled_from(CORPUS), st.text(max_size=12)).map(lambda text: tokens_of(kind, text))
    repeated = st.tuples(st.sampled_from(vocabulary), st.integers(1, 25)).map(lambda pair: [pair[0]] * pair[1])
    parts: list[list[int]] = draw(st.lists(st.one_of(anything, written, repeated), max_size=6))
    return list(itertools.chain.from_iterable(parts))


def streamed(stream: TextStream, ids: Sequence[int]) -> list[str]:
    """The pieces, the last one at the end."""
    pieces = []
    for token_id in ids:
        pieces.append(stream.push(token_id))
        if stream.stopped_by is not None:
            break
    return [*pieces, stream.finish()]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=150, deadline=None)
@given(st.data())
def test_pieces_are_the_whole_text(kind: str, data: st.DataObject) -> None:
    """Together what decoding all tokens at once gives, each a text by itself, and none with half a character."""
    ids = data.draw(token_lists(kind))
    stream = stream_of(kind)
    pieces = streamed(stream, ids)
    whole = tokenizer_of(kind).decode(ids)
    assert "".join(pieces) == stream.text == whole
    assert stream.stopped_by is None
    for piece in pieces:
        assert piece.encode().decode() == piece


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "as a whole"])
@settings(max_examples=25, deadline=None)
@given(st.data())
def test_nothing_is_held_back_that_is_certain(kind: str, data: st.DataObject) -> None:
    """What every further token would leave as it is has been given, but for bytes that may be a broken character's."""
    ids = data.draw(token_lists(kind))[:40]
    stream = stream_of(kind)
    decode = tokenizer_of(kind).decode
    for token_id in ids:
        stream.push(token_id)
    certain = decode(ids)
    for further in vocabulary_of(kind):
        certain = common_beginning(certain, decode([*ids, further]))
    assert certain.startswith(stream.text)
    assert not certain[len(stream.text) :].strip("\ufffd")


def common_beginning(text: str, other: str) -> str:
    return text[
        : next((place for place, pair in enumerate(zip(text, other, strict=False)) if pair[0] != pair[1]), len(other))
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_texts_are_decoded_in_linear_time(kind: str) -> None:
    """However long a text is, and of whatever it consists, few tokens are decoded for each new one."""
    tokenizer = tokenizer_of(kind)
    vocabulary = vocabulary_of(kind)
    choice = random.Random(5)
    texts = [
        [choice.choice(vocabulary) for _ in range(2000)],
        tokens_of(kind, " ".join(CORPUS * 10)),
        *(tokens_of(kind, text)[:2000] for text in (" " * 8000, "\n" * 8000, "😀" * 2000, "菜" * 2000, "\x80" * 2000)),
        *([token_id] * 500 for token_id in choice.sample(vocabulary, 30)),
    ]
    for ids in texts:
        decoded: list[int] = []

        def decode(window: list[int], decoded: list[int] = decoded) -> str:
            decoded.append(len(window))
            return tokenizer.decode(window)

        stream = TextStream(decode, **tokenizer.detokenizing)
        assert "".join(streamed(stream, ids)) == tokenizer.decode(ids)
        assert sum(decoded) <= 30 * len(ids)


def cut(text: str, stops: Sequence[str]) -> tuple[str, str | None]:
    """What is left of a text, and why: by trying every end."""
    for end in range(len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            longest = max(found, key=len)
            return text[: end - len(longest)], longest
    return text, None


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=80, deadline=None)
@given(st.data())
def test_text_ends_before_the_first_stop_string(kind: str, data: st.DataObject) -> None:
    """Whichever is complete first, across tokens; noticed at once; and nothing of it is given before."""
    ids = data.draw(token_lists(kind))
    whole = tokenizer_of(kind).decode(ids)
    places = st.tuples(st.integers(0, max(0, len(whole) - 1)), st.integers(1, 8))
    inside = places.map(lambda place: whole[place[0] : sum(place)] or "x")
    beside = st.tuples(inside, st.text(min_size=1, max_size=2)).map("".join)
    stops = data.draw(st.lists(st.one_of(inside, beside, st.text(min_size=1, max_size=3)), min_size=1, max_size=4))
    stream, without = stream_of(kind, stops), stream_of(kind)
    text, stopped_by = cut(whole, stops)
    for token_id in ids:
        stream.push(token_id)
        without.push(token_id)
        certain, stopped_so_far = cut(without.text, stops)
        assert stream.stopped_by == stopped_so_far
        held = 0 if stopped_so_far else max(beginning(certain, stop) for stop in stops)
        assert stream.text == certain[: len(certain) - held]
        if stopped_so_far:
            assert (stream.push(ids[0]), stream.finish()) == ("", "")
            break
    stream.finish()
    assert (stream.text, stream.stopped_by) == (text, stopped_by)


def beginning(text: str, stop: str) -> int:
    """How many characters at the end of a text are how a stop string begins."""
    return max(length for length in range(len(stop)) if text.endswith(stop[:length]))


def characters(text: str, stop: Sequence[str]) -> tuple[list[str], str | None]:
    """Pieces of a text of which each character is a token."""
    stream = TextStream(lambda ids: "".join(map(chr, ids)), stop)
    return streamed(stream, list(map(ord, text))), stream.stopped_by


def test_stop_strings_as_people_use_them() -> None:
    """Across tokens, at the very beginning, one in another, with the same end, half of one at the end."""
    assert characters("one\n\ntwo", ["\n\n"]) == (["o", "n", "e", "", "", ""], "\n\n")
    assert characters("one\ntwo\n", ["\n\n"]) == (["o", "n", "e", "", "\nt", "w", "o", "", "\n"], None)
    assert characters("stop here", ["stop"]) == ([""] * 5, "stop")
    assert characters("abcd", ["abcd", "bc"]) == (["", "", "a", ""], "bc")
    assert characters("xabc", ["bc", "abc"]) == (["x", "", "", "", ""], "abc")
    assert characters("aaab", ["aab"]) == (["", "", "a", "", ""], "aab")
    assert characters("abab!", ["ababc"]) == (["", "", "", "", "abab!", ""], None)
    assert characters("naïve 😀", ["ïv", "😀"]) == (["n", "a", "", "", ""], "ïv")
    assert characters("so 😀!", ["😀"]) == (["s", "o", " ", "", ""], "😀")


def test_emoji_comes_when_its_last_byte_has_come() -> None:
    """Half a character is never given, and a whole one at once."""
    ids = tokens_of("cut characters", "")
    ids = [*"😀".encode(), *"菜!".encode(), 0xF0]
    assert streamed(stream_of("cut characters"), ids) == ["", "", "", "😀", "", "", "菜", "!", "", "\ufffd"]


def test_space_before_a_word_comes_with_it() -> None:
    """What a decoder drops at the beginning of a text is there inside of it, also where the window begins anew."""
    ids = tokens_of("metaspace always", "the menu")
    text = "".join(streamed(stream_of("metaspace always"), ids * 30))
    assert text == tokenizer_of("metaspace always").decode(ids * 30)
    assert text.startswith("the menu the menu the")


def test_neighbouring_bytes_wait_for_each_other() -> None:
    """Where one byte that is broken breaks all beside it, none is given before something else comes."""
    newline, euro = tokens_of("byte fallback", "\n")[1:], [4 + byte for byte in "€".encode()]
    (letter,) = tokens_of("byte fallback", "xa")[2:]
    stream = stream_of("byte fallback", ["\n€"])
    assert [stream.push(each) for each in (letter, *newline, *euro, letter)] == ["a", "", "", "", "", ""]
    assert stream.stopped_by == "\n€"
    broken = stream_of("byte fallback", ["\n€"])
    ids = [letter, *newline, *euro, 4 + 0xFF, letter]
    assert "".join(streamed(broken, ids)) == "a\ufffd\ufffd\ufffd\ufffd\ufffda"
    assert broken.stopped_by is None


@pytest.mark.parametrize("kind", KINDS)
def test_decoders_are_known_for_what_they_are(kind: str) -> None:
    """Only one that looks back makes a text wait for its end; only those that fall back on bytes have some."""
    found = tokenizer_of(kind).detokenizing
    assert found["left_to_right"] == (kind != "as a whole")
    vocabulary = vocabulary_of(kind)
    assert sum(number in found["byte_ids"] for number in vocabulary) == (256 if kind == "byte fallback" else 0)
    added = json.loads(tokenizer_of(kind)._tokenizer.to_str())["added_tokens"]
    special = {token["id"] for token in added if token["special"]}
    assert special == {number for number in vocabulary if number in found["silent_ids"]}
    assert len(special) >= 3
    assert max(vocabulary) + 1 in found["silent_ids"]
