"""Folders that lie, lead astray or bring code along are refused for a plain reason, never followed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from headwaiter_export import ExportError, Options, errors
from headwaiter_export.architectures import recipe_for
from headwaiter_export.encoders.checkpoint import Checkpoint, read_checkpoint
from safetensors.torch import load_file, save_file

pytestmark = pytest.mark.torch

POOLING = {"pooling_mode_mean_tokens": True}


def _change(path: Path, **fields: object) -> None:
    stored = json.loads(path.read_text()) if path.exists() else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(stored | fields))


def _read(folder: Path) -> Checkpoint:
    return read_checkpoint(folder, Options())


def _refused(folder: Path) -> ExportError:
    with pytest.raises(errors.CheckpointError) as caught:
        _read(folder)
    assert "\n" not in str(caught.value)
    return caught.value


def _in_shards(folder: Path, save: Callable[[dict[str, torch.Tensor], Path], None], *names: str) -> None:
    """Store the weights in as many files, one weight after the other."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    index = {weight: names[at % len(names)] for at, weight in enumerate(weights)}
    for name in names:
        save({weight: weights[weight] for weight, where in index.items() if where == name}, folder / name)
    _change(folder / "model.safetensors.index.json", metadata={}, weight_map=index)


def _pickle(weights: dict[str, torch.Tensor], path: Path) -> None:
    torch.save(weights, path)


def _safe(weights: dict[str, torch.Tensor], path: Path) -> None:
    save_file(weights, path, {"format": "pt"})


def test_weights_in_several_files_are_read(own_encoder: Path) -> None:
    """Shards give the model that one file gave."""
    whole = _read(own_encoder).reference.state_dict()
    _in_shards(own_encoder, _safe, "a.safetensors", "b.safetensors")
    for name, weight in _read(own_encoder).reference.state_dict().items():
        torch.testing.assert_close(weight, whole[name], rtol=0, atol=0)


@pytest.mark.parametrize("name", ["shard.bin", "../outside.safetensors"])
def test_index_leads_to_safetensors_inside_only(own_encoder: Path, name: str) -> None:
    """An index in the name of safetensors that leads to a pickle, or out of the folder, is refused."""
    _in_shards(own_encoder, _pickle if name.endswith(".bin") else _safe, name)
    error = _refused(own_encoder)
    assert isinstance(error, errors.CorruptCheckpointError)
    assert f"model.safetensors.index.json: '{name}'" in str(error)


def test_config_does_not_choose_the_weights(own_encoder: Path) -> None:
    """Transformers follows transformers_weights to files that nobody looked at."""
    _change(own_encoder / "config.json", transformers_weights="adapter_model.bin")
    assert "transformers_weights" in str(_refused(own_encoder))


def test_adapter_is_not_passed_over(own_encoder: Path) -> None:
    """A LoRA adapter beside the model that it changes is refused, before anything is loaded."""
    _read(own_encoder)
    (own_encoder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    assert "adapter_config.json: the folder holds an adapter" in str(_refused(own_encoder))
    with pytest.raises(errors.UnknownArchitectureError, match="holds an adapter"):
        recipe_for(own_encoder)


def test_adapter_of_a_part_is_not_passed_over(encoder_folder: Callable[..., Path], tmp_path: Path) -> None:
    """The Transformer of a sentence-transformers folder may have one, too."""
    shutil.copytree(encoder_folder("bert"), tmp_path / "0")
    _change(tmp_path / "1" / "config.json", **POOLING)
    _modules(tmp_path, (TRANSFORMER, "0"), (POOLED, "1"))
    _read(tmp_path)
    (tmp_path / "0" / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    assert "0/adapter_config.json: the folder holds an adapter" in str(_refused(tmp_path))


def test_adapter_alone_is_named(tmp_path: Path) -> None:
    """A folder as peft writes it has no config.json; the reason to refuse it is the adapter, and says what to do."""
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    (tmp_path / "adapter_model.safetensors").touch()
    with pytest.raises(errors.UnknownArchitectureError, match="merge_and_unload"):
        recipe_for(tmp_path)


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_precision_becomes_fp32(own_encoder: Path, half: torch.dtype) -> None:
    """Weights of 16 bits are read as they are and computed with in fp32."""
    path = own_encoder / "model.safetensors"
    _safe({name: weight.to(half) for name, weight in load_file(path).items()}, path)
    _change(own_encoder / "config.json", dtype=str(half).removeprefix("torch."))
    assert {weight.dtype for weight in _read(own_encoder).reference.parameters()} == {torch.float32}


def test_head_that_is_not_there_is_not_made_up(own_encoder: Path) -> None:
    """A config.json that promises a classifier which the weights lack is refused."""
    _change(own_encoder / "config.json", architectures=["BertForSequenceClassification"])
    assert "the weights lack classifier." in str(_refused(own_encoder))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("intermediate_size", 48, "intermediate.dense.bias, or hold it in another shape"),
        ("num_hidden_layers", 2, "the weights lack encoder.layer.1."),
    ],
)
def test_sizes_that_are_not_the_weights_are_refused(own_encoder: Path, field: str, value: int, message: str) -> None:
    """Layers that are not there, or are of another width, are named."""
    _change(own_encoder / "config.json", **{field: value})
    assert message in str(_refused(own_encoder))


