"""What calls return: frozen values, free of protocol buffers and of gRPC."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class FinishReason(StrEnum):
    """Why a generation ended."""

    END_OF_SEQUENCE = "end_of_sequence"
    """The model ended the sequence itself."""
    LENGTH = "length"
    """The limit on new tokens was reached first."""
    UNKNOWN = "unknown"
    """A reason that this version of the client does not know."""


class Task(StrEnum):
    """What a model does."""

    GENERATE = "generate"
    """Text to text."""
    UNKNOWN = "unknown"
    """A task that this version of the client does not know."""


class HealthStatus(StrEnum):
    """What a server says of itself or of one model, as gRPC's health checking protocol names it."""

    UNKNOWN = "UNKNOWN"
    SERVING = "SERVING"
    NOT_SERVING = "NOT_SERVING"
    SERVICE_UNKNOWN = "SERVICE_UNKNOWN"
    """The server knows no model by that name."""


@dataclass(frozen=True, slots=True)
class Timings:
    """Where the server's time went, and what shared its runs. Of a call with many texts: the largest of each.

    Attributes:
        total_seconds: From the server's first sight of the call to its reply.
        tokenize_seconds: Text to token ids.
        queue_seconds: From submission to the first run that held the text.
        inference_seconds: From the start of the first run to the end of the last.
        batch_size: The most rows that any of its runs held, this call's own among them.
        batch_tokens: The most tokens that any of its runs processed.
        batch_id: Number of its first run in the server's life: equal ids shared a run.
    """

    total_seconds: float
    tokenize_seconds: float
    queue_seconds: float
    inference_seconds: float
    batch_size: int
    batch_tokens: int
    batch_id: int


@dataclass(frozen=True, slots=True)
class GenerationResult:
    """What was generated for one text.

    Attributes:
        text: The generated text, special tokens left out.
        token_ids: The generated token ids, without the end-of-sequence token.
        finish_reason: Why the generation ended.
        source_tokens: Tokens of the input text, special tokens included.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    source_tokens: int


@dataclass(frozen=True, slots=True)
class GenerateReply:
    """The answer to one `generate` call.

    Attributes:
        model: The model that answered.
        version: The version that answered.
        variant: The variant of the weights that answered: "fp32", "int8".
        generations: One for each text, in the order of the texts.
        timings: Where the time of the call went.
    """

    model: str
    version: int
    variant: str
    generations: tuple[GenerationResult, ...]
    timings: Timings


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits on a request, in tokens as the model counts them (special tokens included).

    Attributes:
        max_source_tokens: Longest source text.
        max_new_tokens: Most tokens generated for one text, the end-of-sequence token included.
    """

    max_source_tokens: int
    max_new_tokens: int


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
    """

    name: str
    version: int
    task: Task
    architecture: str
    variant: str
    limits: Limits
