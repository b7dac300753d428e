"""What is made of files, and made again when they change: certificates, tokens. Broken changes are not taken."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Generic, TypeVar

from headwaiter_server.errors import ConfigError
from headwaiter_server.log import get_logger

_log = get_logger(__name__)

Value = TypeVar("Value")

LOOK_SECONDS: Final = 1.0
# Far more than any of these files needs: a wrong path must not fill the memory.
_MOST_BYTES = 1 << 20


class Reread(Generic[Value]):
    """A value that is made of files; asked for it, it looks at most once a second whether they have changed.

    While what they hold now cannot be taken, the last value that could stays. Any thread may ask.
    """

    def __init__(
        self,
        name: str,
        paths: Sequence[Path],
        read: Callable[[], Value],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Read for the first time.

        Args:
            name: What it is, for the log.
            paths: The files.
            read: Makes the value of them; raises `ConfigError`, in words without anything secret.
            clock: Of the looks, in seconds.

        Raises:
            ConfigError: It cannot be made.
        """
        self._name = name
        self._paths = tuple(paths)
        self._read = read
        self._clock = clock
        self._lock = threading.Lock()
        # Seen before they are read: what changes in between is then read again.
        self._seen = self._signatures()
        self._due = clock() + LOOK_SECONDS
        self._value = read()
        self._problem = ""

    @property
    def failing(self) -> bool:
        """Whether the files hold what cannot be taken, and an earlier value is in use."""
        return bool(self._problem)

    def current(self) -> Value:
        """The value of the files as they are, or as they were when they could last be taken. Raises nothing."""
        # Whoever comes while another thread looks takes what there is.
        if self._clock() >= self._due and self._lock.acquire(blocking=False):
            try:
                self._look()
            finally:
                self._lock.release()
        return self._value

    def _look(self) -> None:
        self._due = self._clock() + LOOK_SECONDS
        signatures = self._signatures()
        # After a failure it is tried again in any case: half a file and the whole may carry the same time.
        if signatures == self._seen and not self._problem:
            return
        self._seen = signatures
        try:
            self._value = self._read()
        except ConfigError as error:
            self._keep(str(error))
        except Exception as error:  # noqa: BLE001 - a bug in reading must not make the change forgotten
            self._keep(_fault(error))
        else:
            self._problem = ""
            _log.info("changed_files_taken", what=self._name)

    def _keep(self, problem: str) -> None:
        """Go on with the last value; the same problem is logged once."""
        if problem != self._problem:
            self._problem = problem
            _log.error("changed_files_not_taken", what=self._name, reason=problem)

    def _signatures(self) -> tuple[object, ...]:
        return tuple(_signature(path) for path in self._paths)


def read_file(path: Path, setting: str) -> bytes:
    """A small file that a setting names.

    Args:
        path: The file.
        setting: The setting's flag, for the message.

    Raises:
        ConfigError: It cannot be read, or is no small file.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{setting}: {path}: {error.strerror}") from error
    if len(content) > _MOST_BYTES:
        raise ConfigError(f"{setting}: {path}: more than {_MOST_BYTES >> 20} MiB")
    return content


def _fault(error: Exception) -> str:
    """What was raised, and where; its words may hold what the file does."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"a fault of this server: {type(error).__name__} in {place.name}, line {place.lineno}"


def _signature(path: Path) -> object:
    """What differs when a file was written, or another one put in its place; through links, as Kubernetes has them."""
    try:
        status = path.stat()
    except OSError as error:
        return error.errno
    return status.st_mtime_ns, status.st_size, status.st_ino, status.st_dev
