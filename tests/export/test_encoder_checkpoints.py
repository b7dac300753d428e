"""Encoder folders are read as their makers meant them, or refused for a plain reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from headwaiter_export import ExportError, Options, errors, export_checkpoint
from headwaiter_export.encoders.checkpoint import read_checkpoint, resolve
from headwaiter_export.encoders.lengths import max_length
from headwaiter_export.encoders.sentence import read_sentence
from headwaiter_proto.v1 import bundle_pb2
from safetensors.numpy import save_file

pytestmark = pytest.mark.torch


class Tripwire:
    """An object whose pickle, where somebody loads it, makes a file."""

    def __init__(self, trace: Path) -> None:
        self._trace = trace

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (self._trace,)


def _write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def _change(path: Path, **fields: object) -> None:
    _write(path, json.loads(path.read_text()) | fields)


def _refused(source: Path, options: Options | None = None) -> ExportError:
    target = source.parent / "name" / "1"
    with pytest.raises(ExportError) as caught:
        export_checkpoint(source, target, options)
    assert not target.parent.exists()
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pth", "last.ckpt", "model.pkl"])
def test_pickled_weights_are_refused(own_encoder: Path, name: str) -> None:
    """A folder with pickled weights only is refused: they would run code; the way to convert them is told."""
    (own_encoder / "model.safetensors").unlink()
    torch.save(Tripwire(own_encoder / "loaded"), own_encoder / name)
    error = _refused(own_encoder)
    assert isinstance(error, errors.CheckpointError)
    assert f"{name} is a pickle: loading it would run whatever code it carries" in str(error)
    assert "save_pretrained" in str(error)
    assert not (own_encoder / "loaded").exists()


@pytest.mark.parametrize("name", ["model.pt", "pytorch_model.bin"])
def test_pickled_file_in_place_of_a_folder_is_refused(tmp_path: Path, name: str) -> None:
    """Whoever points at the pickle itself is told the same, not that it is no folder."""
    torch.save(Tripwire(tmp_path / "loaded"), tmp_path / name)
    error = _refused(tmp_path / name)
    assert f"{name} is a pickle: loading it would run whatever code it carries" in str(error)
    assert not (tmp_path / "loaded").exists()


def test_pickle_beside_safetensors_is_not_touched(own_encoder: Path) -> None:
    """Where both are there, the pickle is left alone."""
    (own_encoder / "pytorch_model.bin").write_bytes(b"no pickle at all")
    assert read_checkpoint(own_encoder, Options()).architecture == "bert"


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("content", [None, b"", b"[]"])
def test_missing_or_corrupt_file_is_named(own_encoder: Path, name: str, content: bytes | None) -> None:
    """Each file that is missing or holds something else is named or its folder is."""
    if content is None:
        (own_encoder / name).unlink()
    else:
        (own_encoder / name).write_bytes(content)
    error = _refused(own_encoder)
    kind = errors.MissingCheckpointError if content is None else errors.CorruptCheckpointError
    assert isinstance(error, kind)
    assert str(own_encoder) in str(error)


def test_weights_of_another_model_are_refused(own_encoder: Path) -> None:
    """Weights that lack a part of the model are refused, naming it, instead of being made up."""
    save_file({"embeddings.LayerNorm.weight": np.ones(16, np.float32)}, own_encoder / "model.safetensors")
    error = _refused(own_encoder)
    assert isinstance(error, errors.CorruptCheckpointError)
    assert "the weights lack" in str(error)


def test_code_in_the_checkpoint_is_never_run(own_encoder: Path) -> None:
    """A model whose code is in the folder is refused, and the code stays where it is."""
    (own_encoder / "modeling.py").write_text("raise SystemExit('was run')\n")
    auto_map = {"AutoConfig": "modeling.Config", "AutoModel": "modeling.Model"}
    _write(own_encoder / "config.json", {"model_type": "own-bert", "auto_map": auto_map})
    error = _refused(own_encoder)
    assert isinstance(error, errors.UnknownArchitectureError)
    assert "it is never run" in str(error)


def test_task_without_a_head_is_refused(own_encoder: Path) -> None:
    """A bare encoder classifies nothing, and an encoder-decoder is no encoder."""
    error = _refused(own_encoder, Options(task="classify"))
    assert isinstance(error, errors.UnknownArchitectureError)
    assert "there is no head to classify with" in str(error)
    assert "no task 'generate'" in str(_refused(own_encoder, Options(task="generate")))


def _config(architecture: str, labels: int = 2, **more: object) -> SimpleNamespace:
    fields = {
        "architectures": [architecture],
        "num_labels": labels,
        "id2label": {label: f"label {label}" for label in range(labels)},
        "problem_type": None,
        "is_encoder_decoder": False,
        "model_type": "bert",
    }
    return SimpleNamespace(**(fields | more))


@pytest.mark.parametrize(
    ("architecture", "labels", "task"),
    [
        ("BertModel", 2, "EMBED"),
        ("BertForMaskedLM", 2, "EMBED"),
        ("BertForSequenceClassification", 2, "CLASSIFY"),
        ("BertForSequenceClassification", 1, "RERANK"),
        ("BertForTokenClassification", 9, "TAG"),
    ],
)
def test_task_is_the_checkpoints_own(architecture: str, labels: int, task: str) -> None:
    """Without a choice, it is the task of the head that is there."""
    assert resolve("auto", _config(architecture, labels), None).task == bundle_pb2.Task.Value(f"TASK_{task}")


def test_labels_come_in_the_order_of_the_outputs() -> None:
    """Labels are id2label's, and several may hold where the problem says so."""
    answer = resolve(
        "auto", _config("BertForSequenceClassification", 3, problem_type="multi_label_classification"), None
    )
    assert answer.labels == ("label 0", "label 1", "label 2")
    assert answer.multi_label
    assert not resolve("auto", _config("BertForSequenceClassification", 3), None).multi_label


