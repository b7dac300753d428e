"""Texts are bounded over all calls, whole calls at a time."""

from __future__ import annotations

import pytest
from headwaiter_server.errors import QueueFullError
from headwaiter_server.scheduling.admission import Admission, Permit


async def test_texts_are_refused_over_the_bound_and_taken_once_there_is_room() -> None:
    """A call's texts are counted until its permit is back; over the bound none is, with a hint when to retry."""
    admission = Admission(max_calls=10, max_bytes=100, max_texts=5)
    with admission.admit(1) as first, admission.admit(1) as second:
        first.hold_texts(3)
        with pytest.raises(QueueFullError, match="3 texts are waiting already, the limit is 5") as refused:
            second.hold_texts(3)
        assert refused.value.retry_after_seconds > 0
        second.hold_texts(2)
    with admission.admit(1) as third:
        third.hold_texts(5)


async def test_call_alone_is_taken_whatever_its_size() -> None:
    """A call that the server takes at all is taken when nothing else is held; nothing comes beside it."""
    admission = Admission(max_calls=10, max_bytes=100, max_texts=5)
    with admission.admit(1) as large, admission.admit(1) as small:
        large.hold_texts(50)
        with pytest.raises(QueueFullError):
            small.hold_texts(1)


async def test_texts_come_back_when_the_work_raises() -> None:
    """However a call ends, its texts are given back."""
    admission = Admission(max_calls=10, max_bytes=100, max_texts=5)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), admission.admit(1) as permit:
            fail_with_texts(permit)


def fail_with_texts(permit: Permit) -> None:
    permit.hold_texts(5)
    raise ZeroDivisionError
