"""A text as the model reads it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Encoding:
    """Token ids of one text, or of one pair of texts.

    Attributes:
        ids: Token ids, special tokens included.
        type_ids: Which text of a pair each token belongs to, for models that are told; None where all are 0.
        truncated: Whether the text was longer and was cut, as the caller had asked.
        offsets: First character of each token and one past its last, in code points; special tokens stand at (0, 0).
            None unless they were asked for.
    """

    ids: list[int]
    type_ids: list[int] | None = None
    truncated: bool = False
    offsets: list[tuple[int, int]] | None = None

    def __len__(self) -> int:
        """Length in tokens."""
        return len(self.ids)
