"""Files of a model repository are read as far as they may be, and no further."""

from __future__ import annotations

import hashlib
import os
import tracemalloc
from pathlib import Path

import pytest
from headwaiter_server.errors import BundleError
from headwaiter_server.model.files import digest_file, read_file

MIB = 1 << 20


def test_words_are_found_wherever_they_stand(tmp_path: Path) -> None:
    """Also across the stretches in which a file is read; and its digest is that of all of it."""
    path = tmp_path / "graph"
    for start in (0, MIB - 3, MIB, 2 * MIB - 1):
        content = bytearray(3 * MIB)
        content[start : start + 6] = b"middle"
        path.write_bytes(content)
        digest, found = digest_file(path, len(content), [b"middle", b"nowhere", b"m"])
        assert digest == hashlib.sha256(content).hexdigest()
        assert found == {b"middle", b"m"}
    path.write_bytes(b"")
    assert digest_file(path, 1) == (hashlib.sha256().hexdigest(), set())


def test_digest_takes_no_memory(tmp_path: Path) -> None:
    """A file from elsewhere may be larger than what there is: it is not held before it is tried."""
    path = tmp_path / "graph"
    path.touch()
    os.truncate(path, 64 * MIB)
    tracemalloc.start()
    try:
        digest_file(path, 64 * MIB, [b"weights.bin"])
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 8 * MIB


def test_what_is_no_plain_file_is_refused(tmp_path: Path) -> None:
    """By its size, as a link, as a pipe that nobody writes to, and by a name that is none; either way of reading."""
    (tmp_path / "large").write_bytes(b"12345")
    (tmp_path / "link").symlink_to(tmp_path / "large")
    os.mkfifo(tmp_path / "pipe")
    for name, words in {
        "large": "has 5 bytes, the limit is 4",
        "link": "is a symbolic link",
        "pipe": "is no regular file",
        "missing": "No such file",
        "nul\0": "its name is none",
    }.items():
        for read in (read_file, digest_file):
            with pytest.raises(BundleError, match=words):
                read(tmp_path / name, 4)
