"""What a sentence-transformers folder says around its Transformer: pooling, dense layers, normalisation, prompts.

The format is that of sentence-transformers: `modules.json` names the modules in order, each in a folder of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file
from torch import nn

from headwaiter_export.architectures import SENTENCE_MODULES_FILE
from headwaiter_export.encoders.files import inside, read_json, refuse_pickle
from headwaiter_export.errors import CorruptCheckpointError, MissingCheckpointError, UnknownArchitectureError

PROMPTS_FILE: Final = "config_sentence_transformers.json"
# Modules of any other package are code that came with the checkpoint, whatever their names are.
_PACKAGE: Final = "sentence_transformers."

# Flags of a pooling's config.json, in the order in which their vectors are put end to end.
_POOLINGS: Final = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
# Where activations may come from: names of classes are looked up here and nowhere else.
_ACTIVATIONS: Final = ("torch.nn.modules.activation.", "torch.nn.modules.linear.Identity", "torch.nn.")


@dataclass(frozen=True)
class Sentence:
    """How token vectors become a text's vector.

    Attributes:
        transformer: Folder of the Transformer: the checkpoint's, or one inside it.
        poolings: Names of poolings; their vectors are put end to end.
        dense: Layers after pooling, in order.
        normalized: Whether the folder ends in a normalisation.
        prompts: What to put before a text, by name.
        default_prompt: Name of the prompt that is used unless another is asked for; "" for none.
    """

    transformer: Path = Path()
    poolings: tuple[str, ...] = ("mean",)
    dense: tuple[nn.Module, ...] = ()
    normalized: bool = False
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt: str = ""


def is_sentence_transformer(source: Path) -> bool:
    """Whether a folder is laid out as sentence-transformers does it."""
    return (source / SENTENCE_MODULES_FILE).is_file()


def read_sentence(source: Path) -> Sentence:
    """Read the modules around the Transformer.

    Raises:
        CheckpointError: A file is missing or corrupt, or a module is of a kind that is not known here.
    """
    path = source / SENTENCE_MODULES_FILE
    entries = read_json(path, list)
    try:
        stated = [(str(entry["type"]), str(entry["path"])) for entry in entries]
    except (KeyError, TypeError) as error:
        raise CorruptCheckpointError(f"{path}: not a list of modules with type and path") from error
    for kind, _ in stated:
        if not kind.startswith(_PACKAGE):
            raise UnknownArchitectureError(f"{path}: {kind} is the checkpoint's own code; it is never run")
    modules = [(kind.rpartition(".")[2], inside(source, name, path)) for kind, name in stated]
    kinds = [kind for kind, _ in modules]
    if kinds[:2] != ["Transformer", "Pooling"]:
        raise UnknownArchitectureError(
            f"{path}: begins with {' and '.join(kinds[:2])}, not with Transformer and Pooling"
        )
    dense: list[nn.Module] = []
    normalized = False
    for kind, folder in modules[2:]:
        if kind == "Dense" and not normalized:
            dense.append(_dense(folder))
        elif kind == "Normalize":
            normalized = True
        elif kind != "Dropout":
            raise UnknownArchitectureError(f"{path}: no way to export module {kind!r} at its place")
    prompts, default_prompt = _prompts(source)
    return Sentence(
        transformer=modules[0][1],
        poolings=_poolings(modules[1][1], prompts),
        dense=tuple(dense),
        normalized=normalized,
        prompts=prompts,
        default_prompt=default_prompt,
    )


def _poolings(folder: Path, prompts: dict[str, str]) -> tuple[str, ...]:
    path = folder / "config.json"
    config = read_json(path, dict)
    known = set(_POOLINGS.values())
    if "pooling_mode" in config:  # one name, or several, instead of flags
        stated = config["pooling_mode"]
        wanted = set(map(str, stated if isinstance(stated, list) else [stated]))
        names = tuple(name for name in _POOLINGS.values() if name in wanted)
    else:
        wanted = {flag for flag, value in config.items() if flag.startswith("pooling_mode_") and value}
        names = tuple(name for flag, name in _POOLINGS.items() if flag in wanted)
        known = set(_POOLINGS)
    if wanted - known:
        raise UnknownArchitectureError(f"{path}: no way to export {', '.join(sorted(wanted - known))}")
    if not names:
        raise CorruptCheckpointError(f"{path}: no pooling is chosen")
    if config.get("include_prompt") is False and any(prompts.values()):
        raise UnknownArchitectureError(
            f"{path}: include_prompt is false; leaving a prompt's tokens out of pooling cannot be exported"
        )
    return names


def _prompts(source: Path) -> tuple[dict[str, str], str]:
    path = source / PROMPTS_FILE
    if not path.exists():
        return {}, ""
    config = read_json(path, dict)
    prompts, default = config.get("prompts") or {}, config.get("default_prompt_name") or ""
    strings = isinstance(prompts, dict) and all(isinstance(each, str) for pair in prompts.items() for each in pair)
    if not strings:
        raise CorruptCheckpointError(f"{path}: prompts are not names and texts")
    if default and default not in prompts:
        raise CorruptCheckpointError(f"{path}: default_prompt_name {default!r} is none of its prompts")
    return prompts, default


def _dense(folder: Path) -> nn.Module:
    path = folder / "config.json"
    config = read_json(path, dict)
    try:
        linear = nn.Linear(int(config["in_features"]), int(config["out_features"]), bool(config.get("bias", True)))
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptCheckpointError(f"{path}: not the sizes of a dense layer") from error
    refuse_pickle(folder)
    weights = folder / "model.safetensors"
    try:
        stored = load_file(weights)
        linear.load_state_dict({name.removeprefix("linear."): tensor.float() for name, tensor in stored.items()})
    except FileNotFoundError as error:
        raise MissingCheckpointError(f"{weights} does not exist") from error
    except Exception as error:  # safetensors raises its own kinds, torch RuntimeError
        raise CorruptCheckpointError(f"{weights}: {error}") from error
    return nn.Sequential(
        linear, _activation(path, config.get("activation_function", "torch.nn.modules.activation.Tanh"))
    )


def _activation(path: Path, name: Any) -> nn.Module:  # noqa: ANN401 (whatever the JSON holds)
    kind = getattr(nn, str(name).rpartition(".")[2], None)
    named_in_torch = str(name).startswith(_ACTIVATIONS)
    if not named_in_torch or not isinstance(kind, type) or not issubclass(kind, nn.Module):
        raise UnknownArchitectureError(f"{path}: no activation function {name!r} in torch.nn")
    try:
        activation = kind()
        activation(torch.zeros(1, 1))
    except Exception as error:
        raise UnknownArchitectureError(f"{path}: {name!r} is not an activation function without settings") from error
    return activation
