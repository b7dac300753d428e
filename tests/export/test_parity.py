"""The certificate says what was compared, and nothing out of tolerance is written."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from headwaiter_export import Options, errors, export_checkpoint, transformer_recipe
from headwaiter_export.bundle import read_manifest
from headwaiter_export.generation.gate import Gate
from headwaiter_export.generation.runtime import EncoderDecoder, FloatArray, generate, packed
from headwaiter_export.generation.signature import CacheShape
from headwaiter_export.parity import certify
from headwaiter_export.progress import Silent
from headwaiter_export.runtime import Graph
from headwaiter_export.spec import GraphSpec
from headwaiter_export.texts import Texts
from headwaiter_export.transformer import greedy_decode, load_checkpoint
from headwaiter_export.transformer_recipe import continuations
from headwaiter_proto.v1 import bundle_pb2

pytestmark = pytest.mark.torch

SHAPE = CacheShape(num_layers=2, num_heads=4, head_dim=8)
TARGETS = 12
# Of the tiny model's vocabulary, with its end of sequence.
TEXTS = [[5, 6, 7, 2], [30, 2], [4, 9, 17, 25, 33, 8, 2], [2], [*range(4, 35), 2]]


def test_certificate_covers_groups_of_texts(bundle: Path) -> None:
    """Texts were decoded alone and in groups, the longest that fits among them, down to the last step."""
    parity = read_manifest(bundle).variants[0].parity
    assert {point.batch for point in parity.points} >= {1, 2, 7, 16}
    assert max(point.length for point in parity.points) == 32
    assert all(point.padded for point in parity.points if point.batch > 2)
    assert max(point.steps for point in parity.points) == TARGETS
    assert max(point.max_abs_diff for point in parity.points) <= parity.tolerance == 1e-4


def test_texts_are_identical(bundle: Path) -> None:
    """500 texts of the checkpoint, and 100 of random tokens, were decoded to the same tokens."""
    parity = read_manifest(bundle).variants[0].parity
    assert parity.texts_compared == parity.texts_identical == 600


def _graphs(folder: Path) -> EncoderDecoder:
    return EncoderDecoder(Graph(folder / "encoder.onnx"), Graph(folder / "decoder.onnx"), SHAPE, start_id=1)


def _gate(checkpoint: Path, texts: Sequence[list[int]], change: str | None = None) -> Gate:
    """PyTorch's answers, maybe of a model one of whose weights is another."""
    model = load_checkpoint(checkpoint).model
    if change is not None:
        with torch.no_grad():
            model.get_parameter(change).view(-1)[5] += 0.01
    rows = list(texts)
    wanted = list(continuations(model, rows, Silent()))
    return Gate(Texts(rows, [f"text {at}" for at in range(len(rows))], "texts"), wanted, TARGETS, frozenset([2]))


@pytest.mark.parametrize(
    "name", ["decoder.layers.1.cross_attention.value_projection.bias", "embedding.embedding.weight"]
)
def test_one_different_weight_is_seen(checkpoint: Path, bundle: Path, name: str) -> None:
    """A weight that differs between PyTorch and the graphs is refused, naming where and by how much."""
    with pytest.raises(
        errors.ParityError, match=r"differ by \d\.\d+, more than the tolerance 0\.0001, at texts 0 to 0"
    ):
        _gate(checkpoint, [[*range(4, 35), 2]], name).certify(_graphs(bundle), 1e-4, Silent())


def test_nan_is_out_of_tolerance() -> None:
    """A difference that is not a number is refused."""
    with pytest.raises(errors.ToleranceExceededError, match="differ by nan"):
        list(certify(["a shape"], 1.0, lambda _: bundle_pb2.ParityPoint(max_abs_diff=float("nan"))))


