"""Tests side by side: those marked `alone` have the machine to themselves, and what is dear to make is made once.

With `pytest -n 2` two processes run tests. A test marked `alone` measures time or processor use, or needs its server to
be answered in time; it waits until the other process's test has ended, and holds up the next one until it has ended
itself. Without `-n` nothing here does anything.
"""

from __future__ import annotations

import fcntl
import shutil
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

MARKER = "alone"
_FOLDER = "turns_folder"


class Turns:
    """The tests of one process among several: one at a time may be alone, or each process runs one.

    Args:
        folder: The same for all processes.
    """

    def __init__(self, folder: Path) -> None:
        self._entrance, self._machine = folder / "entrance", folder / "machine"
        self._held = ExitStack()
        self._alone = False

    def begin(self, *, alone: bool) -> None:
        """Wait until a test may run."""
        if alone and self._alone:
            return
        # Who waits for the machine stands in the entrance, so that the others' next tests cannot overtake for ever.
        with locked(self._entrance, fcntl.LOCK_EX):
            self._held.enter_context(locked(self._machine, fcntl.LOCK_EX if alone else fcntl.LOCK_SH))
        self._alone = alone

    def end(self, *, more_alone: bool) -> None:
        """A test has ended; those alone that follow one another keep the machine."""
        if not (self._alone and more_alone):
            self._held.close()
            self._alone = False


@contextmanager
def locked(path: Path, how: int) -> Iterator[None]:
    """Hold a file's lock."""
    with path.open("a") as file:
        fcntl.flock(file, how)
        yield


class Side:
    """The plugin of a process that runs tests beside others."""

    def __init__(self, folder: Path) -> None:
        self._turns = Turns(folder)

    # Outside of everything else, so that no time limit counts the waiting.
    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None, bool, bool]:
        """Wait for a turn, run, hand it on."""
        self._turns.begin(alone=_is_alone(item))
        try:
            return (yield)
        finally:
            self._turns.end(more_alone=nextitem is not None and _is_alone(nextitem))


class Middle:
    """The plugin of the process that others run tests for: it gives them a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:  # noqa: ANN401 - a class of xdist's, which need not be installed
        """Tell a process where it is."""
        node.workerinput[_FOLDER] = str(self._folder)

    def pytest_unconfigure(self) -> None:
        """Leave nothing behind."""
        shutil.rmtree(self._folder, ignore_errors=True)


def take_part(config: pytest.Config) -> None:
    """Register what a process needs."""
    folder = shared_folder(config)
    if folder is not None:
        config.pluginmanager.register(Side(folder))
    elif config.getoption("numprocesses", None):
        config.pluginmanager.register(Middle(Path(tempfile.mkdtemp(prefix="headwaiter-turns-"))))


def shared_folder(config: pytest.Config) -> Path | None:
    """What processes that run tests beside one another share; None for one alone."""
    workerinput: dict[str, Any] = getattr(config, "workerinput", {})
    return Path(workerinput[_FOLDER]) if _FOLDER in workerinput else None


def made_once(config: pytest.Config, name: str, otherwise: Path, make: Callable[[Path], object]) -> Path:
    """A folder that one process makes, and all use.

    Args:
        config: Of the process.
        name: Of the folder.
        otherwise: Where to make it when there is but one process.
        make: Makes what is in it.
    """
    shared = shared_folder(config)
    if shared is None:
        make(otherwise)
        return otherwise
    folder, done = shared / name, shared / f"{name}.done"
    with locked(shared / f"{name}.lock", fcntl.LOCK_EX):
        if not done.exists():
            # Of one who has failed.
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            done.touch()
    return folder


def _is_alone(item: pytest.Item) -> bool:
    return item.get_closest_marker(MARKER) is not None
