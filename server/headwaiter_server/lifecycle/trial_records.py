"""Which models have passed their trial before, on this machine and with these versions.

Never kept beside a model: a bundle from elsewhere would vouch for itself.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from headwaiter_server.lifecycle.kept_files import keep_file
from headwaiter_server.log import get_logger

_log = get_logger(__name__)

# Changed whenever trials come to try more than they did.
_FORMAT = 1
_NAME_DIGITS = 16


@dataclass(frozen=True, slots=True)
class TrialMachine:
    """What a trial's outcome depends on besides the model.

    Attributes:
        cpus: The processors in words.
        onnxruntime: Its version.
        headwaiter: Its version.
    """

    cpus: str
    onnxruntime: str
    headwaiter: str


class TrialRecords:
    """Remembers trials, in memory and in a folder of the server's own."""

    def __init__(self, folders: Sequence[Path], machine: TrialMachine) -> None:
        """Begin.

        Args:
            folders: Where they are kept: in the first that can be written.
            machine: What they hold for.
        """
        self._folders = folders
        self._machine = machine
        self._passed: set[tuple[str, str]] = set()

    def has(self, digest: str, variant: str) -> bool:
        """Whether the files of this digest have passed in a variant."""
        if (digest, variant) in self._passed:
            return True
        record = self._record(digest, variant)
        for path in (folder / _file_name(record) for folder in self._folders):
            try:
                found = json.loads(path.read_bytes())
            except FileNotFoundError:
                continue
            except (OSError, ValueError) as error:
                _log.warning("trial_ignored", path=str(path), reason=str(error))
                continue
            if found == record:
                self._passed.add((digest, variant))
                return True
        return False

    def add(self, digest: str, variant: str) -> None:
        """Remember that they have."""
        self._passed.add((digest, variant))
        record = self._record(digest, variant)
        if reasons := keep_file(self._folders, _file_name(record), json.dumps(record, indent=1)):
            _log.info("trial_not_kept", reasons=reasons)

    def _record(self, digest: str, variant: str) -> dict[str, object]:
        return {"format": _FORMAT, **asdict(self._machine), "digest": digest, "variant": variant}


def _file_name(record: dict[str, object]) -> str:
    text = json.dumps(record, sort_keys=True)
    return f"trial-{hashlib.sha256(text.encode()).hexdigest()[:_NAME_DIGITS]}.json"
