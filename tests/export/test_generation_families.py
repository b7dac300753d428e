"""Every family that generates goes on with texts as transformers' `generate` does, together and from any place."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from headwaiter_export import Options, errors, export_checkpoint
from headwaiter_export.generation import cached
from headwaiter_export.generation.runtime import CachedRows, DecoderOnly, EncoderDecoder, generate
from headwaiter_export.generation.signature import CacheShape
from headwaiter_export.runtime import Graph
from headwaiter_proto.v1 import bundle_pb2
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .decoders import ENDS, FAMILIES, NEVER, SMALL, VOCAB, WITH_ENCODER, save_decoder

pytestmark = pytest.mark.torch

Exported = Callable[[str], tuple[Path, bundle_pb2.Manifest]]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Gives the bundle of a family; not to be changed."""

    @cache
    def export(family: str) -> tuple[Path, bundle_pb2.Manifest]:
        base = tmp_path_factory.mktemp(family)
        bundle = base / "m" / "1"
        return bundle, export_checkpoint(save_decoder(base / "checkpoint", family), bundle)

    return export


@pytest.mark.parametrize("family", FAMILIES)
def test_family_goes_on_as_generate_does(exported: Exported, family: str) -> None:
    """200 texts of mixed length give transformers' own tokens, in groups and pieces; and these are worth comparing."""
    bundle, manifest = exported(family)
    assert manifest.task == bundle_pb2.TASK_GENERATE
    assert manifest.graph_kind == bundle_pb2.GRAPH_KIND_CACHED
    assert manifest.architecture == family
    assert manifest.limits.max_total_tokens == (0 if family in WITH_ENCODER else 80)
    parity = manifest.variants[0].parity
    assert parity.texts_identical == parity.texts_compared >= 195
    assert max(point.max_abs_diff for point in parity.points) <= 1e-4
    assert max(point.length for point in parity.points) > 48
    golden = np.load(bundle / "golden.npz", allow_pickle=False)
    assert len(golden["source_ids"]) == 16
    graphs = _opened(bundle, manifest)
    generator = np.random.default_rng(7)
    texts = [generator.integers(0, VOCAB, length).tolist() for length in range(1, 41) for _ in range(6)]
    tokens, _ = generate(graphs, texts, limit=30, ends=frozenset(ENDS), chunk=9)
    seen = {token for row in tokens for token in row}
    assert len(seen) >= 50
    assert seen.isdisjoint(NEVER.get(family, ()))
    assert len({len(row) for row in tokens}) > 5


def test_rows_leave_one_another_alone(exported: Exported) -> None:
    """A text gives the same tokens and the same logits alone, beside others, and in pieces of any length."""
    graphs = _opened(*exported("mistral"))
    generator = np.random.default_rng(3)
    texts = [generator.integers(0, VOCAB, length).tolist() for length in (1, 30, 7, 12, 2)]
    together, logits = generate(graphs, texts, limit=20, ends=frozenset(), chunk=5)
    for at, text in enumerate(texts):
        for chunk in (1, 4, 64):
            (alone,), (own,) = generate(graphs, [text], limit=20, ends=frozenset(), chunk=chunk)
            assert alone == together[at]
            np.testing.assert_allclose(own, logits[at], atol=1e-5)


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_sources_leave_one_another_alone(exported: Exported, family: str) -> None:
    """With an encoder a text gives the same tokens and logits alone and beside any others, to the last bit."""
    graphs = _opened(*exported(family))
    generator = np.random.default_rng(3)
    texts = [generator.integers(0, VOCAB, length).tolist() for length in (1, 30, 7, 12, 2, 19)]
    together, logits = generate(graphs, texts, limit=12, ends=frozenset(), chunk=64)
    for at, text in enumerate(texts):
        (alone,), (own,) = generate(graphs, [text], limit=12, ends=frozenset(), chunk=64)
        assert alone == together[at]
        np.testing.assert_array_equal(own, logits[at])


def test_the_cache_is_written_in_place(exported: Exported) -> None:
    """A step changes one column of each row's cache, and nothing else of it."""
    graphs = _opened(*exported("llama"))
    rows = CachedRows(graphs.decoder, graphs.shape, rows=3, capacity=20)
    for row, length in enumerate((4, 9, 1)):
        rows.prefill(row, list(range(length)), 64)
    before = {name: kept.copy() for name, kept in rows.kept.items()}
    rows.read(np.array([[5], [6], [7]]), 0)
    for name, kept in rows.kept.items():
        changed = (kept != before[name]).any(axis=(1, 3))  # (rows, capacity)
        assert np.argwhere(changed).tolist() == [[0, 4], [1, 9], [2, 1]]


def test_ends_are_those_that_generate_goes_by(exported: Exported) -> None:
    """Every token that ends a text stands in the manifest, the first of them as the main one."""
    special = exported("gpt2")[1].special_tokens
    assert (special.eos_id, *special.more_eos_ids) == ENDS


def test_other_tasks_are_refused(tmp_path: Path) -> None:
    """A model that goes on with texts judges none, and what was asked for is named."""
    with pytest.raises(errors.UnknownArchitectureError, match="no head to classify"):
        export_checkpoint(save_decoder(tmp_path / "gpt2", "gpt2"), tmp_path / "m" / "1", Options(task="classify"))


def test_attention_that_wants_more_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the operator has no word for is named, and nothing is written."""
    real = cached.cached_attention

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, cached.ATTENTION, partial(real, s_aux=torch.zeros(4)))
    with pytest.raises(errors.GraphRejectedError, match="its attention takes s_aux"):
        export_checkpoint(save_decoder(tmp_path / "llama", "llama"), tmp_path / "m" / "1")
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    ("family", "config", "reason"),
    [
        ("bloom", {"vocab_size": VOCAB, "hidden_size": 32, "n_layer": 1, "n_head": 4}, "ALiBi"),
        ("mixtral", SMALL | {"num_hidden_layers": 1, "num_local_experts": 2, "num_experts_per_tok": 1}, "experts"),
    ],
)
def test_families_that_cannot_be_traced_are_told_why(
    family: str, config: dict[str, Any], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the tracer says of them is of no use to anybody; nothing is written."""
    monkeypatch.setitem(FAMILIES, family, config)
    source = save_decoder(tmp_path / family, family)
    with pytest.raises(errors.GraphRejectedError, match=rf"models: .*{reason}.* not supported: decoder\.onnx"):
        export_checkpoint(source, tmp_path / "m" / "1", Options(max_tokens=80))
    assert not (tmp_path / "m").exists()


def test_a_graph_that_sees_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sliding window that is wide by one token too many makes the gate say which texts differ."""
    real = cached.cached_attention
    monkeypatch.setitem(
        ALL_ATTENTION_FUNCTIONS,
        cached.ATTENTION,
        lambda *arguments, **more: real(*arguments, **(more | {"sliding_window": 7})),
    )
    with pytest.raises(errors.ParityError):
        export_checkpoint(save_decoder(tmp_path / "mistral", "mistral"), tmp_path / "m" / "1")
    assert not (tmp_path / "m").exists()


def _opened(bundle: Path, manifest: bundle_pb2.Manifest) -> DecoderOnly | EncoderDecoder:
    kept = manifest.kv_cache
    shape = CacheShape(kept.num_layers, kept.num_heads, kept.head_dim)
    decoder = Graph(bundle / "decoder.onnx")
    if manifest.limits.max_total_tokens:
        return DecoderOnly(decoder, shape)
    return EncoderDecoder(Graph(bundle / "encoder.onnx"), decoder, shape, manifest.special_tokens.bos_id)
