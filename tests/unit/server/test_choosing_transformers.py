"""The options of sampling mean what they mean in transformers."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from headwaiter_server.generation.choosing import SeenTokens
from headwaiter_server.generation.decoding import Decoding
from headwaiter_server.generation.drawing import distribution
from headwaiter_server.model.contract import FloatArray
from transformers.generation.logits_process import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

pytestmark = pytest.mark.torch


def ours(logits: FloatArray, decoding: Decoding, prompt: list[int]) -> torch.Tensor:
    ids, weights = distribution(SeenTokens(prompt, decoding.repetition_penalty).penalized(logits), decoding)
    probabilities = torch.zeros(len(logits), dtype=torch.float64)
    probabilities[slice(None) if ids is None else torch.from_numpy(ids)] = torch.from_numpy(weights / weights.sum())
    return probabilities


def theirs(logits: FloatArray, decoding: Decoding, prompt: list[int]) -> torch.Tensor:
    processors = LogitsProcessorList([RepetitionPenaltyLogitsProcessor(decoding.repetition_penalty)])
    processors.append(TemperatureLogitsWarper(decoding.temperature))
    if decoding.top_k:
        processors.append(TopKLogitsWarper(decoding.top_k))
    if decoding.top_p < 1.0:
        processors.append(TopPLogitsWarper(decoding.top_p))
    # In doubles, so that sums of probabilities reach `top_p` at the same token.
    ids: Any = torch.tensor([prompt])
    scores: Any = torch.from_numpy(logits).double()[None]
    result: torch.Tensor = processors(ids, scores)[0].softmax(-1)
    return result


@pytest.mark.parametrize("vocab", [40, 1000, 50_257])
@pytest.mark.parametrize("spread", [0.3, 2.0, 8.0])
def test_distributions_are_those_of_transformers(vocab: int, spread: float) -> None:
    """The same probabilities and the same zeros, for all options together, with ties and suppressed tokens."""
    random = np.random.default_rng(vocab)
    options = itertools.product((0.4, 1.0, 2.5), (0, 1, 10, 200), (1.0, 0.95, 0.4, 0.01), (1.0, 0.7, 1.3))
    for temperature, top_k, top_p, penalty in options:
        logits = (random.standard_normal(vocab) * spread).astype(np.float32)
        if top_p == 1.0:
            logits = np.round(logits)  # many are equal; with `top_p`, transformers keeps any of them
        if random.integers(2):
            logits[random.integers(0, vocab, vocab // 4)] = -np.inf
        decoding = Decoding(1, temperature, top_k=top_k, top_p=top_p, repetition_penalty=penalty, seed=0)
        prompt = random.integers(0, vocab, 15).tolist()
        found, wanted = ours(logits, decoding, prompt), theirs(logits, decoding, prompt)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-9)
        assert torch.equal(found > 0, wanted > 0)
