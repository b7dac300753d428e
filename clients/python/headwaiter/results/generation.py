"""What `generate` returns."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from headwaiter.results.timings import Timings


class FinishReason(StrEnum):
    """Why a generation ended."""

    END_OF_SEQUENCE = "end_of_sequence"
    """The model ended the sequence itself."""
    LENGTH = "length"
    """The limit on new tokens was reached first."""
    UNKNOWN = "unknown"
    """A reason that this version of the client does not know."""


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
