"""Texts are bounded over all calls, whole calls at a time."""

from __future__ import annotations

from contextlib import suppress

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


def flood(admission: Admission, key: str, weight: float = 1.0) -> list[Permit]:
    """As many calls of a caller as are let in."""
    permits: list[Permit] = []
    with suppress(QueueFullError):
        while True:
            permits.append(admission.admit(1, key, weight))
    return permits


async def test_caller_alone_has_all_places() -> None:
    """Nobody holds places for others where there are none: neither without keys nor with one."""
    for key in ("", "only"):
        assert len(flood(Admission(max_calls=80, max_bytes=1 << 20), key)) == 80


async def test_flood_leaves_places_for_others() -> None:
    """Where callers are told apart, one of them never takes the last places: what others send is let in."""
    admission = Admission(max_calls=80, max_bytes=1 << 20, shared=True)
    assert len(flood(admission, "flood")) == 70
    with pytest.raises(QueueFullError, match="70 calls of this caller are waiting already; what is left of 80 is for"):
        admission.admit(1, "flood")
    others = [admission.admit(1, key) for key in ("a", "b", "a", "b", "c")]
    with pytest.raises(QueueFullError):
        admission.admit(1, "flood")
    for permit in others:
        admission.release(permit)
    assert admission.calls == 70


async def test_second_caller_has_places_kept_from_then_on() -> None:
    """Without an access file it is not known before that there are several."""
    admission = Admission(max_calls=80, max_bytes=1 << 20)
    permits = flood(admission, "")
    with pytest.raises(QueueFullError):
        admission.admit(1, "late")
    for permit in permits[:20]:
        admission.release(permit)
    assert len(flood(admission, "")) == 10
    admission.admit(1, "late")


async def test_two_floods_share_the_places_by_weight() -> None:
    """The first that floods gives way to the second as its calls end, until each holds its share."""
    admission = Admission(max_calls=800, max_bytes=1 << 20, shared=True)
    weights, held = {"a": 1.0, "b": 2.0}, {"a": flood(admission, "a"), "b": list[Permit]()}
    for _ in range(3000):
        for permits in held.values():
            if permits:
                admission.release(permits.pop())
        for key, weight in weights.items():
            held[key] += flood(admission, key, weight)
    assert len(held["b"]) / len(held["a"]) == pytest.approx(2, rel=0.1)
    assert 0 < 800 - admission.calls < 800 / 8


async def test_weight_takes_nobody_the_last_places() -> None:
    """However much one caller weighs, there is a place of 64 for others; and however little, one for itself."""
    assert len(flood(Admission(max_calls=640, max_bytes=1 << 20, shared=True), "heavy", 100)) == 630
    assert len(flood(Admission(max_calls=8, max_bytes=1 << 20, shared=True), "light", 0.01)) == 1


async def test_flood_of_texts_leaves_room_for_others() -> None:
    """Texts are shared as calls are; who holds none is let in with what there is room for."""
    admission = Admission(max_calls=1000, max_bytes=1 << 20, max_texts=800, shared=True)
    for _ in range(70):
        admission.admit(1, "flood").hold_texts(10)
    with pytest.raises(QueueFullError, match="700 texts of this caller are waiting already; what is left of 800"):
        admission.admit(1, "flood").hold_texts(10)
    other = admission.admit(1, "other")
    other.hold_texts(90)
    with pytest.raises(QueueFullError, match="of this caller"):
        other.hold_texts(5)


async def test_flood_of_bytes_leaves_room_for_others() -> None:
    """So are bytes, of messages and of what is held beside them."""
    admission = Admission(max_calls=1000, max_bytes=8000, shared=True)
    for _ in range(70):
        admission.admit(100, "flood")
    with pytest.raises(QueueFullError, match="7000 bytes of calls of this caller are waiting already"):
        admission.admit(100, "flood")
    other = admission.admit(500, "other")
    other.hold_bytes(300, "inputs")
    second = admission.admit(50, "other")
    with pytest.raises(QueueFullError, match="of this caller"):
        second.hold_bytes(149, "inputs")


@pytest.mark.parametrize("key", ["", "named"])
async def test_message_that_fits_is_let_in_of_whoever_holds_nothing(key: str) -> None:
    """Also of the callers without a key, who are remembered: a message of nearly all bytes would else never come in."""
    admission = Admission(max_calls=10, max_bytes=1000, shared=True)
    for _ in range(2):
        with admission.admit(990, key), pytest.raises(QueueFullError):
            admission.admit(1, key)


async def test_changed_weight_counts_while_a_caller_holds_places() -> None:
    """Under load a caller always holds something; what the access file says of it now counts all the same."""
    admission = Admission(max_calls=640, max_bytes=1 << 20, shared=True)
    assert len(flood(admission, "ada")) == 560
    admission.let_in(1, "ada", 9.0)
    assert admission.calls + len(flood(admission, "ada", 9.0)) == 630


async def test_what_callers_hold_is_forgotten_with_their_last_call() -> None:
    """Callers come and go, each under a new name: nothing of them stays."""
    admission = Admission(max_calls=10, max_bytes=100)
    for number in range(100):
        with admission.admit(1, f"caller {number}") as permit:
            permit.hold_texts(1)
    assert not admission._held
    assert (admission.calls, admission.texts) == (0, 0)


async def test_quota_of_texts_is_told_once_there_is_room() -> None:
    """Texts that are refused for want of room cost no quota."""
    admission, told = Admission(max_calls=10, max_bytes=100, max_texts=5), list[int]()
    with admission.admit(1) as first, admission.admit(1) as second:
        first.quota = second.quota = told.append
        first.hold_texts(3)
        with pytest.raises(QueueFullError):
            second.hold_texts(3)
    assert told == [3]
