"""Every family's packed graph answers each text as the unmodified model does, alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import transformers
from headwaiter_export import Options, errors, export_checkpoint
from headwaiter_export.encoders.packed import PackedGraph
from headwaiter_proto.v1 import bundle_pb2
from numpy.typing import NDArray

pytestmark = pytest.mark.torch

LENGTHS = (7, 1, 40, 3, 23, 2)


def _rows(pad_id: int) -> list[list[int]]:
    """Random texts, without special tokens: those would change RoBERTa's positions."""
    generator = np.random.default_rng(1)
    return [generator.integers(pad_id + 4, 96, length).tolist() for length in LENGTHS]


def _packed(bundle: Path, rows: list[list[int]], token_types: list[list[int]] | None) -> dict[str, NDArray[Any]]:
    """One run of all rows, by the words of the contract."""
    lengths = [len(row) for row in rows]
    feeds = {
        "input_ids": np.concatenate(rows),
        "position_ids": np.concatenate([np.arange(length) for length in lengths]),
        "segment": np.repeat(np.arange(len(rows)), lengths),
        "text_starts": np.cumsum([0, *lengths[:-1]]),
    }
    if token_types is not None:
        feeds["token_type_ids"] = np.concatenate(token_types)
    session = onnxruntime.InferenceSession(bundle / "model.onnx", providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(None, feeds), strict=True))


def _types(rows: list[list[int]]) -> list[list[int]]:
    return [[0] * (len(row) // 2) + [1] * (len(row) - len(row) // 2) for row in rows]


@pytest.mark.parametrize(
    ("family", "has_types"),
    [
        ("bert", True),
        ("roberta", False),
        ("xlm-roberta", False),
        ("distilbert", False),
        ("electra", True),
        ("mpnet", False),
        ("modernbert", False),
    ],
)
def test_family_is_packed(encoder_folder: Callable[..., Path], tmp_path: Path, family: str, *, has_types: bool) -> None:
    """Token vectors, averaged, are the model's own for every length, in one run of all texts."""
    folder = encoder_folder(family)
    manifest = export_checkpoint(folder, tmp_path / "m" / "1")
    assert manifest.graph_kind == bundle_pb2.GRAPH_KIND_PACKED
    assert manifest.architecture == family
    assert manifest.limits.max_source_tokens == 40
    assert manifest.remarks[0].startswith("the graph is packed")
    inputs = [tensor.name for tensor in manifest.variants[0].graphs[0].inputs]
    assert ("token_type_ids" in inputs) == has_types

    model = transformers.AutoModel.from_pretrained(folder).eval()
    rows = _rows(model.config.pad_token_id)
    types = _types(rows) if has_types else None
    answers = _packed(tmp_path / "m" / "1", rows, types)
    for at, row in enumerate(rows):
        more = {"token_type_ids": torch.tensor([types[at]])} if types else {}
        with torch.no_grad():
            mean = model(input_ids=torch.tensor([row]), **more)[0][0].mean(0)
        np.testing.assert_allclose(answers["embedding"][at], mean.numpy(), atol=1e-5)
        np.testing.assert_allclose(answers["unit_embedding"][at], (mean / mean.norm()).numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("family", "head", "task", "more"),
    [
        ("bert", "AutoModelForSequenceClassification", "classify", {"num_labels": 3}),
        ("distilbert", "AutoModelForSequenceClassification", "classify", {"num_labels": 2}),
        (
            "modernbert",
            "AutoModelForSequenceClassification",
            "classify",
            {"num_labels": 3, "classifier_pooling": "mean"},
        ),
        ("mpnet", "AutoModelForSequenceClassification", "rerank", {"num_labels": 1}),
        ("electra", "AutoModelForTokenClassification", "tag", {"num_labels": 5}),
    ],
)
def test_head_is_packed(
    encoder_folder: Callable[..., Path], tmp_path: Path, family: str, head: str, task: str, more: dict[str, object]
) -> None:
    """Scores and probabilities of every text, or token, are those of the whole model."""
    folder = encoder_folder(family, head, **more)
    manifest = export_checkpoint(folder, tmp_path / "m" / "1")
    assert manifest.graph_kind == bundle_pb2.GRAPH_KIND_PACKED
    assert manifest.task == bundle_pb2.Task.Value(f"TASK_{task.upper()}")
    assert list(manifest.labels) == [f"LABEL_{label}" for label in range(int(str(more["num_labels"])))]

    model = getattr(transformers, head).from_pretrained(folder).eval()
    rows = _rows(model.config.pad_token_id)
    types = _types(rows) if family in ("bert", "electra") else None
    answers = _packed(tmp_path / "m" / "1", rows, types)
    starts = np.cumsum([0, *LENGTHS])
    for at, row in enumerate(rows):
        more_inputs = {"token_type_ids": torch.tensor([types[at]])} if types else {}
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([row]), **more_inputs).logits[0]
        wanted = torch.sigmoid(logits[0]) if task == "rerank" else torch.softmax(logits, -1)
        here = slice(starts[at], starts[at + 1]) if task == "tag" else at
        np.testing.assert_allclose(answers["probabilities"][here], wanted.numpy(), atol=1e-5)
        scores = logits[0] if task == "rerank" else logits
        np.testing.assert_allclose(answers["scores"][here], scores.numpy(), atol=1e-4)


_MASK = PackedGraph._mask


def _mixed_up(graph: PackedGraph, positions: torch.Tensor, segment: torch.Tensor) -> Any:  # noqa: ANN401 - as it takes
    """A mask that lets every token see its neighbours' texts, as if all were one."""
    return _MASK(graph, positions, torch.zeros_like(segment))


@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta", "distilbert", "electra", "modernbert"])
def test_required_family_does_not_fall_back(
    encoder_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    """A packed graph of it in which texts see one another is an error, not a padded bundle."""
    monkeypatch.setattr(PackedGraph, "_mask", _mixed_up)
    with pytest.raises(errors.ToleranceExceededError, match="a batch of 16 texts"):
        export_checkpoint(encoder_folder(family), tmp_path / "m" / "1")
    assert not (tmp_path / "m").exists()


def test_unknown_family_is_packed_where_it_can_be(encoder_folder: Callable[..., Path], tmp_path: Path) -> None:
    """ALBERT is nowhere named here, and its token vectors pass the gate packed."""
    manifest = export_checkpoint(encoder_folder("albert"), tmp_path / "m" / "1")
    assert manifest.graph_kind == bundle_pb2.GRAPH_KIND_PACKED


def test_unknown_family_falls_back(
    encoder_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the gate refuses the packed graph of another family, it is padded, and says why; forced, it is an error."""
    folder = encoder_folder("albert")
    monkeypatch.setattr(PackedGraph, "_mask", _mixed_up)
    manifest = export_checkpoint(folder, tmp_path / "m" / "1")
    assert manifest.graph_kind == bundle_pb2.GRAPH_KIND_PADDED
    assert manifest.remarks[0].startswith("the graph is padded: this albert model cannot be packed: PyTorch and onnx")
    with pytest.raises(errors.ToleranceExceededError):
        export_checkpoint(folder, tmp_path / "n" / "1", Options(graph="packed"))
