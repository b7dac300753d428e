"""An int8 variant from the export: certified by figures anyone can recompute, or refused with nothing written."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from headwaiter_export import Options, cli, errors, export_checkpoint
from headwaiter_export.bundle import read_manifest
from headwaiter_export.encoders import variants
from headwaiter_export.encoders.layout import Layout, Tokens
from headwaiter_export.progress import Progress
from headwaiter_export.quantization.bounds import Bounds, Wishes
from headwaiter_export.quantization.certificate import batch_differences
from headwaiter_export.quantization.command import int8_report
from headwaiter_export.quantization.corpus import corpus_of
from headwaiter_export.quantization.judge import Judge
from headwaiter_export.quantization.variant import Source, make_variant
from headwaiter_export.runtime import Graph
from headwaiter_proto.v1 import bundle_pb2
from tokenizers import Tokenizer

pytestmark = pytest.mark.torch

# Random weights have no outliers, and no meaning: neighbours are far from one another.
LENIENT = Bounds(mean_cosine=0.99, worst_cosine=0.9, agreement=0.5)


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random words of the tiny tokenizer."""
    generator = np.random.default_rng(0)
    lines = [
        " ".join(f"w{word}" for word in generator.integers(0, 90, length)) for length in generator.integers(2, 30, 160)
    ]
    file = tmp_path_factory.mktemp("texts") / "texts.txt"
    file.write_text("\n".join(lines))
    return file


