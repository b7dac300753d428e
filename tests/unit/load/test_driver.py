"""A run of one process, with a sender that does what no sender should."""

from __future__ import annotations

import time

import pytest
from headwaiter_load.driver import Assignment, Driver
from headwaiter_load.outcome import Outcome
from headwaiter_load.recorder import Window
from headwaiter_load.requests import Requests
from headwaiter_load.schedules import Closed, Load, Open


class _Broken:
    """Raises where it should say what came of a message."""

    async def send(self, payload: bytes, timeout_seconds: float | None) -> Outcome:
        raise RuntimeError("broken sender")

    async def close(self) -> None:
        """Nothing is held open."""


@pytest.mark.parametrize("load", [Open("constant", 100.0), Closed(2)], ids=["open", "closed"])
async def test_a_call_that_gets_lost_ends_the_run_without_figures(load: Load) -> None:
    """Counted nowhere, it would make the others look like all there were. The run, of an hour, is not waited out."""
    start = time.monotonic()
    assignment = Assignment(
        load=load,
        start=start,
        window=Window(start, seconds=3600.0, bin_seconds=6.0),
        deadline_seconds=None,
        drain_seconds=1.0,
        most_outstanding=10,
    )
    driver = Driver(assignment, Requests("/S/M", "unary", (b"",), (1,)), _Broken(), 0, 1)
    with pytest.raises(RuntimeError, match="broken sender"):
        await driver.run()
