"""What an export tells while it works. It does not know whether a terminal listens."""

from __future__ import annotations

from typing import Protocol, TextIO


class Progress(Protocol):
    """Listener of one export."""

    def stage(self, name: str, total: int | None = None) -> None:
        """A stage begins; `total` units of it will be reported, if it has units."""

    def advance(self, units: int = 1) -> None:
        """Some units of the stage are done."""

    def note(self, text: str) -> None:
        """Something the user should know."""


class Silent:
    """Listens and says nothing."""

    def stage(self, name: str, total: int | None = None) -> None:
        """Ignore it."""

    def advance(self, units: int = 1) -> None:
        """Ignore it."""

    def note(self, text: str) -> None:
        """Ignore it."""


class Lines:
    """One plain line for each stage, for logs and pipes."""

    def __init__(self, stream: TextIO) -> None:
        """Write to `stream`."""
        self._stream = stream

    def stage(self, name: str, total: int | None = None) -> None:
        """Name the stage."""
        self.note(name if total is None else f"{name} ({total})")

    def advance(self, units: int = 1) -> None:
        """Ignore it: a log needs no line per unit."""

    def note(self, text: str) -> None:
        """Write a line at once."""
        self._stream.write(f"{text}\n")
        self._stream.flush()
