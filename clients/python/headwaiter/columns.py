"""Text in the columns of a terminal."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def shown(name: str) -> str:
    """A name without characters that do something to a terminal, or that a file must not hold."""
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in name)


def aligned(texts: Iterable[str]) -> list[str]:
    """Texts, all as wide as the widest."""
    each = list(texts)
    width = max(map(cells, each), default=0)
    return [padded(text, width) for text in each]


def cells(text: str) -> int:
    """Columns of a terminal that a text takes."""
    return sum(2 if unicodedata.east_asian_width(each) in "WF" else not unicodedata.combining(each) for each in text)


def padded(text: str, width: int) -> str:
    """A text with spaces behind it, so wide."""
    return text + " " * (width - cells(text))
