"""Reading the files of a checkpoint folder, and refusing those that run code or are half a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from headwaiter_export.errors import CorruptCheckpointError, MissingCheckpointError, UnknownArchitectureError

_WEIGHTS: Final = "model.safetensors"
_INDEX: Final = "model.safetensors.index.json"
_ADAPTER: Final = "adapter_config.json"
_PICKLED: Final = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl"})


def read_json(path: Path, kind: type[Any]) -> Any:  # noqa: ANN401 (JSON)
    """Read a JSON file that holds a list or an object.

    Raises:
        MissingCheckpointError: It does not exist.
        CorruptCheckpointError: It holds something else.
    """
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise MissingCheckpointError(f"{path} does not exist") from error
    except (OSError, ValueError) as error:
        raise CorruptCheckpointError(f"{path}: {error}") from error
    if not isinstance(value, kind):
        raise CorruptCheckpointError(f"{path}: not a JSON {'list' if kind is list else 'object'}")
    return value


def refuse_pickle(folder: Path) -> None:
    """Refuse a folder whose weights are stored as a pickle only.

    Raises:
        MissingCheckpointError: There are no weights in safetensors.
        CorruptCheckpointError: The index of weights in several files names other files.
    """
    if (folder / _WEIGHTS).is_file():
        return
    if (folder / _INDEX).is_file():
        _check_index(folder / _INDEX)
        return
    for path in sorted(folder.glob("*")):
        refuse_pickled_file(path)
    raise MissingCheckpointError(f"{folder / _WEIGHTS} does not exist")


def refuse_pickled_file(path: Path) -> None:
    """Refuse a file that by its name is a pickle.

    Raises:
        MissingCheckpointError: It is one.
    """
    if path.suffix in _PICKLED and path.is_file():
        raise MissingCheckpointError(
            f"{path} is a pickle: loading it would run whatever code it carries, so it is refused."
            " Convert it where you trust it: load the model with transformers and save it with"
            " model.save_pretrained(FOLDER), which writes model.safetensors"
        )


def refuse_adapter(folder: Path) -> None:
    """Refuse a folder that holds an adapter, such as LoRA's, whether or not the model it adapts lies beside it.

    Without this the model beside it would be exported as if there were no adapter.

    Raises:
        UnknownArchitectureError: It holds one.
    """
    if (folder / _ADAPTER).exists():
        raise UnknownArchitectureError(
            f"{folder / _ADAPTER}: the folder holds an adapter (LoRA or its kin), which is not exported by itself."
            " Merge it into its model first: load it with peft and write the whole with"
            " model.merge_and_unload().save_pretrained(FOLDER)"
        )


def inside(folder: Path, name: str, stated_in: Path) -> Path:
    """The path that a checkpoint's file gives for a part of it, relative to its folder.

    Raises:
        CorruptCheckpointError: It leads out of the folder.
    """
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise CorruptCheckpointError(f"{stated_in}: {name!r} leads out of the folder")
    return folder / name


def _check_index(path: Path) -> None:
    # transformers loads whatever the index names, a pickle too.
    shards = read_json(path, dict).get("weight_map")
    if not isinstance(shards, dict):
        raise CorruptCheckpointError(f"{path}: weight_map is not a JSON object")
    for name in shards.values():
        if not str(inside(path.parent, str(name), path)).endswith(".safetensors"):
            raise CorruptCheckpointError(f"{path}: {name!r} is not a safetensors file; no other kind is loaded")
