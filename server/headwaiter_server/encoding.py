"""A text as the model reads it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Encoding:
    """Token ids of one text.

    Attributes:
        ids: Token ids, special tokens included.
    """

    ids: list[int]

    def __len__(self) -> int:
        """Length in tokens."""
        return len(self.ids)
