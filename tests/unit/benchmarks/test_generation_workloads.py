"""What is generated in the benchmark of generation: lengths, and the same ones every time."""

from __future__ import annotations

import statistics
from pathlib import Path

from benchmarks.generation.workloads import (
    CONTINUATIONS,
    POSITIONS,
    PROMPTS,
    SPECIAL_WORDS,
    LogNormal,
    decoder_requests,
    pronounce_requests,
    read_requests,
    words,
    write_requests,
)


def test_lengths_have_the_median_and_the_spread_that_they_should() -> None:
    lengths = LogNormal(median=64, sigma=0.8, longest=10_000).lengths(10_001)
    assert lengths == sorted(lengths)
    assert lengths[5000] == 64
    # One standard deviation above the median.
    assert abs(lengths[round(0.8413 * 10_001)] / 64 - 2.2255) < 0.02


def test_no_length_is_beyond_the_longest_or_below_one() -> None:
    lengths = LogNormal(median=1, sigma=2, longest=5).lengths(1000)
    assert min(lengths) == 1
    assert max(lengths) == 5


def test_the_longest_prompt_and_its_continuation_fit_into_the_decoder() -> None:
    assert PROMPTS.longest + CONTINUATIONS.longest <= POSITIONS


def test_prompts_have_the_tokens_that_they_say_and_no_special_ones() -> None:
    known = set(words())
    for request in decoder_requests(64):
        written = request.text.split()
        assert len(written) == request.prompt_tokens
        assert known.issuperset(written)
        assert not any(special in request.text for special in SPECIAL_WORDS)


def test_few_requests_are_as_long_as_many() -> None:
    few, many = (statistics.mean(each.new_tokens for each in decoder_requests(count)) for count in (64, 1024))
    assert abs(few / many - 1) < 0.05


def test_prompts_and_continuations_have_nothing_to_do_with_each_other() -> None:
    requests = decoder_requests(512)
    prompts, continuations = ([getattr(each, name) for each in requests] for name in ("prompt_tokens", "new_tokens"))
    assert abs(statistics.correlation(prompts, continuations)) < 0.1


def test_requests_are_the_same_every_time_and_orders_are_others(tmp_path: Path) -> None:
    requests = decoder_requests(32)
    assert requests == decoder_requests(32)
    write_requests(tmp_path / "requests.json", requests)
    first, again, other = (read_requests(tmp_path / "requests.json", order) for order in (1, 1, 2))
    assert first == again
    assert first != other
    assert sorted(each.text for each in first) == sorted(each.text for each in requests)


def test_words_to_pronounce_end_by_themselves() -> None:
    assert [each.new_tokens for each in pronounce_requests(["a", "word"])] == [0, 0]
