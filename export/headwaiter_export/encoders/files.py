"""Reading the files of a checkpoint folder, and refusing those that run code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from headwaiter_export.errors import CorruptCheckpointError, MissingCheckpointError

_SAFE: Final = ("model.safetensors", "model.safetensors.index.json")
_PICKLED: Final = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


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
    """
    if any((folder / name).is_file() for name in _SAFE):
        return
    pickled = sorted(path.name for pattern in _PICKLED for path in folder.glob(pattern))
    if pickled:
        raise MissingCheckpointError(
            f"{folder / pickled[0]} is a pickle: loading it would run whatever code it carries, so it is refused."
            " Convert it where you trust it: load the model with transformers and save it with"
            " model.save_pretrained(FOLDER), which writes model.safetensors"
        )
    raise MissingCheckpointError(f"{folder / _SAFE[0]} does not exist")
