"""Every family that generates goes on with texts as transformers' `generate` does, together and from any place."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from headwaiter_export import Options, errors, export_checkpoint
from headwaiter_export.bundle import read_manifest
from headwaiter_export.cli import command
from headwaiter_export.generation import cached
from headwaiter_export.generation.graph import Suppress
from headwaiter_export.generation.runtime import CachedRows, DecoderOnly, EncoderDecoder, generate
from headwaiter_export.generation.signature import CacheShape
from headwaiter_export.runtime import Graph
from headwaiter_proto.v1 import bundle_pb2
from numpy.typing import NDArray
from onnx import numpy_helper
from safetensors.torch import load_file, save_file
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .decoders import ENDS, FAMILIES, NEVER, SMALL, VOCAB, WITH_ENCODER, save_decoder

pytestmark = pytest.mark.torch

# Weights by which a decoder attends to its source.
_TO_SOURCE = re.compile(r"(encoder_attn|EncDecAttention)\.(q|k|v)(_proj)?\.weight$")

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
    """200 texts of mixed length, or more, give transformers' tokens, in groups and pieces; and are worth comparing."""
    bundle, manifest = exported(family)
    assert manifest.task == bundle_pb2.TASK_GENERATE
    assert manifest.graph_kind == bundle_pb2.GRAPH_KIND_CACHED
    assert manifest.architecture == family
    assert manifest.limits.max_total_tokens == (0 if family in WITH_ENCODER else 80)
    parity = manifest.variants[0].parity
    assert parity.texts_identical == parity.texts_compared >= 200
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


def test_a_text_is_drawn_for_each_that_cannot_be_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where two tokens are equally likely and the graph takes the other one, 200 further texts are identical."""
    source = save_decoder(tmp_path / "qwen2", "qwen2")
    weights = load_file(source / "model.safetensors")
    weights["lm_head.weight"][200:204] = weights["lm_head.weight"][100:104]
    save_file(weights, source / "model.safetensors", {"format": "pt"})
    # Less than the tolerance, and in favour of the second of two.
    tilt = torch.arange(VOCAB) * 1e-7
    monkeypatch.setattr(Suppress, "forward", lambda _, logits: logits + tilt)
    manifest = export_checkpoint(source, tmp_path / "m" / "1")
    parity = manifest.variants[0].parity
    near = sum(point.batch for point in parity.points) - parity.texts_compared
    assert parity.texts_identical == parity.texts_compared >= 200
    assert near > 5
    assert [remark for remark in manifest.remarks if remark.startswith(f"in {near} texts")]


def test_generation_may_be_asked_for_by_name(tmp_path: Path) -> None:
    """`--task generate` writes a bundle that generates."""
    source = save_decoder(tmp_path / "gpt_neox", "gpt_neox")
    bundle = tmp_path / "m" / "1"
    asked = [str(source), "--task", "generate", "--out", str(bundle)]
    result = CliRunner().invoke(command, [*asked, "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["task"] == "generate"
    manifest = read_manifest(bundle)
    assert (manifest.task, manifest.graph_kind) == (bundle_pb2.TASK_GENERATE, bundle_pb2.GRAPH_KIND_CACHED)
    tokens, _ = generate(_opened(bundle, manifest), [[5, 6, 7]], limit=8, ends=frozenset(), chunk=64)
    assert len(set(tokens[0])) > 1


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_keys_of_the_source_are_made_by_the_encoders_graph_alone(exported: Exported, family: str) -> None:
    """The decoder is given them, of every layer, hands none back, and has no weights to make them with."""
    bundle, manifest = exported(family)
    encoder, decoder = (onnx.load(bundle / name) for name in ("encoder.onnx", "decoder.onnx"))
    kept = _shape(manifest).names()
    given = [f"cross_{name}" for name in kept]
    assert len(given) == 4
    assert [each.name for each in encoder.graph.output] == given
    inputs = ["input_ids", "past_lengths", "source_lengths", *kept, *given]
    assert sorted(each.name for each in decoder.graph.input) == sorted(inputs)
    outputs = ["logits", "source_weights", *(f"new_{name}" for name in kept)]
    assert sorted(each.name for each in decoder.graph.output) == sorted(outputs)
    weights = load_file(bundle.parent.parent / "checkpoint" / "model.safetensors")
    attending = {name: values.numpy() for name, values in weights.items() if _TO_SOURCE.search(name)}
    assert len(attending) == 2 * 3
    for name, values in attending.items():
        asks = name.endswith(("q_proj.weight", "q.weight"))
        assert (_holds(encoder, values), _holds(decoder, values)) == (not asks, asks), name


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


def _shape(manifest: bundle_pb2.Manifest) -> CacheShape:
    kept = manifest.kv_cache
    return CacheShape(kept.num_layers, kept.num_heads, kept.head_dim)


def _holds(model: onnx.ModelProto, weights: NDArray[np.float32]) -> bool:
    """Whether a graph has these weights, as they are, turned, or beside others."""
    found = [numpy_helper.to_array(each) for each in model.graph.initializer]
    found += [
        numpy_helper.to_array(attribute.t)
        for node in model.graph.node
        for attribute in node.attribute
        if attribute.HasField("t")
    ]
    lines = {line.tobytes() for each in found if each.ndim == 2 for turned in (each, each.T) for line in turned}
    return all(line.tobytes() in lines for line in weights)


def _opened(bundle: Path, manifest: bundle_pb2.Manifest) -> DecoderOnly | EncoderDecoder:
    shape = _shape(manifest)
    decoder = Graph(bundle / "decoder.onnx")
    if manifest.limits.max_total_tokens:
        return DecoderOnly(decoder, shape)
    return EncoderDecoder(Graph(bundle / "encoder.onnx"), decoder, shape, manifest.special_tokens.bos_id)
