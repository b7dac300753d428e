"""What can go wrong before or besides the calls, in the user's words.

LoadError
|-- BadInputError         a file or an option that makes no sense; names it
|-- UnreachableError      no server answers, or it does not know the model
`-- WorkerError           a process of the tester's own died
"""

from __future__ import annotations


class LoadError(Exception):
    """Root of every error that this package raises."""


class BadInputError(LoadError):
    """A file or an option makes no sense; the message names it."""


class UnreachableError(LoadError):
    """No server answers at the target, or it does not know what it was asked for."""


class WorkerError(LoadError):
    """A process that sends load ended before its work was done."""
