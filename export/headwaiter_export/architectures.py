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

from headwaiter_export.encoders.files import refuse_adapter, refuse_pickled_file
from headwaiter_export.errors import CorruptCheckpointError, MissingCheckpointError, UnknownArchitectureError
from headwaiter_export.progress import Progress
from headwaiter_export.quantization.bounds import Wishes

CONFIG_FILE: Final = "config.json"
SENTENCE_MODULES_FILE: Final = "modules.json"

# "architecture" of config.json -> recipe module.
RECIPES: Final = {"headwaiter-transformer": "headwaiter_export.transformer_recipe"}
# For folders of Hugging Face and sentence-transformers, which name their architecture in other words.
ENCODERS: Final = "headwaiter_export.encoders.recipe"
GENERATORS: Final = "headwaiter_export.generation.recipe"
# How transformers calls models that generate, in "architectures" of config.json.
GENERATE: Final = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration", "MTModel")
# For files whose name ends so.
ONNX_SUFFIX: Final = ".onnx"
ONNX_FILES: Final = "headwaiter_export.tensors.onnx_file"


@dataclass(frozen=True)
class Options:
    """What the user may choose.

    Attributes:
        task: "auto" takes the one the architecture is for.
        graph: "packed", "padded" or "auto": packed where the model allows it.
        tolerance: Largest absolute difference from PyTorch that is let through; None takes the task's own.
        words: File of texts to compare on, one a line; None takes the checkpoint's own.
        max_tokens: Tokens of the longest text; None takes the smallest limit the checkpoint states.
        int8: The int8 variant to write as well; None writes none.
    """

    task: str = "auto"
    graph: str = "auto"
    tolerance: float | None = None
    words: Path | None = None
    max_tokens: int | None = None
    int8: Wishes | None = None

    def check_unused(self, kind: str, *names: str) -> None:
        """Refuse choices that a recipe has no use for, instead of passing over them in silence.

        Args:
            kind: What the recipe exports, for the message.
            names: Of attributes that must be as they are by default.

        Raises:
            UnknownArchitectureError: One of them is not.
        """
        chosen = [name for name in names if getattr(self, name) != getattr(Options(), name)]
        if chosen:
            raise UnknownArchitectureError(f"{kind}: there is no choice of {' or '.join(chosen).replace('_', ' ')}")


class Recipe(Protocol):
    """Exports one family of architectures."""

    def __call__(self, source: Path, folder: Path, options: Options, progress: Progress) -> bundle_pb2.Manifest:
        """Fill `folder` with every file of the bundle but the manifest, verified, and return the manifest."""


def recipe_for(source: Path, task: str = "auto") -> Recipe:
    """Find the recipe of a checkpoint folder, or of an ONNX file.

    Args:
        source: The folder, or the file.
        task: What the model is to do, as the user said it, or "auto".

    Raises:
        MissingCheckpointError: The folder, the file or the folder's config.json does not exist, or it is a pickle.
        CorruptCheckpointError: config.json is not a JSON object.
        UnknownArchitectureError: There is no recipe for it, or it is an adapter of another model.
    """
    if source.suffix == ONNX_SUFFIX and source.is_file():
        return _recipe(ONNX_FILES)
    refuse_pickled_file(source)
    if not source.is_dir():
        raise MissingCheckpointError(f"{source} is not a folder, and not a file that ends in {ONNX_SUFFIX}")
    # Before config.json is asked for, which such a folder mostly lacks.
    refuse_adapter(source)
    if (source / SENTENCE_MODULES_FILE).is_file():
        return _recipe(ENCODERS)
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
    if architecture is None and (fields.get("model_type") or fields.get("architectures")):
        classes = fields.get("architectures")
        named = isinstance(classes, list) and bool(classes) and str(classes[0]).endswith(GENERATE)
        return _recipe(GENERATORS if task == "generate" or (task == "auto" and named) else ENCODERS)
    if not isinstance(architecture, str) or architecture not in RECIPES:
        known = ", ".join(sorted(RECIPES))
        raise UnknownArchitectureError(f"{path}: architecture is {architecture!r}; known: {known}")
    return _recipe(RECIPES[architecture])


def _recipe(module: str) -> Recipe:
    return cast("Recipe", importlib.import_module(module).export)
