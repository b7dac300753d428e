"""Beam search finds transformers' own hypotheses, and scores them as it does."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from headwaiter_server.generation.beams import BeamSearch, Hypothesis
from headwaiter_server.generation.decoding import Decoding
from headwaiter_server.model.contract import FloatArray
from numpy.typing import NDArray

pytestmark = pytest.mark.torch

VOCAB = 300
START = 0
# Logits of what comes behind some tokens.
Decoder = Callable[[list[list[int]]], FloatArray]
CONFIGS: dict[str, dict[str, Any]] = {
    "gpt2": {"vocab_size": VOCAB, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "t5": {
        "vocab_size": VOCAB,
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 64,
        "num_layers": 2,
        "num_decoder_layers": 2,
        "num_heads": 4,
        "decoder_start_token_id": START,
    },
}
SPREADS = {"gpt2": 0.35, "t5": 0.6}
# The same tokens can end texts seldom or often.
ENDS = {"one": (2,), "several": tuple(range(2, VOCAB, 23))}


@cache
def model_of(family: str) -> Any:  # noqa: ANN401 (one of transformers' many classes)
    """A small random model whose texts do not repeat themselves."""
    torch.manual_seed(3)
    config = transformers.AutoConfig.for_model(
        family, bos_token_id=1, eos_token_id=2, pad_token_id=0, **CONFIGS[family]
    )
    kind = transformers.AutoModelForSeq2SeqLM if config.is_encoder_decoder else transformers.AutoModelForCausalLM
    model: Any = kind.from_config(config).eval()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if weights.ndim > 1:
                weights.normal_(0.0, 0.3 if "shared" in name else SPREADS[family])
    return model


def decoder_of(family: str, prompt: list[int]) -> tuple[Decoder, list[int]]:
    """What gives logits behind the prompt, and what the decoder reads first."""
    model = model_of(family)
    if not model.config.is_encoder_decoder:
        return lambda rows: last_logits(model(torch.tensor([prompt + row for row in rows]))), prompt
    source = torch.tensor([prompt])
    encoded = model.get_encoder()(source).last_hidden_state

    def decode(rows: list[list[int]]) -> FloatArray:
        states = (encoded.expand(len(rows), -1, -1),)
        return last_logits(
            model(encoder_outputs=states, decoder_input_ids=torch.tensor([[START, *row] for row in rows]))
        )

    return decode, [START]


def last_logits(output: Any) -> FloatArray:  # noqa: ANN401 (of one of transformers' many classes)
    logits: FloatArray = output.logits[:, -1].numpy()
    return logits


@torch.no_grad()
def searched(family: str, prompt: list[int], decoding: Decoding, ends: tuple[int, ...]) -> tuple[Hypothesis, ...]:
    decode, read_first = decoder_of(family, prompt)
    search = BeamSearch(decoding, ends, read_first)
    rows: list[list[int]] = [[]]
    while not search.done:
        following = search.advance(decode(rows))
        assert search.done == (not following)
        assert len(following) in (0, decoding.num_beams)
        rows = [[*rows[parent], token] for parent, token in following]
    return search.hypotheses


def generated(
    family: str, prompt: list[int], decoding: Decoding, ends: tuple[int, ...]
) -> list[tuple[list[int], int | None, float]]:
    """Tokens, what ended them, and score of transformers' hypotheses."""
    found = model_of(family).generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
        max_new_tokens=decoding.max_new_tokens,
        num_beams=decoding.num_beams,
        num_return_sequences=decoding.num_return_sequences,
        length_penalty=decoding.length_penalty,
        repetition_penalty=decoding.repetition_penalty,
        early_stopping=False,
        do_sample=False,
        eos_token_id=list(ends),
        pad_token_id=VOCAB - 1,
        return_dict_in_generate=True,
        output_scores=True,
    )
    beginning = 1 if model_of(family).config.is_encoder_decoder else len(prompt)
    answers = []
    for tokens, score in zip(found.sequences[:, beginning:].tolist(), found.sequences_scores.tolist(), strict=True):
        place = next((place for place, token in enumerate(tokens) if token in ends), None)
        answers.append((tokens[:place], None if place is None else tokens[place], score))
    return answers


def close(found: tuple[Hypothesis, ...], wanted: list[tuple[list[int], int | None, float]]) -> None:
    assert [(each.token_ids, each.ended_by) for each in found] == [(tokens, end) for tokens, end, _ in wanted]
    np.testing.assert_allclose([each.score for each in found], [score for *_, score in wanted], rtol=0, atol=1e-5)


def prompts(seed: int, count: int) -> list[list[int]]:
    random = np.random.default_rng(seed)
    return [random.integers(3, VOCAB - 1, random.integers(1, 12)).tolist() for _ in range(count)]


@pytest.mark.parametrize("num_beams", range(2, 9))
@pytest.mark.parametrize("family", CONFIGS)
def test_hypotheses_are_those_of_transformers(family: str, num_beams: int) -> None:
    """The same tokens, ends and scores, for all length penalties, seldom and often ended, alone and n best."""
    lengths = itertools.cycle((1, 7, 20))
    settings = itertools.product((0.5, 1.0, 2.0), ENDS.values(), (1, num_beams))
    answers: list[Hypothesis] = []
    for prompt, (length_penalty, ends, returned), limit in zip(prompts(num_beams, 12), settings, lengths, strict=False):
        decoding = Decoding(limit, num_beams=num_beams, num_return_sequences=returned, length_penalty=length_penalty)
        found = searched(family, prompt, decoding, ends)
        close(found, generated(family, prompt, decoding, ends))
        assert len(found) == returned
        answers += found
    # Otherwise there was nothing to find out.
    assert {each.ended_by is None for each in answers} == {True, False}
    assert len({token for each in answers for token in each.token_ids}) > 12