@pytest.fixture(scope="module")
def bundle(encoder_folder: Callable[..., Path], texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT with both variants."""
    target = tmp_path_factory.mktemp("models") / "tiny" / "1"
    export_checkpoint(encoder_folder("bert"), target, Options(int8=Wishes(LENIENT, texts=texts)))
    return target


def _tokens(folder: Path, texts: list[str]) -> list[Tokens]:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return [Tokens(each.ids, each.type_ids) for each in tokenizer.encode_batch(texts)]


def test_manifest_names_the_variant(bundle: Path) -> None:
    """fp32 first; int8 with the same inputs and outputs, its own file, and both certificates."""
    fp32, int8 = read_manifest(bundle).variants
    assert [fp32.name, int8.name] == ["fp32", "int8"]
    assert int8.graphs[0].file.name == "model.int8.onnx"
    assert (bundle / "model.int8.onnx").stat().st_size == int8.graphs[0].file.size_bytes
    assert list(int8.graphs[0].inputs) == list(fp32.graphs[0].inputs)
    assert list(int8.graphs[0].outputs) == list(fp32.graphs[0].outputs)
    assert not fp32.HasField("quantization")
    assert int8.quantization.quantized_weights > 0
    assert int8.parity.tolerance == LENIENT.batch_difference
    assert max(point.batch for point in int8.parity.points) > 4
    assert all(point.max_abs_diff <= int8.parity.tolerance for point in int8.parity.points)
    assert {path.name for path in bundle.iterdir()} == {
        "golden.npz",
        "manifest.json",
        "model.int8.onnx",
        "model.onnx",
        "tokenizer.json",
    }


def test_certificate_can_be_recomputed(bundle: Path, texts: Path) -> None:
    """Cosines and nearest neighbours of the held-out half, by other means, one text at a time."""
    point = read_manifest(bundle).variants[1].quantization.points[0]
    held_out = corpus_of(texts).certifying["held-out texts"]
    assert (point.texts, point.count) == ("held-out texts", len(held_out))
    vectors = []
    for file in ("model.onnx", "model.int8.onnx"):
        graph = Graph(bundle / file)
        rows = []
        for text in _tokens(bundle, held_out):
            length = len(text.ids)
            feeds = {"input_ids": text.ids, "position_ids": range(length), "segment": [0] * length}
            feeds |= {"token_type_ids": text.types, "text_starts": [0]}
            rows.append(graph.run({name: np.array(value, np.int64) for name, value in feeds.items()})["embedding"][0])
        vectors.append(np.array(rows, np.float64))
    units = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in vectors]
    cosines = np.einsum("ij,ij->i", *units)
    nearest = [
        [
            max((other for other in range(len(unit)) if other != row), key=lambda other: unit[row] @ unit[other])
            for row in range(len(unit))
        ]
        for unit in units
    ]
    assert point.mean_cosine == pytest.approx(cosines.mean(), abs=1e-5)
    assert point.worst_cosine == pytest.approx(cosines.min(), abs=1e-4)
    agreement = np.mean([one == other for one, other in zip(*nearest, strict=True)])
    assert point.agreement == pytest.approx(agreement, abs=1.5 / len(held_out))  # a tie may go either way
    assert point.mean_cosine < 1


def test_same_checkpoint_same_bytes(
    bundle: Path, encoder_folder: Callable[..., Path], texts: Path, tmp_path: Path
) -> None:
    """The choice is made by counting, not by timing."""
    target = tmp_path / "again" / "1"
    export_checkpoint(encoder_folder("bert"), target, Options(int8=Wishes(LENIENT, texts=texts)))
    assert (target / "model.int8.onnx").read_bytes() == (bundle / "model.int8.onnx").read_bytes()


def test_below_a_bound_nothing_is_written(encoder_folder: Callable[..., Path], texts: Path, tmp_path: Path) -> None:
    """The error names the figure and the bound; no folder is left."""
    wishes = Wishes(dataclasses.replace(LENIENT, mean_cosine=1.0), texts=texts)
    with pytest.raises(
        errors.BelowBoundError, match=r"mean_cosine on held-out texts is 0\.9\d+; at least 1 is asked for"
    ):
        export_checkpoint(encoder_folder("bert"), tmp_path / "m" / "1", Options(int8=wishes))
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        (Bounds(mean_cosine=1.0), "mean_cosine on held-out texts"),
        (Bounds(None, 1.0), "worst_cosine on held-out texts"),
        (Bounds(None, None, 1.01), "agreement on held-out texts"),
        (dataclasses.replace(LENIENT, batch_difference=-1.0), r"differs by .* alone and in a batch"),
        (dataclasses.replace(LENIENT, speedup=1000.0), r"speedup is .*; at least 1000 is asked for"),
    ],
)
def test_every_figure_is_held_to_its_bound(bounds: Bounds, message: str, bundle: Path) -> None:
    """Each by name; what is None is not enforced, and a NaN is below everything."""
    certificate = read_manifest(bundle).variants[1].quantization
    with pytest.raises(errors.BelowBoundError, match=message):
        bounds.check(certificate)
    LENIENT.check(certificate)
    Bounds(None, None, None, None, None).check(certificate)
    certificate.points[1].max_batch_diff = math.nan
    with pytest.raises(errors.BelowBoundError, match="another domain"):
        LENIENT.check(certificate)


@pytest.mark.parametrize(
    ("head", "graph"),
    [
        ("AutoModelForSequenceClassification", "padded"),
        ("AutoModelForTokenClassification", "packed"),
        ("AutoModelForTokenClassification", "padded"),
    ],
)
def test_other_tasks_and_layouts(
    head: str, graph: str, encoder_folder: Callable[..., Path], texts: Path, tmp_path: Path
) -> None:
    """Classifiers and taggers, packed and padded: certified on their labels, no feeling for batch-mates."""
    folder = encoder_folder("distilbert", head, num_labels=3)
    manifest = export_checkpoint(folder, tmp_path / "m" / "1", Options(graph=graph, int8=Wishes(LENIENT, texts=texts)))
    certificate = manifest.variants[1].quantization
    assert all(point.max_batch_diff <= 1e-4 and point.agreement > 0.7 for point in certificate.points)


def test_reranker_reads_pairs(
    encoder_folder: Callable[..., Path], texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One score a text: its probability has to stay near, and the order of scores. Each text comes after another."""
    read: list[list[Tokens]] = []

    def watched(source: Source, wishes: Wishes, progress: Progress) -> bundle_pb2.Variant:
        read.append(source.read(["w1 w2", "w3"]))
        return make_variant(source, wishes, progress)

    monkeypatch.setattr(variants, "make_variant", watched)
    folder = encoder_folder("bert", "AutoModelForSequenceClassification", num_labels=1)
    options = Options(task="rerank", int8=Wishes(LENIENT, weight_bits=7, texts=texts))
    certificate = export_checkpoint(folder, tmp_path / "m" / "1", options).variants[1].quantization
    assert certificate.scheme == "int7 weights per column, int8 activations per token"
    assert certificate.max_run_tokens == 256
    assert all(point.agreement > 0.8 for point in certificate.points)
    assert [tokens.types for tokens in read[0]] == [[0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 1, 1]]


def test_other_models_have_none(stand_in: Callable[..., Path], tmp_path: Path) -> None:
    """Asked for and not to be had is an error, not a bundle without it."""
    with pytest.raises(errors.NothingToQuantizeError, match="have no int8 variant"):
        export_checkpoint(stand_in(), tmp_path / "m" / "1", Options(int8=Wishes()))
    assert not (tmp_path / "m").exists()


def test_command_ends_below_a_bound(encoder_folder: Callable[..., Path], texts: Path, tmp_path: Path) -> None:
    """With the reason, exit code 1 and nothing written."""
    arguments = [str(encoder_folder("bert")), "--out", str(tmp_path / "m" / "1"), "--int8", "--int8-texts", str(texts)]
    loose = ["--int8-mean-cosine", "0.9", "--int8-worst-cosine", "0.5", "--int8-agreement", "0.1"]
    refused = CliRunner().invoke(cli.command, [*arguments, *loose, "--int8-speedup", "500"])
    assert refused.exit_code == 1
    assert "speedup" in refused.stderr
    assert not (tmp_path / "m").exists()


def test_report_tells_the_worst_of_all_sets(bundle: Path) -> None:
    """What the command prints of a variant; nothing of a bundle without one."""
    manifest = read_manifest(bundle)
    points = manifest.variants[1].quantization.points
    report = int8_report(manifest)
    assert report["int8_worst_cosine"] == min(point.worst_cosine for point in points)
    assert report["int8_batch_difference"] == max(point.max_batch_diff for point in points)
    del manifest.variants[1:]
    assert int8_report(manifest) == {}


def test_batch_differences_are_seen(bundle: Path, texts: Path, tmp_path: Path) -> None:
    """A graph that looks at its batch-mates, be it by a sum over all tokens, is found out."""
    model = onnx.load(bundle / "model.onnx")
    norm = next(node for node in model.graph.node if node.op_type == "LayerNormalization")
    kept, norm.output[0] = norm.output[0], "normed"
    at = next(at for at, node in enumerate(model.graph.node) if node.output[0] == "normed")
    leak = [
        onnx.helper.make_node("ReduceMean", ["normed"], ["mean"], keepdims=0),
        onnx.helper.make_node("Add", ["normed", "mean"], [kept]),
    ]
    nodes = [*model.graph.node[: at + 1], *leak, *model.graph.node[at + 1 :]]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    onnx.save(model, tmp_path / "leaking.onnx")
    judge = Judge(bundle_pb2.TASK_EMBED, Layout(bundle_pb2.GRAPH_KIND_PACKED, token_types=True, pad_id=0))
    rows = _tokens(bundle, corpus_of(texts).choosing)
    worst = [
        max(point.max_abs_diff for point in batch_differences(judge, Graph(path), rows))
        for path in (tmp_path / "leaking.onnx", bundle / "model.int8.onnx")
    ]
    assert worst[0] > 1e-3
    assert worst[1] < 1e-5
