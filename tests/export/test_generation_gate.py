"""What the gate of models that generate holds, and what is refused before it: no model passes for want of a look."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from headwaiter_export import errors, export_checkpoint, tracing
from headwaiter_export.generation import cached, gate, parts
from headwaiter_export.generation.cache import LOWEST, Cache, UnsupportedAttentionError
from headwaiter_export.generation.gate import Continuation, Gate, held
from headwaiter_export.generation.quality import compare
from headwaiter_export.generation.reference import continuations
from headwaiter_export.generation.runtime import FloatArray
from headwaiter_export.progress import Silent
from headwaiter_export.spec import GraphSpec, Tensor
from headwaiter_export.texts import Texts
from headwaiter_proto.v1 import bundle_pb2
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .decoders import FAMILIES, SMALL, save_decoder

pytestmark = pytest.mark.torch


def _logits(*rows: list[float]) -> FloatArray:
    return np.array(rows, np.float32)


def test_ties_are_not_compared_further() -> None:
    """Where PyTorch's two likeliest tokens are nearer than the tolerance, either may come, and that is told."""
    wanted = Continuation([1, 2], _logits([0.0, 1.0, 0.0], [0.0, 0.5, 0.50001]))
    found = [1, 1], _logits([0.0, 1.0, 0.0], [0.0, 0.500005, 0.5])
    difference, tied = held(found, wanted, 1e-4)
    assert difference == pytest.approx(1e-5, rel=0.1)
    assert tied
    with pytest.raises(ValueError, match="differ"):
        held(found, wanted, 1e-6)


def test_tokens_that_are_never_generated_hide_no_difference() -> None:
    """The lowest number of all, which stands for them, is no measure for the logits of the others."""
    wanted = Continuation([1], _logits([0.0, 1.0, LOWEST]))
    difference, _ = held(([1], _logits([0.0, 1.01, LOWEST])), wanted, 1e-4)
    assert difference == pytest.approx(0.01, rel=1e-3)
    assert held(([1], _logits([0.0, 1.0, 0.5])), wanted, 1e-4)[0] == np.inf


@pytest.mark.parametrize("strange", [np.nan, np.inf])
def test_what_is_no_number_is_a_difference(strange: float) -> None:
    """Both sides may agree on it, and it is no answer."""
    logits = _logits([0.0, strange, 0.0])
    assert not held(([1], logits), Continuation([1], logits), 1e-4)[0] <= 1e-4


def test_a_gate_that_compares_little_does_not_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where most texts part at a tie, nothing was certified."""
    tied = Continuation([1, 2], _logits([0.0, 1.0, 0.0], [0.0, 0.5, 0.5]))
    texts = Texts([[1], [2], [3]], ["one", "two", "three"], "texts")

    def generate(_: object, rows: list[list[int]], **__: object) -> tuple[list[list[int]], list[FloatArray]]:
        return [[1, 1]] * len(rows), [tied.logits] * len(rows)

    monkeypatch.setattr(gate, "generate", generate)
    held_to: Any = None
    with pytest.raises(errors.TokensDifferError, match="in 3 of 3 texts the two likeliest tokens"):
        Gate(texts, [tied] * 3, 2, frozenset()).certify(held_to, 1e-4, Silent())


def test_quality_is_that_of_the_tokens_that_may_come() -> None:
    """A token that is never generated makes no two answers alike."""
    wanted, found = _logits([3.0, 1.0, 2.0, 0.0]), _logits([1.0, 3.0, 0.0, 2.0])
    never = _logits([LOWEST])
    apart = compare([wanted], [found])
    assert apart.worst_cosine < 0
    assert compare([np.hstack([wanted, never])], [np.hstack([found, never])]) == apart


@pytest.mark.parametrize(
    ("config", "refusal"),
    [
        ({"layer_types": ["full_attention", "chunked_attention"]}, "layer 1 attends by chunked_attention"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layer 1 has its window in a mask"),
        ({"sliding_window": 4096}, "layer 1 has its window in a mask"),
    ],
)
def test_a_window_that_only_a_mask_knows_is_refused(config: dict[str, object], refusal: str) -> None:
    """The texts of the gate are too short to see that it is missing."""
    layer: Any = SimpleNamespace(layer_idx=1, config=SimpleNamespace(**config))
    part = torch.zeros(1, 2, 3, 4)
    with pytest.raises(UnsupportedAttentionError, match=refusal):
        cached.cached_attention(layer, part, part, part, None)


def test_an_encoder_that_wants_more_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the packed attention leaves out is named, as for decoders."""
    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, parts.ATTENTION, partial(parts.attention, softcap=50.0))
    with pytest.raises(errors.GraphRejectedError, match=r"encoder\.onnx: .* its attention takes softcap"):
        export_checkpoint(save_decoder(tmp_path / "marian", "marian"), tmp_path / "m" / "1")


