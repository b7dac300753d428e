"""Options of a request are refused by name, value and limit, and only where they have no meaning."""

from __future__ import annotations

import math
from typing import Any

import pytest
from headwaiter_server.errors import InvalidRequestError
from headwaiter_server.generation.decoding import Decoding

SEED_LIMIT = 2**64

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"max_new_tokens": 0}, "max_new_tokens: is 0, it must be at least 1"),
    ({"temperature": -0.1}, "temperature: is -0.1, it must be between 0 (the likeliest token) and 100"),
    ({"temperature": 101.0}, "temperature: is 101, it must be between 0 (the likeliest token) and 100"),
    ({"temperature": math.nan}, "temperature: is nan, it must be between 0 (the likeliest token) and 100"),
    ({"temperature": math.inf}, "temperature: is inf, it must be between 0 (the likeliest token) and 100"),
    ({"top_k": -1}, "top_k: is -1, it must be at least 0 (all tokens)"),
    ({"top_p": 0.0}, "top_p: is 0, it must be above 0 and at most 1 (all tokens)"),
    ({"top_p": 1.01}, "top_p: is 1.01, it must be above 0 and at most 1 (all tokens)"),
    ({"top_p": math.nan}, "top_p: is nan, it must be above 0 and at most 1 (all tokens)"),
    ({"repetition_penalty": 0.0}, "repetition_penalty: is 0, it must be between 0.01 and 100 (1: none)"),
    ({"repetition_penalty": -math.inf}, "repetition_penalty: is -inf, it must be between 0.01 and 100 (1: none)"),
    ({"repetition_penalty": math.nan}, "repetition_penalty: is nan, it must be between 0.01 and 100 (1: none)"),
    ({"seed": -1}, f"seed: is -1, it must be between 0 and {SEED_LIMIT - 1}"),
    ({"seed": SEED_LIMIT}, f"seed: is {SEED_LIMIT}, it must be between 0 and {SEED_LIMIT - 1}"),
    ({"num_beams": 0}, "num_beams: is 0, it must be between 1 (no beam search) and 16"),
    ({"num_beams": 17}, "num_beams: is 17, it must be between 1 (no beam search) and 16"),
    ({"num_return_sequences": 0}, "num_return_sequences: is 0, it must be at least 1"),
    (
        {"num_return_sequences": 2},
        "num_return_sequences: is 2, it can be no more than num_beams, which is 1",
    ),
    (
        {"num_beams": 4, "num_return_sequences": 5},
        "num_return_sequences: is 5, it can be no more than num_beams, which is 4",
    ),
    ({"num_beams": 2, "length_penalty": 10.5}, "length_penalty: is 10.5, it must be between -10 and 10"),
    ({"num_beams": 2, "length_penalty": math.nan}, "length_penalty: is nan, it must be between -10 and 10"),
    ({"length_penalty": 2.0}, "length_penalty: is 2, it takes num_beams above 1"),
    ({"logprobs": -1}, "logprobs: is -1, it must be between 0 (of the chosen token only) and 20"),
    ({"logprobs": 21}, "logprobs: is 21, it must be between 0 (of the chosen token only) and 20"),
    ({"stop": ("a",) * 17}, "stop: has 17 strings, the limit is 16"),
    ({"stop": ("a", "")}, "stop[1]: is empty"),
    ({"stop": ("a" * 257,)}, "stop[0]: has 257 characters, the limit is 256"),
    ({"stop_token_ids": frozenset(range(65))}, "stop_token_ids: has 65 tokens, the limit is 64"),
    ({"stop_token_ids": frozenset({-1})}, "stop_token_ids: holds -1, tokens are numbered from 0"),
    ({"stop_token_ids": frozenset({5, 300})}, "stop_token_ids: holds 300, the last of the model's tokens is 299"),
    ({"num_beams": 3, "temperature": 0.7}, "temperature: is 0.7, it does not go with num_beams, which is 3"),
    ({"num_beams": 3, "top_k": 5}, "top_k: is 5, it does not go with num_beams, which is 3"),
    ({"num_beams": 3, "top_p": 0.5}, "top_p: is 0.5, it does not go with num_beams, which is 3"),
    ({"num_beams": 3, "stop": ("a",)}, "stop: does not go with num_beams, which is 3; stop_token_ids do"),
    ({"num_beams": 3, "attention": True}, "attention: does not go with num_beams, which is 3"),
]

ACCEPTED: list[dict[str, Any]] = [
    {},
    {"temperature": 100.0, "top_k": 10**9, "top_p": 1e-9, "repetition_penalty": 100.0, "seed": SEED_LIMIT - 1},
    {"temperature": 5e-324, "repetition_penalty": 0.01, "seed": 0},
    # What is left of the likeliest token is the likeliest token.
    {"top_k": 5, "top_p": 0.5, "seed": 3},
    {"num_beams": 16, "num_return_sequences": 16, "length_penalty": -10.0, "repetition_penalty": 2.0},
    {"num_beams": 2, "stop_token_ids": frozenset({0, 299}), "logprobs": 20, "seed": 5},
    {"stop": ("a" * 256,) * 16, "logprobs": 0, "attention": True},
]


@pytest.mark.parametrize(("options", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_option_is_refused(options: dict[str, Any], message: str) -> None:
    """The first that is wrong is named, with its value and what it may be."""
    with pytest.raises(InvalidRequestError) as refused:
        Decoding(**({"max_new_tokens": 5} | options)).check(vocab_size=300)
    assert str(refused.value) == message


@pytest.mark.parametrize("options", ACCEPTED)
def test_options_are_accepted(options: dict[str, Any]) -> None:
    """Up to their limits, and together where they go together."""
    Decoding(5, **options).check(vocab_size=300)


def test_field_is_named_as_the_request_has_it() -> None:
    """Whoever asks over another protocol reads that protocol's path."""
    with pytest.raises(InvalidRequestError) as refused:
        Decoding(5, stop=("",)).check(name=lambda field: f"parameters[{field}]")
    assert refused.value.field == "parameters[stop[0]]"


def test_last_token_of_an_unknown_vocabulary_is_not_judged() -> None:
    """Where nobody says how many tokens there are, any may stop."""
    Decoding(5, stop_token_ids=frozenset({10**6})).check()


@pytest.mark.parametrize(
    ("decoding", "deterministic"),
    [
        (Decoding(1), True),
        (Decoding(1, num_beams=4), True),
        (Decoding(1, seed=4, top_k=3), True),
        (Decoding(1, temperature=0.1, seed=4), False),
    ],
)
def test_only_drawing_depends_on_the_seed(decoding: Decoding, *, deterministic: bool) -> None:
    """What is computed without drawing may be remembered whatever the seed."""
    assert decoding.deterministic == deterministic
