"""What can go wrong with a Transformer's configuration or checkpoint folder.

TransformerError
+-- ConfigError                    a value that no Transformer can have
+-- CheckpointError                a checkpoint folder that cannot be loaded
    +-- MissingFileError           a file of the folder is not there
    +-- CorruptFileError           a file is there and cannot be read
    +-- UnknownArchitectureError   another architecture, or another version of the format
    +-- UnknownFieldError          config.json has a field this version does not know
    +-- ShapeMismatchError         the tensors are not those config.json describes
"""

from __future__ import annotations


class TransformerError(Exception):
    """Base of every error this package raises on purpose."""


class ConfigError(TransformerError, ValueError):
    """A configuration value is out of range or contradicts another one."""


class CheckpointError(TransformerError):
    """A checkpoint folder cannot be loaded."""


class MissingFileError(CheckpointError):
    """A file that every checkpoint folder holds is missing."""


class CorruptFileError(CheckpointError):
    """A file of the checkpoint folder cannot be parsed."""


class UnknownArchitectureError(CheckpointError):
    """The folder holds another architecture, or a format version this code does not read."""


class UnknownFieldError(CheckpointError):
    """config.json has a field this version does not know."""


class ShapeMismatchError(CheckpointError):
    """The tensors in model.safetensors are not the ones config.json describes."""
