"""Long work of libraries beside the threads that serve: it takes pauses.

Not a lower priority: a thread that is put aside while it holds a lock that others need, the interpreter's or one of the
kernel's on the memory of the process, holds up those as well. Measured with a model of 90 MB that is swapped at 70 % of
what two processors can do: at nice 19 the slowest percent of calls took fifteen times as long.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

Result = TypeVar("Result")

# Pauses are so many times as long as what is done between them: a third of a processor is taken, which is there where
# two serve at 70 %.
_PAUSE = 2.0
_here = threading.local()


@contextmanager
def giving_way() -> Iterator[None]:
    """Have this thread take a pause after each `paced` work."""
    _here.gives_way = True
    try:
        yield
    finally:
        del _here.gives_way


def paced(work: Callable[[], Result]) -> Result:
    """Do something that takes a processor for long, and then pause, if this thread is `giving_way`.

    Args:
        work: What is done.
    """
    if not getattr(_here, "gives_way", False):
        return work()
    began = time.perf_counter()
    try:
        return work()
    finally:
        time.sleep(_PAUSE * (time.perf_counter() - began))