def test_nothing_is_written_out_of_tolerance(
    checkpoint: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tolerance that no arithmetic meets leaves nothing behind, not even the model's folder."""

    def copy_graph(module: object, example: object, spec: GraphSpec, folder: Path) -> None:
        shutil.copy(bundle / spec.file_name, folder)  # tracing would take seconds

    monkeypatch.setattr(transformer_recipe, "write_graph", copy_graph)
    with pytest.raises(errors.ToleranceExceededError):
        export_checkpoint(checkpoint, tmp_path / "models" / "tiny" / "1", Options(tolerance=1e-12))
    assert list(tmp_path.iterdir()) == []


def test_different_tokens_are_seen(checkpoint: Path, bundle: Path) -> None:
    """A text that both sides decode differently is refused, naming it and both results."""
    gate = _gate(checkpoint, [[5, 6, 7, 2]])
    gate.wanted[0].tokens[0] += 1
    with pytest.raises(
        errors.TokensDifferError, match=r"text 0: the tokens differ, \[.*\] on onnxruntime, \[.*\] on PyTorch"
    ):
        gate.certify(_graphs(bundle), 1e-4, Silent())


def test_the_reference_needs_no_cache(checkpoint: Path) -> None:
    """PyTorch's logits come from the whole target at once, and choose the very tokens of decoding step by step."""
    for each in _gate(checkpoint, TEXTS).wanted:
        assert each.logits.shape == (len(each.tokens), 40)
        assert each.logits.argmax(-1).tolist() == each.tokens
        assert 2 not in each.tokens[:-1]


def test_unused_columns_and_batch_mates_change_nothing(bundle: Path) -> None:
    """A row's logits are the same alone and beside others, whatever stands in columns that do not count."""
    graphs = _graphs(bundle)
    tokens, logits = generate(graphs, TEXTS, limit=TARGETS, ends=frozenset(), chunk=64)
    for at, text in enumerate(TEXTS):
        (alone,), (own,) = generate(graphs, [text], limit=TARGETS, ends=frozenset(), chunk=64)
        assert alone == tokens[at]
        np.testing.assert_allclose(own, logits[at], atol=1e-5)


def test_a_packed_text_is_the_same_to_the_last_bit(bundle: Path) -> None:
    """What the encoder makes of a text does not change with what lies before and behind it."""
    encoder = Graph(bundle / "encoder.onnx")
    generator = np.random.default_rng(4)
    texts = [generator.integers(4, 40, length).tolist() for length in (3, 17, 1, 31, 8, 22, 5, 13)]
    together = encoder.run(packed(texts))
    segment = packed(texts)["segment"]
    for at, text in enumerate(texts):
        for name, alone in encoder.run(packed([text])).items():
            np.testing.assert_array_equal(together[name][segment == at], alone, err_msg=name)


def test_several_tokens_are_read_at_once(bundle: Path) -> None:
    """Tokens of a text that are read in one run give what they give one by one: logits, weights and cache."""
    graphs = _graphs(bundle)
    target = np.array([[5, 30, 8, 21, 9, 14]])
    pieces: list[list[dict[str, FloatArray]]] = []
    for cuts in ([1, 2, 3, 4, 5], [2, 5], []):
        rows, _ = graphs.begin([TEXTS[2]], TARGETS, 64)
        found = [rows.read_all(part, 0, ["logits", "source_weights"]) for part in np.split(target, cuts, 1)]
        pieces.append([found[-1], {name: kept[:, :, : len(target[0]) + 1] for name, kept in rows.kept.items()}])
    for other in pieces[1:]:
        for one, first in zip(other, pieces[0], strict=True):
            for name, values in first.items():
                np.testing.assert_allclose(one[name], values, atol=1e-5, err_msg=name)


def test_source_weights_say_what_is_attended_to(bundle: Path) -> None:
    """Each head's weights of the last token add up to 1 over the row's own source, and are 0 beyond it."""
    rows, _ = _graphs(bundle).begin(TEXTS, TARGETS, 64)
    found = rows.read_all(np.full((len(TEXTS), 1), 5), 0, ["source_weights"])["source_weights"]
    assert found.shape[:3] == (len(TEXTS), SHAPE.num_layers, SHAPE.num_heads)
    for row, text in enumerate(TEXTS):
        np.testing.assert_allclose(found[row, :, :, : len(text)].sum(-1), 1.0, atol=1e-6)
        assert not found[row, :, :, len(text) :].any()


def test_golden_is_what_pytorch_gives(checkpoint: Path, bundle: Path) -> None:
    """The golden file holds PyTorch's tokens, and onnxruntime gives its first logits."""
    golden = np.load(bundle / "golden.npz", allow_pickle=False)
    source, lengths, counts = golden["source_ids"], golden["source_lengths"], golden["token_counts"]
    assert {name: (golden[name].dtype.name, golden[name].shape[:1]) for name in golden.files} == {
        "source_ids": ("int64", (16,)),
        "source_lengths": ("int64", (16,)),
        "tokens": ("int64", (16,)),
        "token_counts": ("int64", (16,)),
        "first_logits": ("float32", (16,)),
    }
    texts = [row[:length].tolist() for row, length in zip(source, lengths, strict=True)]
    tokens = [row[:count].tolist() for row, count in zip(golden["tokens"], counts, strict=True)]
    model = load_checkpoint(checkpoint).model
    for text, expected in zip(texts, tokens, strict=True):
        alone = greedy_decode(model, torch.tensor([text]), torch.tensor([len(text)]), TARGETS)
        assert alone.tolist() == [expected]
    found, logits = generate(_graphs(bundle), texts, limit=TARGETS, ends=frozenset([2]), chunk=64)
    assert found == tokens
    np.testing.assert_allclose(np.stack([each[0] for each in logits]), golden["first_logits"], atol=1e-4)


def test_post_norm_model_has_parity(post_norm_checkpoint: Path, tmp_path: Path) -> None:
    """The paper's own order of norm and residual is exported as truly; without texts it takes random tokens."""
    manifest = export_checkpoint(post_norm_checkpoint, tmp_path / "tiny" / "1")
    assert manifest.variants[0].parity.texts_identical == 600
