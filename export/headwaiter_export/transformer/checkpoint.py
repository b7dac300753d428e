"""Checkpoint folders: `config.json`, `model.safetensors`, `tokenizer.json`.

No pickle: a checkpoint is data, and loading one never runs code from it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import safetensors
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from headwaiter_export.transformer.config import TransformerConfig
from headwaiter_export.transformer.errors import (
    ConfigError,
    CorruptFileError,
    MissingFileError,
    ShapeMismatchError,
    UnknownArchitectureError,
    UnknownFieldError,
)
from headwaiter_export.transformer.model import Transformer

ARCHITECTURE: Final = "headwaiter-transformer"
FORMAT_VERSION: Final = 1
CONFIG_FILE: Final = "config.json"
WEIGHTS_FILE: Final = "model.safetensors"
TOKENIZER_FILE: Final = "tokenizer.json"

# The generator's weight is the embedding's (section 3.4); it is stored once.
_TIED_WEIGHT = "generator.projection.weight"


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint folder.

    Attributes:
        model: The model, on the CPU, in eval mode, in float32.
        tokenizer_json: The text of tokenizer.json, for `tokenizers.Tokenizer.from_str`.
    """

    model: Transformer
    tokenizer_json: str


def save_checkpoint(folder: Path, model: Transformer, tokenizer_json: str) -> None:
    """Write a checkpoint folder; each file is replaced atomically.

    Args:
        folder: Created if it does not exist.
        model: The model; its weights are stored as float32.
        tokenizer_json: The text of tokenizer.json.
    """
    folder.mkdir(parents=True, exist_ok=True)
    fields = {
        "architecture": ARCHITECTURE,
        "format_version": FORMAT_VERSION,
        **dataclasses.asdict(model.config),
    }
    tensors = {
        name: tensor.detach().float().cpu().contiguous()
        for name, tensor in model.state_dict().items()
        if name != _TIED_WEIGHT
    }
    _write(folder / WEIGHTS_FILE, save_tensors(tensors, metadata={"format": "pt"}))
    _write(folder / TOKENIZER_FILE, tokenizer_json.encode())
    _write(folder / CONFIG_FILE, (json.dumps(fields, indent=2) + "\n").encode())


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint folder.

    Raises:
        MissingFileError: A file is missing.
        CorruptFileError: A file cannot be parsed, or config.json holds impossible values.
        UnknownArchitectureError: Another architecture or format version.
        UnknownFieldError: config.json has a field this version does not know.
        ShapeMismatchError: The tensors do not fit config.json.
    """
    model = Transformer(_load_config(folder / CONFIG_FILE))
    _load_weights(model, folder / WEIGHTS_FILE)
    tokenizer_path = folder / TOKENIZER_FILE
    _parse_object(tokenizer_path)
    return Checkpoint(model.eval(), tokenizer_path.read_text(encoding="utf-8"))


def _load_config(path: Path) -> TransformerConfig:
    fields = _parse_object(path)
    architecture = fields.pop("architecture", None)
    if architecture != ARCHITECTURE:
        raise UnknownArchitectureError(f"{path}: architecture is {architecture!r}, not {ARCHITECTURE!r}")
    version = fields.pop("format_version", None)
    if version != FORMAT_VERSION:
        raise UnknownArchitectureError(f"{path}: format_version is {version!r}; this reads {FORMAT_VERSION}")
    known = {field.name for field in dataclasses.fields(TransformerConfig)}
    if unknown := sorted(fields.keys() - known):
        raise UnknownFieldError(f"{path}: unknown field {', '.join(unknown)}")
    if absent := sorted(known - fields.keys()):
        # Defaults are for code; a file that relies on them would change its meaning when they do.
        raise CorruptFileError(f"{path}: missing field {', '.join(absent)}")
    try:
        return TransformerConfig(**fields)
    except ConfigError as error:
        raise CorruptFileError(f"{path}: {error}") from error


def _load_weights(model: Transformer, path: Path) -> None:
    try:
        tensors = load_tensors(_read(path))
    except safetensors.SafetensorError as error:
        raise CorruptFileError(f"{path}: {error}") from error
    expected = {name: tensor for name, tensor in model.state_dict().items() if name != _TIED_WEIGHT}
    if absent := sorted(expected.keys() - tensors.keys()):
        raise ShapeMismatchError(f"{path}: {len(absent)} tensors missing, the first is {absent[0]}")
    if surplus := sorted(tensors.keys() - expected.keys()):
        raise ShapeMismatchError(f"{path}: {len(surplus)} tensors too many, the first is {surplus[0]}")
    for name, tensor in expected.items():
        if tensors[name].shape != tensor.shape:
            found, wanted = tuple(tensors[name].shape), tuple(tensor.shape)
            raise ShapeMismatchError(f"{path}: {name} has shape {found}, config.json describes {wanted}")
    # Not strict only because of the tied weight, which shares the embedding's memory.
    model.load_state_dict(tensors, strict=False)


def _parse_object(path: Path) -> dict[str, Any]:
    try:
        parsed = json.loads(_read(path))
    except ValueError as error:
        raise CorruptFileError(f"{path}: {error}") from error
    if not isinstance(parsed, dict):
        raise CorruptFileError(f"{path}: not a JSON object")
    return parsed


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise MissingFileError(f"{path} does not exist") from error


def _write(path: Path, content: bytes) -> None:
    # A temporary file in the same folder: rename is atomic only within one file system.
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            # mkstemp makes files private to the owner; a checkpoint is an ordinary file.
            os.fchmod(file.fileno(), 0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
