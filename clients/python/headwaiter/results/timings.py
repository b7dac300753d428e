"""What replies say of the call itself."""

from __future__ import annotations

from dataclasses import dataclass


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
class Reading:
    """How the texts of a call were read.

    Attributes:
        tokens: Tokens of each text, special tokens and prompt included.
        truncated: Indices of the texts that were cut at the model's limit, ascending.
    """

    tokens: tuple[int, ...]
    truncated: tuple[int, ...]