@pytest.mark.parametrize(
    ("task", "config", "message"),
    [
        ("rerank", _config("BertForSequenceClassification", 3), "has one label, this one has 3"),
        ("tag", _config("BertForSequenceClassification"), "no head to tag with"),
        ("classify", _config("BertForTokenClassification"), "no head to classify with"),
        ("tensor", _config("BertModel"), "no task 'tensor'"),
        ("embed", _config("T5Model", is_encoder_decoder=True), "have a decoder"),
    ],
)
def test_task_that_does_not_fit_is_refused(task: str, config: SimpleNamespace, message: str) -> None:
    """A task for which there is no head is refused in words."""
    with pytest.raises(errors.UnknownArchitectureError, match=message):
        resolve(task, config, None)


def test_smallest_length_wins_and_the_others_are_named(tmp_path: Path) -> None:
    """Of four limits the smallest counts, and a remark names every other one."""
    _write(tmp_path / "tokenizer_config.json", {"model_max_length": 512})
    _write(tmp_path / "sentence_bert_config.json", {"max_seq_length": 256})
    found = max_length(tmp_path, tmp_path, {"truncation": {"max_length": 128}}, 514)
    assert found.tokens == 128
    (remark,) = found.remarks
    for words in ("at most 128", "model_max_length is 512", "max_seq_length is 256", "max_position_embeddings is 514"):
        assert words in remark


def test_length_that_all_agree_on_needs_no_remark(tmp_path: Path) -> None:
    """The 10^30 of transformers is no limit, and agreement is nothing to remark on."""
    _write(tmp_path / "tokenizer_config.json", {"model_max_length": 10**30})
    assert max_length(tmp_path, tmp_path, {"truncation": None}, 512) == max_length(tmp_path, tmp_path, {}, 512)
    assert max_length(tmp_path, tmp_path, {}, 512).remarks == ()


def test_length_that_is_asked_for_wins(tmp_path: Path) -> None:
    """The user's own limit may exceed what a tokenizer says, never the model's positions."""
    found = max_length(tmp_path, tmp_path, {"truncation": {"max_length": 128}}, 512, 256)
    assert found.tokens == 256
    assert "as was asked for" in found.remarks[0]
    with pytest.raises(errors.UnknownArchitectureError, match="513 tokens were asked for, the model has 512"):
        max_length(tmp_path, tmp_path, {}, 512, 513)


@pytest.mark.parametrize("value", [0, -1, "many", True, 1.5])
def test_length_that_is_none_is_corrupt(tmp_path: Path, value: object) -> None:
    """A limit that is no positive number is named."""
    _write(tmp_path / "sentence_bert_config.json", {"max_seq_length": value})
    with pytest.raises(errors.CorruptCheckpointError, match="max_seq_length is"):
        max_length(tmp_path, tmp_path, {}, 512)
    with pytest.raises(errors.CorruptCheckpointError, match="--max-tokens"):
        max_length(tmp_path / "nothing", tmp_path / "nothing", {}, None)


