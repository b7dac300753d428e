"""What a server says of its models and of itself."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class Task(StrEnum):
    """What a model does."""

    GENERATE = "generate"
    """Text to text."""
    EMBED = "embed"
    """A text to a vector."""
    CLASSIFY = "classify"
    """A text, or a pair of texts, to a score for each label."""
    TAG = "tag"
    """Stretches of a text to labels."""
    RERANK = "rerank"
    """A query and a text to one score."""
    TENSOR = "tensor"
    """Tensors to tensors."""
    UNKNOWN = "unknown"
    """A task that this version of the client does not know."""


class GraphKind(StrEnum):
    """How a model's runs lay out the tokens of several texts."""

    PADDED = "padded"
    """Rows of one batch, padded to the longest."""
    PACKED = "packed"
    """Tokens of all texts end to end, without padding."""
    CACHED = "cached"
    """A row for each text, each at its own place of a key/value cache, without padding."""
    UNKNOWN = "unknown"
    """A way that this version of the client does not know."""


class HealthStatus(StrEnum):
    """What a server says of itself or of one model, as gRPC's health checking protocol names it."""

    UNKNOWN = "UNKNOWN"
    SERVING = "SERVING"
    NOT_SERVING = "NOT_SERVING"
    SERVICE_UNKNOWN = "SERVICE_UNKNOWN"
    """The server knows no model by that name."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits on a request, in tokens as the model counts them (special tokens included).

    Attributes:
        max_source_tokens: Longest source text.
        max_new_tokens: Most tokens generated for one text, the end-of-sequence token included.
        max_total_tokens: Most tokens of a text and what is generated from it, together; 0 where they do not share
            positions.
    """

    max_source_tokens: int
    max_new_tokens: int
    max_total_tokens: int = 0


@dataclass(frozen=True, slots=True)
class EmbeddingInfo:
    """The vectors of an embed model.

    Attributes:
        dimension: Numbers of a vector.
        normalized: Whether vectors are normalised to length 1 unless the request says otherwise.
        prompts: Prompts by name: what is put before a text.
        default_prompt: Name of the prompt for requests that name none; empty for none.
    """

    dimension: int
    normalized: bool
    prompts: Mapping[str, str]
    default_prompt: str


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a caller needs to know of a model.

    Attributes:
        name: Name, as requests give it.
        version: Version.
        task: What it does.
        architecture: Architecture, as its checkpoint named it.
        variant: The variant of the weights that serves.
        limits: Limits on a request.
        graph_kind: How its runs lay out the tokens of several texts.
        labels: Labels of a classify or tag model.
        embedding: The vectors of an embed model; None for others.
    """

    name: str
    version: int
    task: Task
    architecture: str
    variant: str
    limits: Limits
    graph_kind: GraphKind
    labels: tuple[str, ...]
    embedding: EmbeddingInfo | None
