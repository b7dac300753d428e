"""What can go wrong in an export, one class per meaning.

    ExportError
    +-- CheckpointError             the source folder cannot be exported
    |   +-- MissingCheckpointError      the folder, or a file it must hold, is not there
    |   +-- CorruptCheckpointError      a file is there and does not hold what it should
    |   +-- UnknownArchitectureError    no recipe for this architecture, format or task
    +-- OutputError                 the bundle cannot be put where it was asked for
    |   +-- OutputNameError             the target does not end in NAME/VERSION
    |   +-- OutputExistsError           something is there already
    +-- TextsError                  the texts to compare on cannot be used
    +-- GraphError                  a graph came out wrong
    |   +-- NameClashError              two values of one graph have the same name
    |   +-- SpecialisedShapeError       an axis that must be dynamic came out fixed
    |   +-- GraphRejectedError          the graph cannot be traced, or onnxruntime does not load or run it
    +-- ParityError                 a graph does not compute what PyTorch computes
    |   +-- ToleranceExceededError      its numbers differ by more than is allowed
    |   +-- TokensDifferError           greedy decoding gives other tokens
    +-- QuantizationError           a variant of fewer bits cannot be had as it was asked for
        +-- NothingToQuantizeError      the model has nothing that int8 would make faster
        +-- BelowBoundError             it is worse, or slower, than the bounds allow

The transformer package has a tree of its own, because it is usable without any export; its checkpoint errors
are turned into these where a recipe loads a checkpoint.
"""

from __future__ import annotations


class ExportError(Exception):
    """Base of every error an export raises on purpose; its message is fit for the user."""


class CheckpointError(ExportError):
    """The source folder cannot be exported."""


class MissingCheckpointError(CheckpointError):
    """The source folder, or a file it must hold, does not exist."""


class CorruptCheckpointError(CheckpointError):
    """A file of the source folder does not hold what it should."""


class UnknownArchitectureError(CheckpointError):
    """There is no recipe for this architecture, format version or task."""


class OutputError(ExportError):
    """The bundle cannot be put where it was asked for."""


class OutputNameError(OutputError, ValueError):
    """The target does not end in a model name and a version."""


class OutputExistsError(OutputError):
    """Something is at the target already."""


class TextsError(ExportError):
    """The texts to compare on cannot be read or none of them fits the model."""


class GraphError(ExportError):
    """A graph came out wrong."""


class NameClashError(GraphError):
    """Two values of one graph have the same name, which onnxruntime refuses."""


class SpecialisedShapeError(GraphError):
    """An axis that must be dynamic came out fixed, or under another name."""


class GraphRejectedError(GraphError):
    """The graph cannot be traced, or onnxruntime does not load or run it."""


class ParityError(ExportError):
    """A graph does not compute what PyTorch computes."""


class ToleranceExceededError(ParityError):
    """PyTorch and onnxruntime differ by more than the tolerance."""


class TokensDifferError(ParityError):
    """Greedy decoding by PyTorch and by onnxruntime gives different tokens."""


class QuantizationError(ExportError):
    """A variant of fewer bits cannot be had as it was asked for."""


class NothingToQuantizeError(QuantizationError):
    """The model has no product with a constant matrix, or is of a kind that has no int8 variant."""


class BelowBoundError(QuantizationError):
    """The variant is worse, or slower, than the bounds allow."""
