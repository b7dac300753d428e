"""Small files in which the server remembers what it has found out; whole or not there.

What cannot be written is found out again: nothing here keeps a server from starting. A server that is killed while it
writes leaves a temporary file, which the next one to write removes: whoever still writes one holds a lock on it, and
locks end with their process.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

# Whoever may read the model may read this; temporary files are for their owner alone.
_MODE = 0o644
_PREFIX, _SUFFIX = "headwaiter-", ".tmp"


def keep_file(folders: Sequence[Path], name: str, text: str) -> list[str]:
    """Write a file into the first of the folders that can be written.

    Returns:
        Why none could be; empty if it was written.
    """
    reasons = []
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _remove_abandoned(folder)
            with tempfile.NamedTemporaryFile(
                "w", dir=folder, prefix=_PREFIX, suffix=_SUFFIX, delete=False, encoding="utf-8"
            ) as file:
                temporary = Path(file.name)
                try:
                    with contextlib.suppress(OSError):  # where files cannot be locked, nobody takes it away either
                        _lock(file.fileno())
                    file.write(text)
                    file.flush()
                    temporary.chmod(_MODE)
                    temporary.replace(folder / name)
                except OSError:
                    temporary.unlink(missing_ok=True)
                    raise
        except OSError as error:
            reasons.append(f"{folder}: {os.strerror(error.errno) if error.errno else error}")
        else:
            return []
    return reasons or ["there is no folder for it"]


def _remove_abandoned(folder: Path) -> None:
    """Remove the temporary files that nobody writes any more."""
    for path in folder.glob(f"{_PREFIX}*{_SUFFIX}"):
        with contextlib.suppress(OSError):  # gone, locked, or not ours to remove
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                _lock(descriptor)
                path.unlink()
            finally:
                os.close(descriptor)


def _lock(descriptor: int) -> None:
    """Lock a file until it is closed.

    Raises:
        OSError: Somebody else has it locked.
    """
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
