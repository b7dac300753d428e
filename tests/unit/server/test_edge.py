"""What a caller asks of the scheduler, as metadata, and what becomes of a call whose caller has gone."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any, cast

import grpc
import pytest
from headwaiter_server.errors import InvalidRequestError
from headwaiter_server.rpc.crossing import PRIORITY_KEY, Crossing, cancelled_code, terms_of
from headwaiter_server.rpc.server import GrpcServer
from headwaiter_server.scheduling.calls import NO_DEADLINE, Terms


class Context:
    """A call with a priority."""

    def __init__(self, priority: str) -> None:
        self._priority = priority

    def time_remaining(self) -> None:
        return None

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return ((PRIORITY_KEY, self._priority),)


def priority(value: str) -> int:
    return terms_of(time.monotonic(), cast("Any", Context(value))).priority


def test_priorities_in_range_are_taken() -> None:
    """1 to 16, in plain digits."""
    assert [priority(str(level)) for level in range(1, 17)] == list(range(1, 17))


@pytest.mark.parametrize("value", ["", "0", "17", "100", "0001", "1" + "0" * 5000, "0016" + "9" * 10, "\u0661", "1 "])
def test_other_priorities_are_refused_in_our_words(value: str) -> None:
    """A number is judged whole and not by its first digits, and one of any length is refused with the range."""
    with pytest.raises(InvalidRequestError, match=r"from 1 \(first\) to 16"):
        priority(value)


async def test_caller_that_has_gone_is_no_error_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """What gRPC says of callers that have just gone, or of their bytes, is left out of the log; what else is not."""
    GrpcServer([], [], max_message_bytes=1000, max_streams=10)
    logger = logging.getLogger("grpc._cython.cygrpc")
    no_text = UnicodeDecodeError("utf-8", b"Bearer \xff", 7, 8, "invalid start byte")
    gone = (asyncio.CancelledError(), grpc.aio.InternalError("execute_batch"))
    for error in (*gone, no_text, grpc.aio.UsageError("finished")):
        logger.error("raised by servicer method", exc_info=error)
    logger.error("something else")
    kinds = [record.exc_info and record.exc_info[0] for record in caplog.records if record.name == logger.name]
    assert kinds == [grpc.aio.UsageError, None]


@pytest.mark.parametrize(
    ("allowed", "gone_after", "code"),
    [
        (10.0, 5.0, "CANCELLED"),
        (10.0, 9.5, "CANCELLED"),
        (10.0, 9.95, "DEADLINE_EXCEEDED"),
        (10.0, 11.0, "DEADLINE_EXCEEDED"),
        (0.05, 0.045, "DEADLINE_EXCEEDED"),
        (0.05, 0.01, "CANCELLED"),
        (NO_DEADLINE, 1e9, "CANCELLED"),
    ],
)
def test_caller_that_goes_with_its_deadline_has_run_out_of_time(allowed: float, gone_after: float, code: str) -> None:
    """A client gives up a moment before the server thinks its time is over, and sees a deadline that has passed."""
    crossing = Crossing(Terms(100.0, 100.0 + allowed))
    assert cancelled_code(crossing, 100.0 + gone_after).name == code