def test_positions_before_the_first_do_not_count(encoder_folder: Callable[..., Path]) -> None:
    """RoBERTa's 42 positions begin behind the padding index: 40 tokens fit."""
    assert read_checkpoint(encoder_folder("roberta"), Options()).max_tokens == 40


def _sentence(folder: Path, *modules: str) -> None:
    types = ["Transformer", *modules]
    paths = ["", *(f"{at}_{kind}" for at, kind in enumerate(modules, 1))]
    rows = [
        {"type": f"sentence_transformers.models.{kind}", "path": path} for kind, path in zip(types, paths, strict=True)
    ]
    _write(folder / "modules.json", rows)
    _write(folder / "1_Pooling" / "config.json", {"pooling_mode_mean_tokens": True})


def test_prompts_are_read(own_encoder: Path) -> None:
    """Prompts and the default's name come from config_sentence_transformers.json."""
    _sentence(own_encoder, "Pooling", "Normalize")
    prompts = {"query": "query: ", "passage": "passage: "}
    _write(own_encoder / "config_sentence_transformers.json", {"prompts": prompts, "default_prompt_name": "query"})
    sentence = read_sentence(own_encoder)
    assert (sentence.prompts, sentence.default_prompt, sentence.normalized) == (prompts, "query", True)
    _change(own_encoder / "config_sentence_transformers.json", default_prompt_name="other")
    assert "default_prompt_name 'other' is none of its prompts" in str(_refused(own_encoder))


@pytest.mark.parametrize(
    ("modules", "pooling", "message"),
    [
        (("Normalize",), {}, "begins with Transformer and Normalize"),
        (("Pooling", "LSTM"), {}, "no way to export module 'LSTM'"),
        (("Pooling", "Normalize", "Dense"), {}, "no way to export module 'Dense' at its place"),
        (("Pooling",), {"pooling_mode_mean_tokens": False}, "no pooling is chosen"),
        (("Pooling",), {"pooling_mode_attention": True}, "no way to export pooling_mode_attention"),
        (("Pooling",), {"pooling_mode": "attention"}, "no way to export attention"),
    ],
)
def test_module_that_cannot_be_exported_is_named(
    own_encoder: Path, modules: tuple[str, ...], pooling: dict[str, object], message: str
) -> None:
    """Modules and poolings of other kinds are refused by name."""
    _sentence(own_encoder, *modules)
    _change(own_encoder / "1_Pooling" / "config.json", **pooling)
    assert message in str(_refused(own_encoder))


@pytest.mark.parametrize("activation", ["os.system", "torch.nn.modules.activation.Nothing", "torch.nn.Linear", 3])
def test_activation_is_one_of_torch(own_encoder: Path, activation: object) -> None:
    """What a dense layer calls its activation is looked up among torch's and nowhere else."""
    _sentence(own_encoder, "Pooling", "Dense")
    sizes = {"in_features": 16, "out_features": 4, "activation_function": activation}
    _write(own_encoder / "2_Dense" / "config.json", sizes)
    weights = {"linear.weight": np.ones((4, 16), np.float32), "linear.bias": np.ones(4, np.float32)}
    save_file(weights, own_encoder / "2_Dense" / "model.safetensors")
    assert isinstance(_refused(own_encoder), errors.UnknownArchitectureError)


def test_lower_case_goes_into_the_tokenizer(own_encoder: Path) -> None:
    """do_lower_case of sentence_bert_config.json is done by the bundle's tokenizer, which neither pads nor cuts."""
    tokenizer = json.loads((own_encoder / "tokenizer.json").read_text())
    tokenizer["truncation"] = {"max_length": 8, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    _write(own_encoder / "tokenizer.json", tokenizer)
    _write(own_encoder / "sentence_bert_config.json", {"max_seq_length": 20, "do_lower_case": True})
    checkpoint = read_checkpoint(own_encoder, Options())
    assert checkpoint.tokenizer.encode("W1 W2").tokens == ["[CLS]", "w1", "w2", "[SEP]"]
    assert len(checkpoint.tokenizer.encode("w1 " * 30).ids) == 32
    assert checkpoint.max_tokens == 8
    assert "texts are put into lower case, as sentence_bert_config.json says" in checkpoint.remarks
