"""Which recipe exports which architecture.

A recipe is a module with a function `export` of the signature `Recipe`; it is imported when it is needed. To
support another architecture, write its recipe and add a line to `RECIPES`.
"""

from __future__ import annotations

import importlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, cast

from headwaiter_proto.v1 import bundle_pb2

from headwaiter_export.errors import CorruptCheckpointError, MissingCheckpointError, UnknownArchitectureError
from headwaiter_export.progress import Progress

CONFIG_FILE: Final = "config.json"

# "architecture" of config.json -> recipe module.
RECIPES: Final = {"headwaiter-transformer": "headwaiter_export.transformer_recipe"}


@dataclass(frozen=True)
class Options:
    """What the user may choose.

    Attributes:
        task: "auto" takes the one the architecture is for.
        tolerance: Largest absolute difference from PyTorch that is let through.
        words: File of texts to decode on both sides, one a line; None takes the checkpoint's own.
    """

    task: str = "auto"
    tolerance: float = 1e-4
    words: Path | None = None


class Recipe(Protocol):
    """Exports one family of architectures."""

    def __call__(self, source: Path, folder: Path, options: Options, progress: Progress) -> bundle_pb2.Manifest:
        """Fill `folder` with every file of the bundle but the manifest, verified, and return the manifest."""


def recipe_for(source: Path) -> Recipe:
    """Find the recipe of a checkpoint folder.

    Raises:
        MissingCheckpointError: The folder or its config.json does not exist.
        CorruptCheckpointError: config.json is not a JSON object.
        UnknownArchitectureError: There is no recipe for it.
    """
    if not source.is_dir():
        raise MissingCheckpointError(f"{source} is not a folder")
    path = source / CONFIG_FILE
    try:
        fields = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise MissingCheckpointError(f"{path} does not exist") from error
    except (OSError, ValueError) as error:
        raise CorruptCheckpointError(f"{path}: {error}") from error
    if not isinstance(fields, dict):
        raise CorruptCheckpointError(f"{path}: not a JSON object")
    architecture = fields.get("architecture")
    if not isinstance(architecture, str) or architecture not in RECIPES:
        known = ", ".join(sorted(RECIPES))
        raise UnknownArchitectureError(f"{path}: architecture is {architecture!r}; known: {known}")
    return cast("Recipe", importlib.import_module(RECIPES[architecture]).export)