@pytest.mark.parametrize("family", CONFIGS)
def test_beams_are_penalized_for_repeating_as_in_transformers(family: str) -> None:
    """A repetition penalty changes what is found, and finds what transformers finds."""
    changed = 0
    for number, prompt in enumerate(prompts(20, 6)):
        decoding = Decoding(15, num_beams=4, num_return_sequences=4, repetition_penalty=(0.8, 1.4)[number % 2])
        found = searched(family, prompt, decoding, ENDS["several"])
        close(found, generated(family, prompt, decoding, ENDS["several"]))
        without = searched(family, prompt, Decoding(15, num_beams=4, num_return_sequences=4), ENDS["several"])
        changed += found != without
    assert changed


def test_stop_tokens_end_hypotheses() -> None:
    """A token that the request names ends a hypothesis as the model's own tokens do."""
    for prompt in prompts(30, 3):
        decoding = Decoding(12, num_beams=3, num_return_sequences=3, stop_token_ids=frozenset(ENDS["several"][1:]))
        found = searched("gpt2", prompt, decoding, ENDS["several"][:1])
        assert found == searched("gpt2", prompt, Decoding(12, num_beams=3, num_return_sequences=3), ENDS["several"])


@torch.no_grad()
def test_log_probabilities_belong_to_the_tokens() -> None:
    """Each token of a hypothesis has its own log-probability; with the end's, they add up to the score."""
    prompt = prompts(40, 1)[0]
    decode, _ = decoder_of("gpt2", prompt)
    decoding = Decoding(9, num_beams=4, num_return_sequences=4, length_penalty=0.0, logprobs=3)
    found = searched("gpt2", prompt, decoding, ENDS["several"])
    assert len(found) == 4
    for each in found:
        assert each.tokens is not None
        assert [token.token_id for token in each.tokens] == each.token_ids
        ids = each.token_ids
        total = 0.0
        for place, token_id in enumerate([*ids, *([] if each.ended_by is None else [each.ended_by])]):
            of_all = torch.log_softmax(torch.from_numpy(decode([ids[:place]])[0]).double(), 0)
            total += float(of_all[token_id])
            if place < len(ids):
                token = each.tokens[place]
                assert token.logprob == pytest.approx(float(of_all[token_id]), abs=1e-5)
                assert [top for top, _ in token.top] == of_all.topk(3).indices.tolist()
        assert each.score == pytest.approx(total, abs=1e-4)


def table(*rows: list[float]) -> FloatArray:
    return np.log(np.array(rows, np.float64)).astype(np.float32)


def test_search_is_over_when_nothing_better_can_come() -> None:
    """With all beams ended, and what goes on judged no better than the worst of them, no further step is asked for."""
    search = BeamSearch(Decoding(50, num_beams=2), {0})
    assert search.advance(table([0.4, 0.3, 0.3])) == [(0, 1), (0, 2)]
    assert search.advance(table([0.98, 0.01, 0.01], [0.98, 0.01, 0.01])) == []
    assert search.done
    (best,) = search.hypotheses
    # log 0.4 / 1 is less than log(0.3 x 0.98) / 2.
    assert (best.token_ids, best.ended_by) == ([1], 0)
    assert best.score == pytest.approx(np.log(0.3 * 0.98) / 2, abs=1e-6)


def test_answer_of_full_length_has_no_end() -> None:
    """What was cut at the maximum length is answered as it is, and says so."""
    search = BeamSearch(Decoding(2, num_beams=2, num_return_sequences=2), {0})
    first = search.advance(table([0.01, 0.9, 0.09]))
    assert first == [(0, 1), (0, 2)]
    assert search.advance(table([0.1, 0.2, 0.7], [0.1, 0.6, 0.3])) == []
    assert [(each.token_ids, each.ended_by) for each in search.hypotheses] == [([1, 2], None), ([1, 1], None)]


@pytest.mark.parametrize("lowest", [-np.inf, np.finfo(np.float32).min])
def test_tokens_that_are_never_generated_are_in_no_hypothesis(lowest: float) -> None:
    """Not even when there are fewer others than beams; then fewer hypotheses go on, and are answered."""
    search = BeamSearch(Decoding(3, num_beams=4, num_return_sequences=4, repetition_penalty=1.5), {0}, [2])
    logits: NDArray[np.float32] = np.array([[lowest, 1.0, lowest, 0.5, lowest]], np.float32)
    assert search.advance(logits) == [(0, 1), (0, 3)]
    assert len(search.advance(np.repeat(logits, 2, axis=0))) == 4
    assert search.advance(np.repeat(logits, 4, axis=0)) == []
    assert {token for each in search.hypotheses for token in each.token_ids} == {1, 3}


def test_nothing_goes_on_where_everything_ends() -> None:
    """A model that only knows how to end is done after one step."""
    search = BeamSearch(Decoding(10, num_beams=3, num_return_sequences=3), {0, 1})
    lowest = float(np.finfo(np.float32).min)
    assert search.advance(np.array([[0.0, -1.0, lowest]], np.float32)) == []
    assert search.done
    assert [(each.token_ids, each.ended_by) for each in search.hypotheses] == [([], 0), ([], 1)]


def test_search_without_any_token_fails() -> None:
    """Where a model allows none, there is nothing to answer."""
    search = BeamSearch(Decoding(10, num_beams=2), {0})
    with pytest.raises(ValueError, match="no token"):
        search.advance(np.full((1, 5), np.finfo(np.float32).min))
