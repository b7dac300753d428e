"""What is in the bundle of an encoder: graph, golden answers, manifest, words of the command."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import transformers
from click.testing import CliRunner
from headwaiter_export import Options, export_checkpoint
from headwaiter_export.bundle import read_manifest
from headwaiter_export.cli import command
from headwaiter_export.encoders.pooling import Packed, Padded
from headwaiter_proto.v1 import bundle_pb2
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer

pytestmark = pytest.mark.torch

POOLINGS = ("cls", "max", "mean", "mean_sqrt_len", "weightedmean", "lasttoken")


def _pooled(name: str, hidden: NDArray[Any]) -> NDArray[Any]:
    """One text's token vectors to one vector, in the words of sentence-transformers' documentation."""
    weights = np.arange(1, len(hidden) + 1)[:, None]
    pooled: NDArray[Any] = {
        "cls": hidden[0],
        "max": hidden.max(0),
        "mean": hidden.mean(0),
        "mean_sqrt_len": hidden.sum(0) / np.sqrt(len(hidden)),
        "weightedmean": (hidden * weights).sum(0) / weights.sum(),
        "lasttoken": hidden[-1],
    }[name]
    return pooled


@pytest.mark.parametrize("name", POOLINGS)
def test_pooling_sees_one_text_at_a_time(name: str) -> None:
    """Packed and padded, a text's vector is made of its own tokens only."""
    generator = np.random.default_rng(0)
    rows = [generator.standard_normal((length, 4), np.float32) - 3 for length in (3, 1, 5)]
    lengths = torch.tensor([len(row) for row in rows])
    packed = Packed(
        hidden=torch.from_numpy(np.concatenate(rows)),
        position_ids=torch.cat([torch.arange(length) for length in lengths]),
        segment=torch.repeat_interleave(torch.arange(3), lengths),
        text_starts=torch.cumsum(lengths, 0) - lengths,
    )
    hidden = torch.full((3, 5, 4), 99.0)  # padding that would show
    for at, row in enumerate(rows):
        hidden[at, : len(row)] = torch.from_numpy(row)
    padded = Padded(hidden, (torch.arange(5) < lengths[:, None]).to(torch.int64))
    wanted = np.stack([_pooled(name, row) for row in rows])
    np.testing.assert_allclose(packed.pooled(name).numpy(), wanted, atol=1e-5)
    np.testing.assert_allclose(padded.pooled(name).numpy(), wanted, atol=1e-5)


