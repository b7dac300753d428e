"""Real texts to hold both sides to, where there are any that fit the model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from headwaiter_export.architectures import Options
from headwaiter_export.encoders.checkpoint import Checkpoint
from headwaiter_export.encoders.layout import Tokens
from headwaiter_export.errors import TextsError
from headwaiter_export.texts import SAMPLE_FILE, read_lines, reference_texts


@dataclass(frozen=True)
class Samples:
    """Texts and their tokens.

    Attributes:
        texts: As people read them.
        tokens: As the model reads them, as many.
        origin: Where they come from, for the user.
    """

    texts: list[str]
    tokens: list[Tokens]
    origin: str


def read_samples(source: Path, checkpoint: Checkpoint, options: Options) -> Samples:
    """Take the user's texts, else the checkpoint's, else Python's own reference; those that fit the model.

    Raises:
        TextsError: The user's or the checkpoint's texts cannot be read, or none of them fits.
    """
    path = options.words or source / SAMPLE_FILE
    if options.words or path.exists():
        texts, origin = read_lines(path), f"texts of {path.name}"
    else:
        texts, origin = reference_texts(), "texts of Python's reference"
    encoded = [Tokens(each.ids, each.type_ids) for each in checkpoint.tokenizer.encode_batch(texts)]
    fitting = [
        (text, tokens)
        for text, tokens in zip(texts, encoded, strict=True)
        if 0 < len(tokens.ids) <= checkpoint.max_tokens
    ]
    if texts and not fitting and path.exists():
        raise TextsError(f"{path}: none of its {len(texts)} lines fits the model")
    return Samples([text for text, _ in fitting], [tokens for _, tokens in fitting], origin)
