"""The texts that both sides decode, real ones where there are any; and how they become tokens."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from headwaiter_export.errors import CorruptCheckpointError, TextsError

TEXTS: Final = 500
SAMPLE_FILE: Final = "sample_texts.txt"
_RANDOM_LENGTHS: Final = (2, 16)
# Characters; below it headings and leftovers.
_SHORTEST: Final = 30


@dataclass(frozen=True)
class Texts:
    """Token ids of the texts.

    Attributes:
        rows: Ids of each text, special tokens included.
        names: What to call each text in a message.
        origin: Where they come from, for the user.
    """

    rows: list[list[int]]
    names: list[str]
    origin: str

    def __add__(self, more: Self) -> Texts:
        return Texts(self.rows + more.rows, self.names + more.names, f"{self.origin} and {more.origin}")


def parse_tokenizer(path: Path, text: str, vocab_size: int) -> Tokenizer:
    """A tokenizer whose ids the model has embeddings for.

    Args:
        path: Where it comes from.
        text: It, as JSON.
        vocab_size: Of the model.

    Raises:
        CorruptCheckpointError: It is none, or has higher ids.
    """
    try:
        tokenizer = Tokenizer.from_str(text)
    except Exception as error:  # tokenizers raises bare Exception
        raise CorruptCheckpointError(f"{path}: {error}") from error
    highest = max(tokenizer.get_vocab().values(), default=0)
    if highest >= vocab_size:
        raise CorruptCheckpointError(
            f"{path}: token ids go up to {highest}, but config.json has vocab_size {vocab_size}"
        )
    return tokenizer


def read_texts(path: Path, tokenizer: Tokenizer, max_tokens: int, unk_id: int | None) -> Texts:
    """Read one text per line; those the model would refuse are left out.

    Raises:
        TextsError: The file cannot be read or no line of it fits the model.
    """
    texts = read_lines(path)
    rows, names = [], []
    for text in texts:
        ids = tokenizer.encode(text).ids
        if 0 < len(ids) <= max_tokens and unk_id not in ids:
            rows.append(ids)
            names.append(repr(text))
        if len(rows) == TEXTS:
            break
    if not rows:
        raise TextsError(f"{path}: none of its {len(texts)} lines fits the model")
    return Texts(rows, names, f"{len(rows)} texts of {path.name}")


def read_lines(path: Path) -> list[str]:
    """Read the lines of a file that hold anything.

    Raises:
        TextsError: It cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise TextsError(f"{path}: cannot be read as texts: {error}") from error
    return [line for line in lines if line.strip()]


def reference_texts() -> list[str]:
    """Sentences and paragraphs of Python's own reference, in an order that mixes them; the same ones each time.

    For models of whole texts where the user gives none. Empty where Python comes without `pydoc_data`.
    """
    try:
        from pydoc_data.topics import topics  # noqa: PLC0415 (some systems leave it out)
    except ModuleNotFoundError:
        return []
    paragraphs = [
        " ".join(paragraph.split())
        for topic in sorted(topics)
        for paragraph in topics[topic].split("\n\n")
        # Prose begins at the margin; what is indented is code, tables and grammar.
        if not paragraph.startswith(" ") and len(paragraph) > _SHORTEST
    ]
    sentences = [each for paragraph in paragraphs for each in re.split(r"(?<=[.!?])\s+", paragraph)]
    texts = list(dict.fromkeys([*(each for each in sentences if len(each) > _SHORTEST), *paragraphs]))
    return [texts[index] for index in np.random.default_rng(0).permutation(len(texts))]


def random_texts(
    vocab_size: int,
    max_tokens: int,
    special_ids: set[int],
    *,
    count: int = TEXTS,
    lengths: tuple[int, int] = _RANDOM_LENGTHS,
) -> Texts:
    """Random token ids, always the same ones.

    Args:
        vocab_size: Of the model.
        max_tokens: That it reads.
        special_ids: Ids that stand in no text.
        count: How many texts.
        lengths: The fewest and most tokens of one.
    """
    generator = np.random.default_rng(0)
    ids = np.array(sorted(set(range(vocab_size)) - special_ids) or range(vocab_size))
    low, high = (min(bound, max_tokens) for bound in lengths)
    rows: list[list[int]] = [
        generator.choice(ids, length).tolist() for length in generator.integers(low, high + 1, count)
    ]
    return Texts(rows, [f"random text {row}" for row in range(count)], f"{count} texts of random tokens")


def padded(rows: list[list[int]], pad_id: int) -> NDArray[np.int64]:
    """Rows of different lengths as one array, `pad_id` filling them on the right."""
    array: NDArray[Any] = np.full((len(rows), max(map(len, rows))), pad_id, np.int64)
    for index, row in enumerate(rows):
        array[index, : len(row)] = row
    return array
