"""Lines of a stream, however it is cut."""

from __future__ import annotations

import io
from typing import BinaryIO, cast

import pytest
from headwaiter import bulk


class Pieces(io.RawIOBase):
    """A stream whose reads give these pieces."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = [*pieces, b""]

    def read(self, size: int = -1) -> bytes:
        return self._pieces.pop(0)


async def lines(*pieces: bytes) -> list[tuple[str, bytes]]:
    return [
        (text.origin, text.raw) async for batch in bulk.from_lines(cast("BinaryIO", Pieces(*pieces))) for text in batch
    ]


@pytest.mark.parametrize("text", [b"", b"\n", b"one", b"one\n", b"one\r\n\ntwo\nthr\xc3\xa9e", b"\n\nlong line\n"])
@pytest.mark.parametrize("size", [1, 2, 3, 100])
async def test_lines_do_not_depend_on_the_reads(text: bytes, size: int) -> None:
    """Wherever the reads cut, the lines and their numbers are the stream's."""
    expected = [(f"line {n}", line) for n, line in enumerate(text.replace(b"\r", b"").split(b"\n"), 1) if line]
    assert await lines(*(text[at : at + size] for at in range(0, len(text), size))) == expected


class CountedBytes(bytes):
    """Counts what is copied by adding to it."""

    copied = 0

    def __radd__(self, other: bytes) -> CountedBytes:
        CountedBytes.copied += len(other)
        return CountedBytes(bytes(other) + bytes(self))


async def test_long_line_is_copied_once() -> None:
    """A line that comes in many reads is put together at its end, not again with each read."""
    CountedBytes.copied = 0
    pieces = [CountedBytes(b"x" * 1000) for _ in range(200)]
    assert await lines(*pieces) == [("line 1", b"x" * 200_000)]
    assert CountedBytes.copied <= 200_000
