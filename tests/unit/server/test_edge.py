"""What a caller asks of the scheduler, as metadata."""

from __future__ import annotations

import time
from typing import Any, cast

import pytest
from headwaiter_server.errors import InvalidRequestError
from headwaiter_server.rpc.edge import PRIORITY_KEY, _terms


class Context:
    """A call with a priority."""

    def __init__(self, priority: str) -> None:
        self._priority = priority

    def time_remaining(self) -> None:
        return None

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return ((PRIORITY_KEY, self._priority),)


def priority(value: str) -> int:
    return _terms(time.monotonic(), cast("Any", Context(value))).priority


def test_priorities_in_range_are_taken() -> None:
    """1 to 16, in plain digits."""
    assert [priority(str(level)) for level in range(1, 17)] == list(range(1, 17))


@pytest.mark.parametrize("value", ["", "0", "17", "100", "0001", "1" + "0" * 5000, "0016" + "9" * 10, "\u0661", "1 "])
def test_other_priorities_are_refused_in_our_words(value: str) -> None:
    """A number is judged whole and not by its first digits, and one of any length is refused with the range."""
    with pytest.raises(InvalidRequestError, match=r"from 1 \(first\) to 16"):
        priority(value)