@pytest.fixture(scope="module")
def sentence_folder(encoder_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentence-transformers folder with everything: its Transformer apart, all poolings, a dense layer, prompts."""
    folder = tmp_path_factory.mktemp("sentence")
    shutil.copytree(encoder_folder("bert"), folder / "0_Transformer")
    kinds = {"0_Transformer": "Transformer", "1_Pooling": "Pooling", "2_Dense": "Dense", "3_Normalize": "Normalize"}
    rows = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in kinds.items()]
    (folder / "modules.json").write_text(json.dumps(rows))
    for path in ("1_Pooling", "2_Dense"):
        (folder / path).mkdir()
    flags = {"cls_token": "cls", "mean_tokens": "mean", "max_tokens": "max", "mean_sqrt_len_tokens": "mean_sqrt_len"}
    flags |= {"weightedmean_tokens": "weightedmean", "lasttoken": "lasttoken"}
    config = {f"pooling_mode_{flag}": True for flag in flags}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(config))
    sizes = {
        "in_features": 96,
        "out_features": 5,
        "bias": True,
        "activation_function": "torch.nn.modules.activation.Tanh",
    }
    (folder / "2_Dense" / "config.json").write_text(json.dumps(sizes))
    generator = np.random.default_rng(0)
    weights: dict[str, NDArray[Any]] = {
        "linear.weight": generator.standard_normal((5, 96), np.float32) / 9,
        "linear.bias": generator.standard_normal(5, np.float32),
    }
    save_file(weights, folder / "2_Dense" / "model.safetensors")
    prompts = {"prompts": {"query": "w1 w2 "}, "default_prompt_name": None}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 24}))
    (folder / "sample_texts.txt").write_text("\n".join("w3 w5 w7 w9 w11 w13 w15"[: 2 + 3 * n] for n in range(1, 8)))
    return folder


def _run(bundle: Path, feeds: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    session = onnxruntime.InferenceSession(bundle / "model.onnx", providers=["CPUExecutionProvider"])
    wanted = {value.name for value in session.get_inputs()}
    assert wanted <= set(feeds)
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(None, {name: feeds[name] for name in wanted}), strict=True))


def _golden(bundle: Path) -> dict[str, NDArray[Any]]:
    """A bundle's golden arrays."""
    with np.load(bundle / "golden.npz", allow_pickle=False) as stored:
        return dict(stored)


def _golden_feeds(golden: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Feeds of both kinds of graph from the golden arrays, by the words of the contract."""
    lengths, ids = golden["lengths"], golden["input_ids"]
    real = np.arange(ids.shape[1]) < lengths[:, None]
    return {
        "packed.input_ids": ids[real],
        "packed.token_type_ids": golden["token_type_ids"][real],
        "position_ids": np.broadcast_to(np.arange(ids.shape[1]), ids.shape)[real],
        "segment": np.repeat(np.arange(len(ids)), lengths),
        "text_starts": np.cumsum(lengths) - lengths,
        "padded.input_ids": ids,
        "padded.token_type_ids": golden["token_type_ids"],
        "attention_mask": real.astype(np.int64),
    }


@pytest.mark.parametrize("kind", ["packed", "padded"])
def test_sentence_transformer(sentence_folder: Path, tmp_path: Path, kind: str) -> None:
    """Poolings end to end, dense layer, normalisation, prompts and limits all come into the bundle."""
    bundle = tmp_path / "m" / "1"
    manifest = export_checkpoint(sentence_folder, bundle, Options(graph=kind))
    assert manifest.graph_kind == bundle_pb2.GraphKind.Value(f"GRAPH_KIND_{kind.upper()}")
    assert manifest.limits.max_source_tokens == 24
    assert manifest.embedding == bundle_pb2.Embedding(dimension=5, normalized=True, prompts={"query": "w1 w2 "})

    tokenizer = Tokenizer.from_file(str(bundle / "tokenizer.json"))
    model = transformers.AutoModel.from_pretrained(sentence_folder / "0_Transformer").eval()
    stored = _golden(bundle)
    feeds = _golden_feeds(stored)
    answers = _run(bundle, {name.removeprefix(f"{kind}."): array for name, array in feeds.items()})
    dense = load_file(sentence_folder / "2_Dense" / "model.safetensors")
    assert len(stored["texts"]) == 7
    for at, text in enumerate(stored["texts"]):
        ids = tokenizer.encode(str(text)).ids
        with torch.no_grad():
            hidden = model(input_ids=torch.tensor([ids]))[0][0].numpy()
        vector = np.concatenate([_pooled(name, hidden) for name in POOLINGS])
        wanted = np.tanh(dense["linear.weight"] @ vector + dense["linear.bias"])
        for found in (answers["embedding"][at], stored["embedding"][at]):
            np.testing.assert_allclose(found, wanted, atol=1e-5)
        for found in (answers["unit_embedding"][at], stored["unit_embedding"][at]):
            np.testing.assert_allclose(found, wanted / np.linalg.norm(wanted), atol=1e-5)


def test_golden_answers_of_a_tagger(encoder_folder: Callable[..., Path], tmp_path: Path) -> None:
    """A tagger's golden rows are filled up to the longest with padding and zeros."""
    bundle = tmp_path / "m" / "1"
    export_checkpoint(encoder_folder("roberta", "AutoModelForTokenClassification", num_labels=3), bundle)
    golden = _golden(bundle)
    lengths, longest = golden["lengths"], golden["lengths"].max()
    assert golden["input_ids"].shape == (16, longest)
    assert len(set(lengths)) > 4
    assert golden["texts"].shape == (16,)
    beyond = np.arange(longest) >= lengths[:, None]
    assert (golden["input_ids"][beyond] == 1).all()
    assert golden["probabilities"].shape == (16, longest, 3)
    assert not golden["scores"][beyond].any()
    np.testing.assert_allclose(golden["probabilities"][~beyond].sum(-1), 1, atol=1e-5)


def test_several_labels_may_hold(encoder_folder: Callable[..., Path], tmp_path: Path) -> None:
    """Independent labels have sigmoids, padded too, and the manifest says so."""
    head = "AutoModelForSequenceClassification"
    more = {"id2label": {0: "good", 1: "long"}, "label2id": {"good": 0, "long": 1}}
    folder = encoder_folder("electra", head, problem_type="multi_label_classification", **more)
    bundle = tmp_path / "m" / "1"
    manifest = export_checkpoint(folder, bundle, Options(graph="padded"))
    assert manifest.multi_label
    assert list(manifest.labels) == ["good", "long"]
    golden = _golden(bundle)
    feeds = {name.removeprefix("padded."): array for name, array in _golden_feeds(golden).items()}
    answers = _run(bundle, feeds)
    np.testing.assert_allclose(answers["probabilities"], 1 / (1 + np.exp(-golden["scores"])), atol=1e-5)


@pytest.fixture(scope="module")
def minilm(minilm_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of the real model, through the command."""
    bundle = tmp_path_factory.mktemp("models") / "minilm" / "1"
    command = [sys.executable, "-m", "headwaiter_export.cli", str(minilm_folder), "--out", str(bundle)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=True)
    (bundle.parent / "stdout").write_text(done.stdout)
    (bundle.parent / "stderr").write_text(done.stderr)
    return bundle


def test_real_weights(minilm: Path, minilm_folder: Path) -> None:
    """Sentences of MiniLM, all in one run, have the vectors that the published model gives each alone."""
    manifest = read_manifest(minilm)
    assert manifest.graph_kind == bundle_pb2.GRAPH_KIND_PACKED
    assert manifest.embedding.normalized
    assert max(point.max_abs_diff for point in manifest.variants[0].parity.points) <= 1e-5
    assert {point.batch for point in manifest.variants[0].parity.points} >= {1, 2, 16}
    assert {point.length for point in manifest.variants[0].parity.points} >= {1, 128}
    # The limit of its tokenizer.json, though others in the folder allow more.
    assert manifest.limits.max_source_tokens == 128
    assert any("max_seq_length is 256" in remark for remark in manifest.remarks)

    golden = _golden(minilm)
    feeds = {name.removeprefix("packed."): array for name, array in _golden_feeds(golden).items()}
    answers = _run(minilm, feeds)["unit_embedding"]
    tokenizer = Tokenizer.from_file(str(minilm / "tokenizer.json"))
    model = transformers.AutoModel.from_pretrained(minilm_folder).eval()
    for answer, text in zip(answers, golden["texts"], strict=True):
        with torch.no_grad():
            mean = model(input_ids=torch.tensor([tokenizer.encode(str(text)).ids]))[0][0].mean(0)
        unit = (mean / mean.norm()).numpy()
        np.testing.assert_allclose(answer, unit, atol=1e-5)
        assert answer @ unit == pytest.approx(1.0, abs=1e-6)


def test_real_graph_is_lean(minilm: Path) -> None:
    """Four linear layers a block, each by a constant matrix and with matrices for activations; nothing twice."""
    model = onnx.load(minilm / "model.onnx")
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    shapes = {value.name: value.type.tensor_type.shape.dim for value in model.graph.value_info}
    linear = [node for node in model.graph.node if node.op_type == "MatMul" and node.input[1] in stored]
    assert len(linear) == 4 * 6
    for node in linear:
        weight = stored[node.input[1]]
        assert (weight.data_type, len(weight.dims)) == (onnx.TensorProto.FLOAT, 2)
        assert [axis.dim_param for axis in shapes[node.output[0]]] == ["tokens", ""]
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("LayerNormalization") == 13
    assert kinds.count("Gelu") == 6
    assert kinds.count("Where") == 1
    assert "Mul" not in kinds
    assert "Identity" not in kinds
    assert len(kinds) <= 180
    assert b"/headwaiter_export/" not in (minilm / "model.onnx").read_bytes()


@pytest.mark.parametrize("kind", ["packed", "padded"])
def test_command_is_told_which_graph(encoder_folder: Callable[..., Path], tmp_path: Path, kind: str) -> None:
    """`--graph` decides, the command says that it does, and the graph takes what that kind takes."""
    bundle = tmp_path / "m" / "1"
    arguments = [str(encoder_folder("distilbert")), "--out", str(bundle), "--graph", kind]
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 0, result.output
    assert f"the graph is {kind}: as was asked for" in result.stdout
    assert bundle_pb2.GraphKind.Name(read_manifest(bundle).graph_kind) == f"GRAPH_KIND_{kind.upper()}"
    session = onnxruntime.InferenceSession(bundle / "model.onnx", providers=["CPUExecutionProvider"])
    others = {"packed": {"position_ids", "segment", "text_starts"}, "padded": {"attention_mask"}}
    assert {value.name for value in session.get_inputs()} == {"input_ids", *others[kind]}


def test_command_says_which_graph_and_why(minilm: Path) -> None:
    """The command prints kind and reason, and nothing of what its tools say about themselves."""
    stdout, stderr = ((minilm.parent / name).read_text() for name in ("stdout", "stderr"))
    assert "the graph is packed: bert models answer the same packed as alone" in stdout
    assert "texts have at most 128 tokens" in stdout
    assert "tolerance 1e-05" in stdout
    assert "texts identical" not in stdout
    assert [line.partition(" (")[0] for line in stderr.splitlines()] == [
        "load",
        "reference",
        "packed graph",
        "parity",
        "the graph is packed: bert models answer the same packed as alone",
        "write",
    ]
