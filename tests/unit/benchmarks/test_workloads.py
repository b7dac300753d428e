"""The encoder benchmark's texts: real sentences whose lengths follow the wanted distributions."""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks.encoders.corpus import documents, split_sentences
from benchmarks.encoders.outcomes import percentile
from benchmarks.encoders.workloads import (
    LONG,
    SHORT,
    LogNormal,
    Passages,
    Text,
    build_workloads,
    read_workload,
    write_workloads,
)

_SPECIAL_TOKENS = 2


def _count_words(texts: Sequence[str]) -> list[int]:
    """A tokenizer of words, which like a real one adds special tokens."""
    return [len(text.split()) + _SPECIAL_TOKENS for text in texts]


@pytest.fixture(scope="module")
def library() -> list[list[str]]:
    return documents()


@pytest.fixture(scope="module")
def passages(library: list[list[str]]) -> Passages:
    return Passages(library, _count_words)


@pytest.mark.parametrize("distribution", [SHORT, LONG])
@pytest.mark.parametrize("count", [320, 1280])
def test_lengths_have_the_mean_and_the_quantile_of_their_distribution(distribution: LogNormal, count: int) -> None:
    lengths = distribution.lengths(count)
    assert statistics.mean(lengths) == pytest.approx(distribution.mean, rel=0.03)
    assert percentile(lengths, distribution.quantile) == pytest.approx(distribution.tokens, rel=0.08)


def test_workloads_have_the_lengths_that_the_page_promises(passages: Passages) -> None:
    workloads = build_workloads(passages, {"short": 600, "mixed": 600, "uniform": 200})
    lengths = {name: [text.tokens for text in texts] for name, texts in workloads.items()}
    assert statistics.mean(lengths["short"]) == pytest.approx(15, abs=1)
    assert percentile(lengths["short"], 0.99) == pytest.approx(45, abs=5)
    assert statistics.mean(lengths["mixed"]) == pytest.approx(35, abs=2)
    assert percentile(lengths["mixed"], 0.99) == pytest.approx(210, abs=20)
    assert set(lengths["uniform"]) == {32}


def test_a_text_has_as_many_tokens_as_it_is_listed_with(passages: Passages) -> None:
    workloads = build_workloads(passages, {"short": 100, "mixed": 100, "uniform": 100})
    for texts in workloads.values():
        assert _count_words([text.text for text in texts]) == [text.tokens for text in texts]


def test_workloads_are_the_same_every_time(passages: Passages, library: list[list[str]]) -> None:
    counts = {"short": 50, "mixed": 50, "uniform": 50}
    assert build_workloads(passages, counts) == build_workloads(Passages(library, _count_words), counts)


def test_texts_repeat_only_when_there_are_no_others_of_their_length() -> None:
    three = Passages([["a b c."], ["d e f."], ["g h i."]], _count_words)
    drawn = [text.text for text in three.sentences([5] * 6, random.Random(1))]
    assert sorted(drawn[:3]) == sorted(drawn[3:]) == ["a b c.", "d e f.", "g h i."]


def test_a_stretch_is_consecutive_sentences_of_one_text() -> None:
    passages = Passages([["one two.", "three four.", "five six."], ["seven eight."]], _count_words)
    drawn = {text.text for text in passages.stretches([4 + _SPECIAL_TOKENS] * 4, random.Random(1))}
    assert drawn == {"one two. three four.", "three four. five six."}


def test_a_file_gives_every_process_the_same_texts_in_the_order_it_asks_for(tmp_path: Path) -> None:
    texts = [Text(str(number), 3) for number in range(20)]
    write_workloads(tmp_path / "texts.json", {"short": texts})
    first, again, other = (read_workload(tmp_path / "texts.json", "short", order) for order in (1, 1, 2))
    assert first == again
    assert first != other
    assert sorted(first) == sorted(other) == sorted(text.text for text in texts)


def test_sentences_are_prose_on_one_line() -> None:
    text = (
        "A heading\n*********\n\nThe first sentence spans\ntwo lines. The second one is short enough.\n\n"
        "   >>> print(1)\n   1\n\nToo short. No end here"
    )
    assert split_sentences(text) == ["The first sentence spans two lines.", "The second one is short enough."]


def test_no_sentence_of_the_documentation_stands_twice(library: list[list[str]]) -> None:
    sentences = [sentence for document in library for sentence in document]
    assert len(sentences) > 5000
    assert len(sentences) == len(set(sentences))
