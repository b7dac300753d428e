"""Sends one process's share of a load, each call when it is due, and records what comes of it."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Final

from headwaiter_load import schedules
from headwaiter_load.histograms import Histogram
from headwaiter_load.outcome import Outcome
from headwaiter_load.recorder import Recorder, Report, Window
from headwaiter_load.requests import Requests
from headwaiter_load.schedules import Closed, Load, Replay
from headwaiter_load.senders import Sender

# Calls that are due at once start in groups, so that answers are taken in between.
_STARTS_AT_ONCE: Final = 64
# A call that is due later than its deadline gets at least this, so that it ends like any other.
_SHORTEST_TIMEOUT_SECONDS: Final = 0.001

_UNANSWERED: Final = Outcome("UNANSWERED", "no answer when the run was over")
_NOT_SENT: Final = Outcome("NOT_SENT", "too many calls were outstanding already")


@dataclass(frozen=True, slots=True)
class Assignment:
    """One run, or one step of a search, as every process gets it.

    Attributes:
        load: When calls are due.
        start: When the warm-up begins, by `time.monotonic`.
        window: The measured part, right behind it.
        deadline_seconds: Of each call, from when it is due; None for none.
        drain_seconds: How long calls may take to end when no more are sent.
        most_outstanding: Calls that one process keeps outstanding at most.
    """

    load: Load
    start: float
    window: Window
    deadline_seconds: float | None
    drain_seconds: float
    most_outstanding: int


class Driver:
    """One run of one process.

    Args:
        assignment: What to do.
        requests: What to send.
        sender: How.
        number: This process, from 0.
        count: All of them.
    """

    def __init__(self, assignment: Assignment, requests: Requests, sender: Sender, number: int, count: int) -> None:
        self._assignment = assignment
        self._requests = requests
        self._sender = sender
        self._number = number
        self._count = count
        self._recorder = Recorder(assignment.window)
        self._calls: set[asyncio.Task[None]] = set()
        self._over = asyncio.Event()
        self._interrupted_at: float | None = None

    def take_live(self) -> tuple[int, int, int, str]:
        """Sent, answered and failed so far; the latencies since this was last asked, as an encoded coarse histogram."""
        live = self._recorder.live
        latency, live.latency = live.latency.encoded(), Histogram(coarse=True)
        return live.sent, live.answered, live.failed, latency

    def interrupt(self) -> None:
        """Ends the run now; what has ended so far counts, what is under way does not."""
        if self._interrupted_at is None:
            self._interrupted_at = time.monotonic()
            self._over.set()

    async def run(self) -> Report:
        """Runs it to its end."""
        window = self._assignment.window
        usage = asyncio.create_task(self._cpu_seconds())
        sending = asyncio.create_task(
            self._closed_loop(self._assignment.load)
            if isinstance(self._assignment.load, Closed)
            else self._open_loop(self._assignment.load)
        )
        over = asyncio.create_task(self._over.wait())
        await asyncio.wait({sending, over}, return_when=asyncio.FIRST_COMPLETED)
        drained = asyncio.create_task(self._drained())
        await asyncio.wait({drained, over}, return_when=asyncio.FIRST_COMPLETED)
        drained.cancel()
        self._over.set()
        tasks = (*self._calls, sending)
        for each in tasks:
            each.cancel()
        await asyncio.wait(tasks)
        for each in tasks:
            if not each.cancelled():
                # Its own fault, if any: no figures are better than wrong ones.
                each.result()
        seconds = window.seconds
        if self._interrupted_at is not None:
            seconds = min(max(0.0, self._interrupted_at - window.begin), window.seconds)
        return self._recorder.report(self._number, seconds, await usage)

    async def _open_loop(self, load: schedules.Open | Replay) -> None:
        begin, end = self._assignment.start, self._assignment.window.end
        deadlines = load.deadlines if isinstance(load, Replay) else None
        due_calls = schedules.share(schedules.due_times(load), self._number, self._count)
        for started, (number, offset) in enumerate(due_calls, 1):
            due = begin + offset
            if due >= end:
                break
            if (early := due - time.monotonic()) > 0:
                await asyncio.sleep(early)
            elif started % _STARTS_AT_ONCE == 0:
                await asyncio.sleep(0)
            deadline = deadlines[number] if deadlines is not None else None
            self._start(number, due, deadline or self._assignment.deadline_seconds)
        # A trace may end early, and the measured part goes on.
        await asyncio.sleep(max(0.0, end - time.monotonic()))

    def _start(self, number: int, due: float, deadline_seconds: float | None) -> None:
        if len(self._calls) >= self._assignment.most_outstanding:
            now = time.monotonic()
            self._recorder.live.sent += 1
            self._recorder.ended(due, now, now, 0, 0, _NOT_SENT)
            return
        self._begin(self._call(number, due, deadline_seconds))

    def _begin(self, calls: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(calls)
        self._calls.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() or task.exception() is None:
            self._calls.discard(task)
        else:
            # Kept, for `run` to raise what it ended with.
            self._over.set()

    async def _closed_loop(self, load: Closed) -> None:
        numbers = itertools.count(self._number, self._count)
        await asyncio.sleep(max(0.0, self._assignment.start - time.monotonic()))

        async def caller() -> None:
            while (due := time.monotonic()) < self._assignment.window.end:
                await self._call(next(numbers), due, self._assignment.deadline_seconds)

        for _ in range(schedules.callers(load.outstanding, self._number, self._count)):
            self._begin(caller())
        await asyncio.sleep(max(0.0, self._assignment.window.end - time.monotonic()))

    async def _call(self, number: int, due: float, deadline_seconds: float | None) -> None:
        requests = self._requests
        index = number % len(requests.payloads)
        payload, rows = requests.payloads[index], requests.rows[index]
        self._recorder.live.sent += 1
        sent = time.monotonic()
        timeout = None if deadline_seconds is None else max(_SHORTEST_TIMEOUT_SECONDS, due + deadline_seconds - sent)
        try:
            outcome = await self._sender.send(payload, timeout)
        except asyncio.CancelledError:
            # Interrupted, nothing is known of it; otherwise it had all the time there was.
            if self._interrupted_at is None:
                self._recorder.ended(due, sent, time.monotonic(), rows, len(payload), _UNANSWERED)
            else:
                self._recorder.left_out(due)
            raise
        self._recorder.ended(due, sent, time.monotonic(), rows, len(payload), outcome)

    async def _drained(self) -> None:
        if self._calls:
            await asyncio.wait(set(self._calls), timeout=self._assignment.drain_seconds)

    async def _cpu_seconds(self) -> float:
        """Processor time of this process in the measured part."""
        window = self._assignment.window
        await self._until(window.begin)
        before = time.process_time()
        await self._until(window.end)
        return time.process_time() - before

    async def _until(self, moment: float) -> None:
        """Waits for a time, or the end of the run if that comes first."""
        try:
            async with asyncio.timeout(max(0.0, moment - time.monotonic())):
                await self._over.wait()
        except TimeoutError:
            pass
