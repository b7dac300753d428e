"""Files of a model repository, read without trusting them: no links, no devices, nothing larger than it may be."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO

from headwaiter_server.errors import BundleError
from headwaiter_server.pacing import paced

# Of the manifest: far beyond any real one.
MOST_TEXT_BYTES = 16 << 20
# A tokenizer's or the golden file.
MOST_SIDE_BYTES = 256 << 20
# An ONNX file is one protobuf message, which cannot be larger.
MOST_GRAPH_BYTES = (1 << 31) - 1
# What is read at a time of a file of which only the digest is wanted.
_STRETCH_BYTES = 1 << 20


def read_file(path: Path, most_bytes: int, expected_bytes: int | None = None) -> bytes:
    """All bytes of a file.

    Args:
        path: The file.
        most_bytes: Its size at most; what is larger is not read.
        expected_bytes: Its size, where that is known.

    Raises:
        BundleError: It is missing, no regular file, a link, or of another size; the message names it.
    """
    with _opened(path, most_bytes, expected_bytes) as (file, size_bytes):
        content = paced(partial(file.read, size_bytes))
    _check_size(path, len(content), expected_bytes)
    return content


def digest_file(path: Path, most_bytes: int, words: Collection[bytes] = ()) -> tuple[str, set[bytes]]:
    """SHA-256 of a file, and which of some words stand in it; it may be larger than memory.

    Args:
        path: The file.
        most_bytes: As for `read_file`.
        words: What is looked for.

    Raises:
        BundleError: As for `read_file`.
    """
    digest, found, end = hashlib.sha256(), set[bytes](), b""
    # A word may begin in one stretch and end in the next.
    overlap_bytes = max(map(len, words), default=1) - 1
    with _opened(path, most_bytes) as (file, size_bytes):
        left_bytes = size_bytes
        while left_bytes > 0 and (stretch := file.read(min(left_bytes, _STRETCH_BYTES))):
            left_bytes -= len(stretch)
            digest.update(stretch)
            seen = end + stretch
            found.update(word for word in words if word not in found and word in seen)
            end = seen[max(0, len(seen) - overlap_bytes) :]
    return digest.hexdigest(), found


@contextmanager
def _opened(path: Path, most_bytes: int, expected_bytes: int | None = None) -> Iterator[tuple[BinaryIO, int]]:
    """A file and its size, once it is known to be what it should be; what cannot be read is a `BundleError`."""
    try:
        with open(path, "rb", opener=_open) as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise BundleError(f"{path} cannot be read: it is no regular file")
            _check_size(path, found.st_size, expected_bytes)
            if found.st_size > most_bytes:
                raise BundleError(f"{path} has {found.st_size} bytes, the limit is {most_bytes}")
            yield file, found.st_size
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL
        if isinstance(error, OSError) and error.errno == errno.ELOOP:
            raise BundleError(f"{path} is a symbolic link") from error
        reason = error.strerror if isinstance(error, OSError) else "its name is none"
        raise BundleError(f"{path} cannot be read: {reason}") from error


def _open(path: str, flags: int) -> int:
    # Not waiting for a writer, should it be a pipe.
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def _check_size(path: Path, found: int, expected: int | None) -> None:
    if expected is not None and found != expected:
        raise BundleError(f"{path} has {found} bytes, the manifest says {expected}")