@pytest.mark.parametrize(
    ("family", "more", "refusal"),
    [
        (
            "phi3",
            {
                "rope_parameters": {
                    "rope_type": "longrope",
                    "rope_theta": 1e4,
                    "short_factor": [1.0] * 4,
                    "long_factor": [4.0] * 4,
                    "original_max_position_embeddings": 40,
                },
                "original_max_position_embeddings": 40,
            },
            r"longrope\); --max-tokens 40",
        ),
        (
            "gpt_neo",
            {"attention_types": [[["global"], 2]]},
            "gpt_neo models attend in their own way",
        ),
    ],
)
def test_what_no_cache_can_hold_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, more: dict[str, Any], refusal: str
) -> None:
    """Families that would answer differently beyond the texts that are compared, or cannot be exported at all."""
    monkeypatch.setitem(FAMILIES, family, SMALL | more)
    with pytest.raises(errors.UnknownArchitectureError, match=refusal):
        export_checkpoint(save_decoder(tmp_path / family, family), tmp_path / "m" / "1")


def test_a_model_that_does_not_run_is_refused() -> None:
    """What its own code raises is told as a fault of the checkpoint."""

    def generate(*_: object, **__: object) -> None:
        raise RuntimeError("size of tensor a must match")

    model = SimpleNamespace(generation_config=SimpleNamespace(decoder_start_token_id=None), generate=generate)
    with pytest.raises(errors.CorruptCheckpointError, match="does not generate with it: size of tensor a"):
        continuations(model, [[1, 2]], limit=2, ends=frozenset([0]), suppressed=(), progress=Silent())


def test_layers_without_keys_and_values_are_refused() -> None:
    """A model that attends in its own way, or keeps a state, is refused in words."""
    cache = Cache.before([(torch.zeros(1, 2, 3, 4),) * 2] * 2, torch.zeros(1, dtype=torch.int64), 1)
    with pytest.raises(UnsupportedAttentionError, match="layer 0 does not attend as transformers' models do"):
        cache.outputs()


def test_a_model_that_never_ends_is_refused(tmp_path: Path) -> None:
    """Bundles name a token that ends a text: a made-up one would cut texts short."""
    folder = save_decoder(tmp_path / "gpt2", "gpt2", ends=())
    with pytest.raises(errors.CorruptCheckpointError, match=r"which token ends a text: .*eos_token_id"):
        export_checkpoint(folder, tmp_path / "m" / "1")
    assert not (tmp_path / "m").exists()


def test_a_graph_larger_than_a_file_may_be_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """How large it is is said, and nothing is written."""
    monkeypatch.setattr(tracing, "MOST_BYTES", 1000)
    axes: tuple[int | str, ...] = ("rows", 32)
    spec = GraphSpec(
        bundle_pb2.GRAPH_ROLE_DECODER, "m.onnx", (Tensor("x", "float32", axes),), (Tensor("y", "float32", axes),)
    )
    with pytest.raises(errors.GraphRejectedError, match=r"m\.onnx: its weights take 4,224 bytes, .* 1,000"):
        tracing.write_graph(nn.Linear(32, 32), (torch.zeros(3, 32),), spec, tmp_path)
    assert not list(tmp_path.iterdir())
