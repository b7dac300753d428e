"""A token is chosen by its own text alone, with the probability that the options give it."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterable

import numpy as np
import pytest
from headwaiter_server.generation.choosing import Chooser, ChosenToken, choose
from headwaiter_server.generation.decoding import Decoding
from headwaiter_server.generation.drawing import distribution, likeliest
from headwaiter_server.model.contract import FloatArray
from hypothesis import given, settings
from hypothesis import strategies as st

VOCAB = 1000
LOWEST = float(np.finfo(np.float32).min)


def random_logits(rows: int, vocab: int = VOCAB, spread: float = 2.0, seed: int = 0) -> FloatArray:
    return (np.random.default_rng(seed).standard_normal((rows, vocab)) * spread).astype(np.float32)


# Every way to choose, alone and together with others.
WAYS = [
    Decoding(100),
    Decoding(100, repetition_penalty=1.5),
    Decoding(100, logprobs=4),
    *(
        Decoding(100, temperature=temperature, seed=seed, top_k=top_k, top_p=top_p, repetition_penalty=penalty)
        for seed, (temperature, top_k, top_p, penalty) in enumerate(
            (temperature, top_k, top_p, penalty)
            for temperature in (0.3, 1.0, 3.0)
            for top_k in (0, 7)
            for top_p in (1.0, 0.8)
            for penalty in (1.0, 1.3)
        )
    ),
    Decoding(100, temperature=1.0, seed=7, logprobs=0),
    Decoding(100, temperature=1.0, seed=7, logprobs=20),
]


def one_by_one(text: int, steps: int) -> list[ChosenToken]:
    """What a text gets that is alone: its logits are a function of its number and its step."""
    chooser = Chooser(WAYS[text % len(WAYS)], prompt_of(text))
    return [choose(logits_of([text], step), [chooser])[0] for step in range(steps)]


def prompt_of(text: int) -> list[int]:
    return list(range(text, text + 20))


def logits_of(texts: Iterable[int], step: int) -> FloatArray:
    return np.concatenate([random_logits(1, seed=1000 * step + text) for text in texts])


@settings(max_examples=25, deadline=None)
@given(st.permutations(range(2 * len(WAYS))), st.integers(1, 2 * len(WAYS)), st.integers(0, 5))
def test_token_does_not_depend_on_mates(order: list[int], count: int, dummies: int) -> None:
    """Alone, and in any batch in any order with rows in between that nobody has, down to the last bit."""
    texts = order[:count]
    alone = {text: one_by_one(text, 3) for text in texts}
    choosers = [Chooser(WAYS[text % len(WAYS)], prompt_of(text)) for text in texts]
    rows = [row + dummies for row in reversed(range(count))]
    for step in range(3):
        logits = np.concatenate([random_logits(dummies, seed=99), logits_of(reversed(texts), step)])
        before = logits.copy()
        together = choose(logits, choosers, rows)
        np.testing.assert_array_equal(logits, before)
        assert together == [alone[text][step] for text in texts]


def test_greedy_takes_the_first_of_the_likeliest() -> None:
    """Ties go to the lower number, as everywhere."""
    logits = np.zeros((3, 5), np.float32)
    logits[1, [2, 4]] = 1.0
    logits[2, 3] = 1.0
    assert choose(logits, [Chooser(Decoding(5)) for _ in range(3)]) == [ChosenToken(0), ChosenToken(2), ChosenToken(3)]


def test_failed_choice_can_be_made_again() -> None:
    """Choosers go on only when everybody has a token."""
    way = Decoding(9, temperature=1.0, seed=3, repetition_penalty=1.2)
    good, bad = Chooser(way), Chooser(way, [10 * VOCAB])
    logits = random_logits(2)
    with pytest.raises(IndexError):
        choose(logits, [good, bad])
    assert (good.chosen, bad.chosen) == (0, 0)
    assert choose(logits[:1], [good]) == choose(logits[:1], [Chooser(way)])


SCRIPT = """
import json, numpy as np
from headwaiter_server.generation.choosing import Chooser, choose
from headwaiter_server.generation.decoding import Decoding
logits = (np.random.default_rng(5).standard_normal((1, 1000)) * 2).astype(np.float32)
chooser = Chooser(Decoding(99, temperature=0.9, seed=2**64 - 1))
print(json.dumps([choose(logits, [chooser])[0].token_id for _ in range(50)]))
"""


def test_seed_gives_the_same_tokens_in_every_process() -> None:
    """A seed stands for the same draws wherever and whenever; another seed for others, and so does another step."""
    logits = random_logits(1, seed=5)
    found = {}
    for seed in (2**64 - 1, 0, 1):
        chooser = Chooser(Decoding(99, temperature=0.9, seed=seed))
        found[seed] = [choose(logits, [chooser])[0].token_id for _ in range(50)]
    elsewhere = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, check=True, timeout=60)
    assert json.loads(elsewhere.stdout) == found[2**64 - 1]
    assert all(len(set(tokens)) > 10 for tokens in found.values())
    agreeing = [sum(a == b for a, b in zip(found[0], found[other], strict=True)) for other in (1, 2**64 - 1)]
    assert max(agreeing) < 10


@pytest.mark.parametrize(
    "way",
    [
        Decoding(1, temperature=1.0, seed=11),
        Decoding(1, temperature=0.5, seed=12),
        Decoding(1, temperature=1.5, top_k=5, seed=13),
        Decoding(1, temperature=1.0, top_p=0.7, seed=14),
        Decoding(1, temperature=2.0, top_k=9, top_p=0.9, seed=15),
    ],
)
def test_tokens_come_as_often_as_they_are_probable(way: Decoding) -> None:
    """The frequencies of 20,000 draws pass a chi-squared test at one in ten thousand; what was cut never comes."""
    logits = random_logits(1, vocab=30)
    chooser = Chooser(way)
    draws = 20_000
    counts = np.zeros(30)
    for _ in range(draws):
        counts[choose(logits, [chooser])[0].token_id] += 1
    expected = probabilities(logits[0], way) * draws
    assert not counts[expected == 0].any()
    # Those that are too rare for the test count as one.
    rare = expected < 10
    observed = [*counts[~rare], *([counts[rare].sum()] if expected[rare].sum() > 10 else [])]
    wanted = [*expected[~rare], *([expected[rare].sum()] if expected[rare].sum() > 10 else [])]
    statistic = sum((o - w) ** 2 / w for o, w in zip(observed, wanted, strict=True))
    assert statistic < chi_squared_bound(len(wanted) - 1)


def probabilities(logits: FloatArray, way: Decoding) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    ids, weights = distribution(logits, way)
    result = np.zeros(len(logits))
    result[slice(None) if ids is None else ids] = weights / weights.sum()
    return result


def chi_squared_bound(freedom: int) -> float:
    """What such a statistic exceeds once in ten thousand times, by Wilson and Hilferty."""
    return freedom * (1 - 2 / (9 * freedom) + 3.719 * math.sqrt(2 / (9 * freedom))) ** 3


@pytest.mark.parametrize("lowest", [-np.inf, LOWEST])
def test_suppressed_tokens_never_come(lowest: float) -> None:
    """Whatever the options: not drawn, not likeliest, not in the list of the likeliest."""
    allowed = [3, 40, 500]
    logits = np.full((1, VOCAB), lowest, np.float32)
    logits[0, allowed] = [-50.0, -51.0, -52.0]
    for temperature in (0.0, 1e-3, 1.0, 100.0):
        for top_k in (0, 2, 10, VOCAB):
            for top_p in (1.0, 0.999999, 0.5):
                for penalty in (0.5, 1.0, 2.0):
                    way = Decoding(
                        9, temperature, top_k=top_k, top_p=top_p, repetition_penalty=penalty, seed=1, logprobs=10
                    )
                    chooser = Chooser(way, [3, 7])
                    for _ in range(5):
                        (token,) = choose(logits, [chooser])
                        assert token.token_id in allowed
                        assert [each for each, _ in token.top] == allowed
                        assert all(math.isfinite(logprob) for _, logprob in token.top)


def test_low_temperature_is_greedy() -> None:
    """Nothing overflows, and nothing but the likeliest is left, down to the smallest number above 0."""
    logits = random_logits(20)
    for temperature in (1e-4, 1e-40, 5e-324):
        tokens = choose(logits, [Chooser(Decoding(9, temperature, seed=seed)) for seed in range(20)])
        assert [token.token_id for token in tokens] == logits.argmax(axis=1).tolist()


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 3000), st.integers(1, 60), st.sampled_from([0.0, 1e-3, 1.0, 30.0]), st.integers(1, 5), st.integers(0)
)
def test_likeliest_are_found_without_sorting(size: int, count: int, spread: float, steps: int, seed: int) -> None:
    """The same as by sorting all, for any number of tokens, with and without ties."""
    scores = random_logits(1, size, spread, seed)[0]
    scores = np.round(scores * steps) / np.float32(steps) if steps < 4 else scores
    least = np.sort(scores)[-min(count, size)]
    np.testing.assert_array_equal(likeliest(scores, count), np.flatnonzero(scores >= least))


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 3000), st.floats(1e-6, 1.0, exclude_max=True), st.sampled_from([0.0, 0.1, 1.0, 30.0]), st.integers(0)
)
def test_nucleus_is_found_without_sorting(size: int, top_p: float, spread: float, seed: int) -> None:
    """The fewest tokens that have the probability asked for; of equal ones those with the lower numbers."""
    logits = random_logits(1, size, spread, seed)[0]
    found = probabilities(logits, Decoding(1, temperature=1.0, top_p=top_p)) > 0
    whole = probabilities(logits, Decoding(1, temperature=1.0))
    least = whole[found].min()
    inside = math.fsum(whole[found])
    assert inside >= top_p - 1e-12
    assert inside - least < top_p + 1e-12
    assert found[whole > least].all()
    ties = found[whole == least]
    assert not (~ties[:-1] & ties[1:]).any()


def test_log_probabilities_are_of_the_untouched_distribution() -> None:
    """Whatever was done to choose: those of the model, in order, of as many tokens as asked for."""
    logits = random_logits(1, 5000, 3.0)
    exact = logits[0].astype(np.float64) - np.log(np.exp(logits[0].astype(np.float64)).sum())
    order = np.argsort(-exact, kind="stable")
    for way in (
        Decoding(1, logprobs=5),
        Decoding(1, temperature=1.7, top_k=30, top_p=0.9, repetition_penalty=1.5, seed=4, logprobs=5),
    ):
        (token,) = choose(logits, [Chooser(way, [int(order[0])])])
        assert token.logprob == pytest.approx(exact[token.token_id], abs=1e-6)
        assert [each for each, _ in token.top] == order[:5].tolist()
        assert [logprob for _, logprob in token.top] == pytest.approx(exact[order[:5]].tolist(), abs=1e-6)
    (token,) = choose(logits, [Chooser(Decoding(1, logprobs=0))])
    assert (token.token_id, token.top) == (order[0], ())
    assert token.logprob == pytest.approx(exact[order[0]], abs=1e-6)


def test_penalty_remembers_prompt_and_tokens() -> None:
    """A token is penalized from the step behind it on, those of the prompt from the beginning, and once only."""
    logits = np.array([[2.0, 1.9, 1.8, -1.0]], np.float32)
    chooser = Chooser(Decoding(9, repetition_penalty=1.1), [0, 0, 0])
    tokens = [choose(logits, [chooser])[0].token_id for _ in range(3)]
    # 2.0 / 1.1 is less than 1.9, and more than 1.9 / 1.1 and 1.8.
    assert tokens == [1, 0, 0]


def test_drawing_takes_a_seed() -> None:
    """Whoever draws must say with which seed: nothing is left to chance."""
    with pytest.raises(ValueError, match="no seed"):
        Chooser(Decoding(1, temperature=1.0))
