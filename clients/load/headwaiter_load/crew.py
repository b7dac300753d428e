"""The processes that send load, as their parent sees them: started together, told together, heard together."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Final, Self

from headwaiter_load import worker
from headwaiter_load.driver import Assignment
from headwaiter_load.endpoint import CONNECT_SECONDS, Endpoint
from headwaiter_load.errors import WorkerError
from headwaiter_load.recorder import Report
from headwaiter_load.requests import Requests
from headwaiter_load.worker import Failed, Message, Progress, Ready, Stop

# A fresh interpreter has to import gRPC, and make sense of the requests.
_START_SECONDS: Final = 60.0
# After the last call may end.
_REPORT_SECONDS: Final = 30.0
_END_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Mark:
    """Something to do at a time while a run goes on.

    Attributes:
        time: When, by `time.monotonic`.
        action: What.
    """

    time: float
    action: Callable[[], None] = field(compare=False)


class Crew:
    """Processes with connections to the server, ready to run one load after the other.

    Args:
        endpoint: Where the server is.
        requests: What to send.
        processes: How many there are.
    """

    def __init__(self, endpoint: Endpoint, requests: Requests, processes: int) -> None:
        # Spawned, not forked: gRPC's threads do not survive a fork.
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        self._processes = []
        self._theirs: list[Connection] = []
        for number in range(processes):
            ours, theirs = context.Pipe()
            self._pipes.append(ours)
            self._theirs.append(theirs)
            arguments = (theirs, endpoint, requests, number, processes)
            self._processes.append(context.Process(target=worker.main, args=arguments, daemon=True))

    def __enter__(self) -> Self:
        """Starts all, and waits until they are connected.

        Raises:
            LoadError: One cannot, and why.
        """
        try:
            for process, theirs in zip(self._processes, self._theirs, strict=True):
                process.start()
                # Held by the process alone, so that its end is heard.
                theirs.close()
            heard: set[Connection] = set()
            deadline = time.monotonic() + _START_SECONDS + CONNECT_SECONDS
            while len(heard) < len(self._pipes):
                for pipe, message in self._receive(deadline):
                    if isinstance(message, Ready):
                        heard.add(pipe)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends all."""
        self._end()

    def run(
        self, assignment: Assignment, watch: Callable[[Progress], None], marks: Sequence[Mark] = ()
    ) -> tuple[list[Report], bool]:
        """Runs one load.

        Args:
            assignment: What every process is told.
            watch: Called with word of progress.
            marks: What to do meanwhile.

        Returns:
            What each process saw, and whether the run went to its end: Ctrl-C ends it with what there is.
        """
        for pipe in self._pipes:
            pipe.send(assignment)
        reports: list[Report] = []
        last = assignment.window.end + assignment.drain_seconds + _REPORT_SECONDS
        ahead = sorted(marks, key=lambda mark: mark.time)
        finished = True
        while len(reports) < len(self._pipes):
            try:
                while ahead and ahead[0].time <= time.monotonic():
                    ahead.pop(0).action()
                for _, message in self._receive(last, ahead[0].time if ahead else last):
                    if isinstance(message, Report):
                        reports.append(message)
                    elif isinstance(message, Progress):
                        watch(message)
            except KeyboardInterrupt:
                finished = False
                last = time.monotonic() + _REPORT_SECONDS
                for pipe in self._pipes:
                    pipe.send(Stop())
        return sorted(reports, key=lambda report: report.number), finished

    def _receive(self, deadline: float, until: float | None = None) -> list[tuple[Connection, Message]]:
        """What has come, after waiting for it until a time at most; nothing after that.

        Raises:
            LoadError: What a process says that it failed with, or that one ended, or that none said anything in time.
        """
        moment = deadline if until is None else min(deadline, until)
        messages: list[tuple[Connection, Message]] = []
        for pipe in wait(self._pipes, max(0.0, moment - time.monotonic())):
            if not isinstance(pipe, Connection):
                continue
            try:
                message = pipe.recv()
            except (EOFError, OSError) as error:
                raise WorkerError("a process of the tester ended by itself; its messages are above") from error
            if isinstance(message, Failed):
                raise message.error
            messages.append((pipe, message))
        if not messages and time.monotonic() >= deadline:
            raise WorkerError("a process of the tester did not answer in time")
        return messages

    def _end(self) -> None:
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            if process.pid is None:
                continue
            process.join(_END_SECONDS)
            if process.is_alive():
                process.kill()
                process.join()
