"""Brings waiting work and idle workers together: the one loop that every task of every model goes through."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

from headwaiter_server.errors import EngineError, HeadwaiterError, ModelUnavailableError
from headwaiter_server.log import get_logger
from headwaiter_server.scheduling.admission import RETRY_SECONDS
from headwaiter_server.scheduling.busy import BusyTime
from headwaiter_server.scheduling.policy import Rank

_log = get_logger(__name__)

# Timers tick in milliseconds, and may be a little early: looking again any sooner would be a loop that spins.
_SHORTEST_TIMER_SECONDS = 0.001


class Run(Protocol):
    """One piece of work for a worker: a batch, or one step of a batch of generations.

    Attributes:
        idle_since: Since when its worker had nothing to do; set before `execute` is called.
    """

    idle_since: float

    def execute(self) -> None:
        """Do the work. Called on a worker thread; what it raises fails the whole run."""
        ...

    def settle(self) -> None:
        """Hand out the results. Called on the event loop after `execute` has returned."""
        ...

    def fail(self, error: HeadwaiterError) -> None:
        """Answer everybody in the run with an error. Called on the event loop when a method above has raised."""
        ...


class Lane(Protocol):
    """One model's source of runs. All methods are called on the event loop."""

    def rank(self, now: float) -> Rank | None:
        """Rank of the run that `take` would give; None when there is nothing to run."""
        ...

    def take(self, now: float, idle_workers: int) -> Run | None:
        """The next run; None if what was there turned out dead.

        Args:
            now: Seconds on the scheduler's clock.
            idle_workers: How many workers could share what waits, this one among them; at least 1.
        """
        ...

    def fail_all(self, error: HeadwaiterError) -> None:
        """Answer everything that waits or runs with an error."""
        ...


class Hold(Protocol):
    """What keeps a lane's work waiting although a worker is idle; its lane has no rank and no run meanwhile.

    Attributes:
        until: When to look at the lane again, by its last answer; infinite when nothing is kept waiting.
    """

    until: float

    def end(self) -> None:
        """Keep nothing waiting any more."""
        ...


class Timer(Protocol):
    """What ends a wait; asyncio's."""

    def cancel(self) -> None:
        """Forget it."""
        ...


