"""The messages that a run sends, made before it begins so that making them costs nothing while it lasts."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from headwaiter_load.errors import BadInputError

Exchange = Literal["unary", "generate", "generate-stream", "embed-stream", "infer-stream"]

# Of texts without end: enough that no cache holds a run's texts by chance, and few enough to be made at once.
MADE_CALLS: Final = 4096


@dataclass(frozen=True, slots=True)
class Requests:
    """What to send, and where to.

    Attributes:
        path: The method's full name on the wire, `/package.Service/Method`.
        exchange: Whether each message is a call of its own, and how that is answered, or one of a stream, and of which.
        payloads: The messages; call number n sends number n modulo their count.
        rows: Texts, or rows, of each.
    """

    path: str
    exchange: Exchange
    payloads: tuple[bytes, ...]
    rows: tuple[int, ...]


def read_texts(path: Path) -> list[str]:
    """The lines of a file, blank ones left out.

    Raises:
        BadInputError: There are none, or they are no UTF-8.
        OSError: It cannot be read.
    """
    try:
        texts = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise BadInputError(f"{path} is no UTF-8: {error}") from error
    if not texts:
        raise BadInputError(f"{path} holds no texts")
    return texts


def groups(texts: Sequence[str], size: int) -> list[tuple[str, ...]]:
    """All texts, `size` a call; the last call begins again with the first texts, so that all calls are alike."""
    count = -(-len(texts) // size)
    endless = itertools.cycle(texts)
    return [tuple(itertools.islice(endless, size)) for _ in range(count)]


def made_groups(texts: Iterable[str], size: int, calls: int = MADE_CALLS) -> list[tuple[str, ...]]:
    """The texts of so many calls, out of texts without end."""
    source: Iterator[str] = iter(texts)
    return [tuple(itertools.islice(source, size)) for _ in range(calls)]
