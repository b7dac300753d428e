"""The process in which models are tried, as the server sees it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from headwaiter_server.errors import BundleError
from headwaiter_server.log import get_logger

_log = get_logger(__name__)

_COMMAND = (sys.executable, "-P", "-m", "headwaiter_server.lifecycle.trial_child")
_MOST_LINE_BYTES = 1 << 20
# It ends at once when it is told to.
_END_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class TrialReport:
    """How a trial ended.

    Attributes:
        steps: What the child reported, in order.
        said: The beginning of what the child printed.
        status: How it ended, as the system says it.
        late: Whether it was killed for taking too long.
    """

    steps: Sequence[Mapping[str, str]]
    said: str
    status: int
    late: bool


class TrialHost:
    """One such process. On the event loop only."""

    def __init__(
        self, process: subprocess.Popen[bytes], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[TrialReport]] = {}
        self._reading = asyncio.get_running_loop().create_task(self._read())

    @classmethod
    async def start(cls, command: Sequence[str] = _COMMAND) -> Self:
        """Start it. It is ready after about a second, and takes requests before.

        Args:
            command: What is started; it is given this process's id.

        Raises:
            BundleError: The system starts no process.
        """
        ours, theirs = socket.socketpair()
        try:
            # A session of its own: what is sent to the server's group, Ctrl-C above all, is for the server alone.
            # From this thread, not another: it ends with the thread that has started it.
            process = subprocess.Popen(  # noqa: ASYNC220, S603 - a matter of a millisecond; our own module
                [*command, str(os.getpid())],
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                start_new_session=True,
            )
        except OSError as error:
            ours.close()
            raise BundleError(f"no process can be started to try models in: {error.strerror}") from error
        finally:
            theirs.close()
        try:
            reader, writer = await asyncio.open_unix_connection(sock=ours, limit=_MOST_LINE_BYTES)
        except BaseException:  # cancelled, above all: nobody else knows of the process
            ours.close()
            process.kill()
            process.wait()
            raise
        return cls(process, reader, writer)

    @property
    def ended(self) -> bool:
        """Whether it has ended, whyever."""
        return self._reading.done()

    async def run(self, request: Mapping[str, Any], backstop_seconds: float) -> TrialReport:
        """Have a model tried. If this is cancelled, the trial ends.

        Args:
            request: See `trial_child`; it is given its number here.
            backstop_seconds: After which the process itself must hang.

        Raises:
            BundleError: The process has ended or hangs.
        """
        number = next(self._numbers)
        answer: asyncio.Future[TrialReport] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        self._send({"id": number, **request})
        try:
            async with asyncio.timeout(backstop_seconds):
                return await answer
        except TimeoutError:
            self._process.kill()
            raise BundleError("the process in which models are tried did not answer, and was ended") from None
        except asyncio.CancelledError:
            self._send({"cancel": number})
            raise
        finally:
            self._waiting.pop(number, None)

    async def close(self) -> None:
        """End it, with all that it tries."""
        self._writer.close()
        try:
            await asyncio.to_thread(self._process.wait, _END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            await asyncio.to_thread(self._process.wait)
        self._reading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._reading

    def _send(self, message: Mapping[str, Any]) -> None:
        if not self._writer.is_closing():
            self._writer.write(json.dumps(message).encode() + b"\n")

    async def _read(self) -> None:
        try:
            async for line in self._reader:
                self._answered(json.loads(line))
        except ConnectionError:
            pass
        except (ValueError, LookupError, TypeError) as error:
            # A library has written between its answers: there is no telling any more what it says.
            _log.warning("trial_process_confused", reason=str(error))
        finally:
            for answer in self._waiting.values():
                if not answer.done():
                    answer.set_exception(BundleError("the process in which models are tried has ended unexpectedly"))

    def _answered(self, record: Mapping[str, Any]) -> None:
        answer = self._waiting.get(record["id"])
        if answer is not None and not answer.done():
            steps = list(_steps(record["steps"]))
            answer.set_result(TrialReport(steps, record["said"], record["status"], record["late"]))


def _steps(lines: Sequence[str]) -> Iterator[dict[str, str]]:
    """What a child reported, as far as it is what `try_model` reports: nothing is safe from a library gone astray."""
    for line in lines:
        with contextlib.suppress(ValueError):
            step = json.loads(line)
            if isinstance(step, dict) and all(isinstance(each, str) for each in step.values()):
                yield step