class Dispatcher:
    """Gives the best-ranked run of all lanes to an idle worker, until one of the two runs out.

    An idle worker and a non-empty queue never coexist beyond one turn of the event loop; but for the work of a lane
    that was told to wait, for as long as it was. There is one timer for all of these, and none without them.
    Threads suffice as workers because onnxruntime releases the interpreter lock while it computes.
    """

    def __init__(
        self,
        workers: int,
        *,
        on_crash: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
        call_later: Callable[[float, Callable[[], None]], Timer] | None = None,
    ) -> None:
        """Set up an idle dispatcher.

        Args:
            workers: Runs at one time.
            on_crash: Told once if scheduling itself fails, after everything that waited was failed.
            clock: Seconds; the scheduler's clock.
            call_later: Has something called after so many seconds of that clock; the event loop's if not given.
        """
        self.clock = clock
        self.workers = workers
        self._idle = workers
        self._busy = BusyTime(clock)
        # Of each idle worker, the one that has been for longest first.
        self._idle_since = deque([-math.inf] * workers)
        self._lanes: list[Lane] = []
        self._holds: dict[Lane, Hold] = {}
        self._call_later = call_later
        self._timer: Timer | None = None
        self._timer_at = math.inf
        self._on_crash = on_crash
        self._stopped = False
        self._pump_due = False
        self._all_idle = asyncio.Event()
        self._all_idle.set()
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="worker")

    @property
    def busy_workers(self) -> int:
        """Workers that are running something."""
        return self.workers - self._idle

    def busy_seconds(self) -> float:
        """Time that workers have spent on runs, summed over the workers; on those under way up to now.

        May be called on any thread.
        """
        return self._busy.seconds()

    def add_lane(self, lane: Lane, hold: Hold | None = None) -> None:
        """Serve one more model. On the event loop, as all but `busy_seconds`.

        Args:
            lane: Its lane.
            hold: What may keep the lane's work waiting, if anything does.
        """
        self._lanes.append(lane)
        if hold is not None:
            self._holds[lane] = hold

    def remove_lane(self, lane: Lane) -> None:
        """Serve one model less. Nobody waits for anything of it; a run of it that is under way ends as it would."""
        self._lanes.remove(lane)
        self._holds.pop(lane, None)

    def end_holds(self) -> None:
        """Keep nothing waiting while a worker is idle, from now on."""
        for hold in self._holds.values():
            hold.end()
        self.wake()

    def wake(self) -> None:
        """Say that work has arrived.

        The look happens on the loop's next turn, so that texts which arrive in one turn can share a run.
        """
        if self._stopped:
            self.fail_all(ModelUnavailableError("the scheduler has stopped", RETRY_SECONDS))
        elif not self._pump_due:
            self._pump_due = True
            asyncio.get_running_loop().call_soon(self._pump)

    async def close(self, timeout_seconds: float) -> bool:
        """Fail what is left, and end the workers.

        Args:
            timeout_seconds: How long to wait for runs that are under way.

        Returns:
            Whether they have ended.
        """
        self._stopped = True
        self._stop_timer()
        self.fail_all(ModelUnavailableError("the server has shut down", RETRY_SECONDS))
        self._pool.shutdown(wait=False, cancel_futures=True)
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._all_idle.wait()
        except TimeoutError:
            return False
        return True

    def _pump(self) -> None:
        self._pump_due = False
        try:
            while self._idle and (run := self._next_run()) is not None:
                self._start(run)
            if self._holds and self._idle:
                self._look_again()
        except Exception:  # noqa: BLE001 - as in _finished
            self._crash()

    def _next_run(self) -> Run | None:
        now = self.clock()
        if len(self._lanes) == 1:  # nothing to compare, and ranking is most of the cost of choosing
            return self._lanes[0].take(now, self._idle)
        while True:
            ranked = [(rank, lane) for lane in self._lanes if (rank := lane.rank(now)) is not None]
            if not ranked:
                return None
            best = min(ranked, key=lambda pair: pair[0])[1]
            if (run := best.take(now, self._idle)) is not None:
                return run

    def _look_again(self) -> None:
        """Have the lanes that keep work waiting asked again when the first of them may want a worker."""
        at = min(hold.until for hold in self._holds.values())
        if at >= self._timer_at:  # the timer is set already, and goes off before
            return
        self._stop_timer()
        call_later = self._call_later or asyncio.get_running_loop().call_later
        self._timer_at = at
        self._timer = call_later(max(_SHORTEST_TIMER_SECONDS, at - self.clock()), self._timer_is_off)

    def _timer_is_off(self) -> None:
        self._timer, self._timer_at = None, math.inf
        if not self._stopped:
            self._pump()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_at = None, math.inf

    def _start(self, run: Run) -> None:
        loop = asyncio.get_running_loop()

        def finished(future: Future[None]) -> None:
            # Runs on the worker thread. A closed loop means the server is gone and nobody waits.
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._finished, run, future, self.clock())

        run.idle_since = self._idle_since.popleft()
        future = self._pool.submit(self._execute, run)
        self._set_idle(self._idle - 1)
        future.add_done_callback(finished)

    def _execute(self, run: Run) -> None:
        with self._busy.worker():
            run.execute()

    def _finished(self, run: Run, future: Future[None], ended: float) -> None:
        self._idle_since.append(ended)
        self._set_idle(self._idle + 1)
        try:
            if future.cancelled():
                run.fail(ModelUnavailableError("the server has shut down", RETRY_SECONDS))
            elif (error := future.exception()) is not None:
                _log.error("run_failed", exc_info=error)
                run.fail(EngineError("the model failed"))
            else:
                run.settle()
        except Exception:  # noqa: BLE001 - a bug here must not leave anybody waiting
            self._crash(run)
        if self._stopped:
            self.fail_all(ModelUnavailableError("the scheduler has stopped", RETRY_SECONDS))
        else:
            self._pump()

    def _set_idle(self, workers: int) -> None:
        self._idle = workers
        if workers == self.workers:
            self._all_idle.set()
        else:
            self._all_idle.clear()

    def _crash(self, run: Run | None = None) -> None:
        """A bug in scheduling: nobody may be left waiting, whatever else breaks, and the server must know."""
        _log.exception("scheduler_crashed")
        self._stopped = True
        error = EngineError("the scheduler has stopped")
        try:
            if run is not None:
                _shielded(run.fail, error)
            self.fail_all(error)
        finally:
            self._on_crash()

    def fail_all(self, error: HeadwaiterError) -> None:
        """Answer everything that waits or runs with an error."""
        for lane in self._lanes:
            _shielded(lane.fail_all, error)


def _shielded(fail: Callable[[HeadwaiterError], None], error: HeadwaiterError) -> None:
    """Let one failure to fail not keep the others from being answered."""
    try:
        fail(error)
    except Exception:  # noqa: BLE001 - logged; what matters is that the next one gets its turn
        _log.exception("answering_failed")
