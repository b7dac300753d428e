"""The certificate says what was compared, and nothing out of tolerance is written."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from headwaiter_export import Options, errors, export_checkpoint, transformer_recipe
from headwaiter_export.bundle import read_manifest
from headwaiter_export.parity import BATCHES, LENGTHS, Shape, certify, compare, grid
from headwaiter_export.progress import Silent
from headwaiter_export.runtime import Decoder, Graph, encode
from headwaiter_export.spec import GraphSpec
from headwaiter_export.texts import Texts
from headwaiter_export.transformer import greedy_decode, load_checkpoint
from headwaiter_export.transformer_recipe import compare_tokens
from headwaiter_proto.v1 import bundle_pb2
from numpy.typing import NDArray

pytestmark = pytest.mark.torch


def test_certificate_covers_the_grid(bundle: Path) -> None:
    """Every batch and length stands in the certificate, padded where rows can differ, within tolerance."""
    parity = read_manifest(bundle).variants[0].parity
    tried = {(point.batch, point.length, point.padded) for point in parity.points}
    assert tried == {(shape.batch, shape.length, shape.padded) for shape in grid(32)}
    assert {(batch, length, False) for batch in BATCHES for length in LENGTHS} <= tried
    assert {(batch, length, True) for batch in BATCHES[1:] for length in LENGTHS[1:]} <= tried
    assert all(point.steps >= 4 for point in parity.points)
    assert max(point.max_abs_diff for point in parity.points) <= parity.tolerance == 1e-4


def test_grid_leaves_out_what_the_model_cannot_read() -> None:
    """No shape is longer than the model's limit."""
    assert {shape.length for shape in grid(9)} == {1, 2, 9}


def test_texts_are_identical(bundle: Path) -> None:
    """500 texts were decoded to the same tokens."""
    parity = read_manifest(bundle).variants[0].parity
    assert parity.texts_compared == parity.texts_identical == 500


def _graphs(folder: Path) -> tuple[Graph, Graph]:
    return Graph(folder / "encoder.onnx"), Graph(folder / "decoder_step.onnx")


@pytest.mark.parametrize(
    "name", ["decoder.layers.1.cross_attention.value_projection.bias", "embedding.embedding.weight"]
)
def test_one_different_weight_is_seen(checkpoint: Path, bundle: Path, name: str) -> None:
    """A weight that differs between PyTorch and the graphs exceeds the tolerance, naming shape and difference."""
    model = load_checkpoint(checkpoint).model
    with torch.no_grad():
        model.get_parameter(name).view(-1)[5] += 0.5
    shapes = [Shape(32, 30, padded=True)]
    encoder, step = _graphs(bundle)
    with pytest.raises(
        errors.ToleranceExceededError,
        match=r"differ by \d\.\d+, more than the tolerance 0\.0001, at batch 32, rows of different lengths up to 30",
    ):
        list(certify(shapes, 1e-4, lambda shape: compare(model, encoder, step, shape)))


def test_nan_is_out_of_tolerance() -> None:
    """A difference that is not a number is refused."""
    with pytest.raises(errors.ToleranceExceededError, match="differ by nan"):
        list(certify(grid(1), 1.0, lambda _: bundle_pb2.ParityPoint(max_abs_diff=float("nan"))))


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
    model = load_checkpoint(checkpoint).model
    with torch.no_grad():
        model.embedding.embedding.weight.neg_()
    decoder = Decoder(*_graphs(bundle), bos_id=1, eos_id=2, pad_id=0)
    texts = Texts([[5, 6, 7, 2]], ["'bcd'"], "texts")
    with pytest.raises(errors.TokensDifferError, match=r"'bcd' gives \[.*\] on onnxruntime, \[.*\] on PyTorch"):
        compare_tokens(model, decoder, texts, Silent())


def test_unused_columns_and_batch_mates_change_nothing(bundle: Path) -> None:
    """A row's logits are the same alone and beside others, whatever stands in columns that do not count."""
    _, step = _graphs(bundle)
    generator = np.random.default_rng(1)

    def cache(width: int) -> NDArray[np.float32]:
        return generator.standard_normal((3, 4, width, 8)).astype(np.float32)

    names = [f"{side}_{kind}_{layer}" for layer in (0, 1) for side in ("self", "cross") for kind in ("key", "value")]
    feeds = {name: cache(6) for name in names}
    whole = {"token": np.array([5, 6, 7]), "position": np.array([0, 2, 5]), "source_lengths": np.array([1, 6, 3])}
    together = step.run(whole | feeds)["logits"]
    for row in range(3):
        spoiled = {name: value[row : row + 1].copy() for name, value in feeds.items()}
        for name, value in spoiled.items():
            value[:, :, whole["position" if "self" in name else "source_lengths"][row] :] = -3e6
        alone = step.run({name: value[row : row + 1] for name, value in whole.items()} | spoiled)["logits"]
        np.testing.assert_allclose(alone[0], together[row], atol=1e-5)


def test_golden_is_what_pytorch_gives(checkpoint: Path, bundle: Path) -> None:
    """The golden file holds PyTorch's tokens, and onnxruntime gives its first logits."""
    golden = np.load(bundle / "golden.npz", allow_pickle=False)
    source, lengths = golden["source_ids"], golden["source_lengths"]
    assert {name: (golden[name].dtype.name, golden[name].shape[:1]) for name in golden.files} == {
        "source_ids": ("int64", (16,)),
        "source_lengths": ("int64", (16,)),
        "tokens": ("int64", (16,)),
        "first_logits": ("float32", (16,)),
        "pad_id": ("int64", ()),
    }
    assert all((row[length:] == golden["pad_id"]).all() for row, length in zip(source, lengths, strict=True))
    model = load_checkpoint(checkpoint).model
    expected = greedy_decode(model, torch.from_numpy(source), torch.from_numpy(lengths), 12)
    assert golden["tokens"].tolist() == expected.tolist()
    encoder, step = _graphs(bundle)
    empty = {
        f"self_{kind}_{layer}": np.zeros((16, 4, 1, 8), np.float32) for layer in (0, 1) for kind in ("key", "value")
    }
    where = {"token": np.full(16, 1), "position": np.zeros(16, np.int64), "source_lengths": lengths}
    found = step.run(where | empty | encode(encoder, source, lengths))
    np.testing.assert_allclose(found["logits"], golden["first_logits"], atol=1e-4)


def test_post_norm_model_has_parity(post_norm_checkpoint: Path, tmp_path: Path) -> None:
    """The paper's own order of norm and residual is exported as truly; without texts it takes random tokens."""
    manifest = export_checkpoint(post_norm_checkpoint, tmp_path / "tiny" / "1")
    assert manifest.variants[0].parity.texts_identical == 500