def test_layers_are_not_left_out(encoder_folder: Callable[..., Path], tmp_path: Path) -> None:
    """Weights of more layers than config.json counts are refused, though transformers would drop them."""
    folder = Path(shutil.copytree(encoder_folder("bert", num_hidden_layers=2), tmp_path / "bert"))
    _change(folder / "config.json", num_hidden_layers=1)
    assert "the weights hold encoder.layer.1." in str(_refused(folder))


def test_weights_of_other_heads_may_be_left_over(encoder_folder: Callable[..., Path]) -> None:
    """A model that was trained to fill in words embeds; its head is not asked for."""
    assert _read(encoder_folder("bert", "AutoModelForMaskedLM", num_hidden_layers=2)).architecture == "bert"


def test_labels_are_numbered_from_0(encoder_folder: Callable[..., Path], tmp_path: Path) -> None:
    """Names for outputs that do not exist, and none for some that do, are refused."""
    head = "AutoModelForSequenceClassification"
    folder = Path(shutil.copytree(encoder_folder("bert", head, num_labels=2), tmp_path / "bert"))
    _change(folder / "config.json", id2label={"0": "good", "5": "bad"})
    assert "does not name labels 0 to 1" in str(_refused(folder))


def test_every_token_has_a_row(own_encoder: Path) -> None:
    """It is the highest id that counts, not how many there are: ids may have gaps."""
    tokenizer = json.loads((own_encoder / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["w91"] = 96
    _change(own_encoder / "tokenizer.json", **tokenizer)
    assert "token ids go up to 96, but config.json has vocab_size 96" in str(_refused(own_encoder))


@pytest.mark.parametrize("part", ["truncation", "padding"])
def test_tokenizer_of_another_form_is_refused(own_encoder: Path, part: str) -> None:
    """Parts that do not go into the bundle are looked at, and must be what they should be, too."""
    _change(own_encoder / "tokenizer.json", **{part: [1]})
    assert isinstance(_refused(own_encoder), errors.CorruptCheckpointError)


def test_padding_that_is_no_token_is_not_taken(own_encoder: Path) -> None:
    """A pad_token_id of -1 means that there is none; rows are filled with one that exists."""
    _change(own_encoder / "config.json", pad_token_id=-1)
    assert _read(own_encoder).pad_id == 0


def test_model_of_pictures_is_refused(own_encoder: Path) -> None:
    """A model that transformers knows and that does not read texts alone is refused in words."""
    transformers.AutoConfig.for_model("clip").save_pretrained(own_encoder)
    error = _refused(own_encoder)
    assert isinstance(error, errors.UnknownArchitectureError)
    assert "clip models do not read texts alone" in str(error)


def test_own_code_of_a_known_model_is_remarked_on(own_encoder: Path) -> None:
    """Where transformers knows the model, its code is used, and the remarks say that the folder's is not."""
    _change(own_encoder / "config.json", auto_map={"AutoModel": "modeling.Model"})
    assert any("own code (auto_map) is never run" in remark for remark in _read(own_encoder).remarks)


def _modules(folder: Path, *modules: tuple[str, str]) -> None:
    (folder / "modules.json").write_text(json.dumps([{"type": kind, "path": path} for kind, path in modules]))


TRANSFORMER = "sentence_transformers.models.Transformer"
POOLED = "sentence_transformers.models.Pooling"


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ([("custom_st.Transformer", ""), (POOLED, "1")], "custom_st.Transformer is the checkpoint's own code"),
        ([(TRANSFORMER, ""), (POOLED, "../outside")], "'../outside' leads out of the folder"),
        ([(TRANSFORMER, "/"), (POOLED, "1")], "'/' leads out of the folder"),
    ],
)
def test_modules_are_of_one_package_and_inside(own_encoder: Path, modules: list[tuple[str, str]], message: str) -> None:
    """A module of another package is not what its name says, and no path leads out of the folder."""
    for folder in ("1", "../outside"):
        _change(own_encoder / folder / "config.json", **POOLING)
    _modules(own_encoder, *modules)
    assert message in str(_refused(own_encoder))


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({"sentence_bert_config.json": 30, "0/sentence_bert_config.json": 20}, 20),
        ({"sentence_bert_config.json": 20, "0/sentence_bert_config.json": 30}, 20),
        ({"tokenizer_config.json": 25, "0/sentence_bert_config.json": 30}, 25),
        ({"0/sentence_roberta_config.json": 17}, 17),
    ],
)
def test_smallest_limit_wins_wherever_it_stands(
    encoder_folder: Callable[..., Path], tmp_path: Path, files: dict[str, int], limit: int
) -> None:
    """Limits count in the checkpoint's folder and in the Transformer's, under all names that were ever in use."""
    shutil.copytree(encoder_folder("bert"), tmp_path / "0")
    _change(tmp_path / "1" / "config.json", **POOLING)
    _modules(tmp_path, (TRANSFORMER, "0"), (POOLED, "1"))
    for name, value in files.items():
        _change(tmp_path / name, **{"model_max_length" if "tokenizer" in name else "max_seq_length": value})
    checkpoint = _read(tmp_path)
    assert checkpoint.max_tokens == limit
    assert any(f"at most {limit} tokens" in remark for remark in checkpoint.remarks)
