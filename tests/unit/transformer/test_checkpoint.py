"""Checkpoint folders: what is written is read back, and every defect has an error of its own."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from headwaiter_export.transformer import (
    CheckpointError,
    ConfigError,
    CorruptFileError,
    MissingFileError,
    ShapeMismatchError,
    Transformer,
    TransformerConfig,
    UnknownArchitectureError,
    UnknownFieldError,
    load_checkpoint,
    save_checkpoint,
)
from safetensors.torch import load_file, save_file

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.torch

_TOKENIZER = '{"version": "1.0"}'
_FILES = ("config.json", "model.safetensors", "tokenizer.json")


@pytest.fixture
def folder(tmp_path: Path, config: TransformerConfig) -> Path:
    save_checkpoint(tmp_path, Transformer(config), _TOKENIZER)
    return tmp_path


def _edit_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_round_trip(tmp_path: Path, model: Transformer) -> None:
    """Loading gives back the configuration, the tokenizer and every weight, tied and in eval mode."""
    save_checkpoint(tmp_path, model.train(), _TOKENIZER)
    loaded = load_checkpoint(tmp_path)
    assert loaded.model.config == model.config
    assert loaded.tokenizer_json == _TOKENIZER
    assert not loaded.model.training
    assert loaded.model.generator.projection.weight is loaded.model.embedding.embedding.weight
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], tensor), name


def test_folder_holds_three_files_and_the_shared_matrix_once(folder: Path, config: TransformerConfig) -> None:
    """The folder has exactly the three files, no leftovers, and one tensor as wide as the vocabulary."""
    assert sorted(path.name for path in folder.iterdir()) == sorted(_FILES)
    tensors = load_file(folder / "model.safetensors")
    assert [name for name, each in tensors.items() if each.size(0) == config.vocab_size] == [
        "embedding.embedding.weight"
    ]
    fields = json.loads((folder / "config.json").read_text())
    assert fields["architecture"] == "headwaiter-transformer"
    assert fields["format_version"] == 1


@pytest.mark.parametrize("name", _FILES)
def test_missing_file(folder: Path, name: str) -> None:
    """Each file that is not there is named."""
    (folder / name).unlink()
    with pytest.raises(MissingFileError, match=name):
        load_checkpoint(folder)


@pytest.mark.parametrize("name", _FILES)
@pytest.mark.parametrize("content", [b"", b"\xff\xfe rubbish", b"[1, 2]"])
def test_corrupt_file(folder: Path, name: str, content: bytes) -> None:
    """Each file that cannot be parsed is named."""
    (folder / name).write_bytes(content)
    with pytest.raises(CorruptFileError, match=name):
        load_checkpoint(folder)


def test_truncated_weights(folder: Path) -> None:
    """A weights file cut short, as by a full disk, is corrupt and not half loaded."""
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CorruptFileError, match=r"model\.safetensors"):
        load_checkpoint(folder)


@pytest.mark.parametrize("changes", [{"architecture": "bert"}, {"architecture": None}, {"format_version": 2}])
def test_unknown_architecture_or_version(folder: Path, changes: dict[str, Any]) -> None:
    """Another architecture or format version is refused before anything else is read."""
    _edit_config(folder, **changes, novelty=1)
    with pytest.raises(UnknownArchitectureError):
        load_checkpoint(folder)


def test_unknown_field(folder: Path) -> None:
    """A field this version does not know is refused by name: it may change the model's meaning."""
    _edit_config(folder, rotary=True)
    with pytest.raises(UnknownFieldError, match="rotary"):
        load_checkpoint(folder)


def test_absent_field(folder: Path) -> None:
    """A missing field is an error and never a default."""
    path = folder / "config.json"
    fields = json.loads(path.read_text())
    del fields["norm_first"]
    path.write_text(json.dumps(fields))
    with pytest.raises(CorruptFileError, match="norm_first"):
        load_checkpoint(folder)


def test_impossible_value(folder: Path) -> None:
    """A value no Transformer can have makes the config file corrupt, not the process crash."""
    _edit_config(folder, num_heads=3)
    with pytest.raises(CorruptFileError, match="num_heads"):
        load_checkpoint(folder)


def test_shape_mismatch(folder: Path) -> None:
    """Weights of other sizes than the configuration's are refused, naming the tensor."""
    _edit_config(folder, d_ff=64)
    with pytest.raises(ShapeMismatchError, match="feed_forward"):
        load_checkpoint(folder)


@pytest.mark.parametrize(("layers", "words"), [(1, "too many"), (4, "missing")])
def test_tensors_too_many_or_too_few(folder: Path, layers: int, words: str) -> None:
    """A file with more or fewer tensors than the model is refused."""
    _edit_config(folder, num_encoder_layers=layers)
    with pytest.raises(ShapeMismatchError, match=words):
        load_checkpoint(folder)


def test_half_precision_weights_load_as_float32(folder: Path) -> None:
    """Weights stored in a narrower type are widened on loading."""
    path = folder / "model.safetensors"
    save_file({name: tensor.half() for name, tensor in load_file(path).items()}, path)
    assert {weight.dtype for weight in load_checkpoint(folder).model.parameters()} == {torch.float32}


def test_every_defect_is_a_checkpoint_error() -> None:
    """One except clause catches every way a folder can be bad."""
    errors = {MissingFileError, CorruptFileError, UnknownArchitectureError, UnknownFieldError, ShapeMismatchError}
    assert all(issubclass(error, CheckpointError) for error in errors)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"vocab_size": 0}, "vocab_size"),
        ({"d_model": 18}, "num_heads"),
        ({"d_model": 5, "num_heads": 5}, "even"),
        ({"num_encoder_layers": 0}, "num_encoder_layers"),
        ({"d_ff": 2.5}, "d_ff"),
        ({"d_ff": True}, "d_ff"),
        ({"dropout": 1.0}, "dropout"),
        ({"dropout": "0.1"}, "dropout"),
        ({"max_target_length": -1}, "max_target_length"),
        ({"pad_id": 23}, "pad_id"),
        ({"eos_id": 1}, "differ"),
        ({"norm_first": 1}, "norm_first"),
    ],
)
def test_config_is_validated(config: TransformerConfig, changes: dict[str, Any], words: str) -> None:
    """A configuration that no Transformer can have cannot be constructed."""
    with pytest.raises(ConfigError, match=words):
        dataclasses.replace(config, **changes)


def test_config_is_frozen(config: TransformerConfig) -> None:
    """A configuration cannot change under the model built from it."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.d_model = 32  # type: ignore[misc]
