"""Small files in which the server remembers what it has found out; whole or not there.

What cannot be written is found out again: nothing here keeps a server from starting.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

# Whoever may read the model may read this; temporary files are for their owner alone.
_MODE = 0o644


def keep_file(folders: Sequence[Path], name: str, text: str) -> list[str]:
    """Write a file into the first of the folders that can be written.

    Returns:
        Why none could be; empty if it was written.
    """
    reasons = []
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=folder, suffix=".tmp", delete=False, encoding="utf-8") as file:
                temporary = Path(file.name)
                try:
                    file.write(text)
                    file.close()
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
