"""Calls that come when they come, from a process of its own, and what became of each one.

The load tester's schedules say when calls are due; it keeps histograms, though, and here every refusal is looked at:
when it came, and when it says to come back. Run as a file, it reads a `Plan` and writes what it saw.
"""

from __future__ import annotations

import asyncio
import base64
import gc
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import grpc
from headwaiter_load.schedules import Open, due_times

EMBED = "/headwaiter.v1.InferenceService/Embed"
OK, REFUSED, LATE = "OK", "UNAVAILABLE", "DEADLINE_EXCEEDED"
_PUSHBACK_KEY = "grpc-retry-pushback-ms"
_CHANNELS = 4
_SHORTEST_TIMEOUT_SECONDS = 0.001
_LEAD_SECONDS = 0.2
_LOOK_SECONDS = 0.1
# For the process to start, and beyond the stages: calls without a deadline may never end.
_MOST_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Stage:
    """A stretch of time with one load.

    Attributes:
        seconds: Its length.
        rate: Calls a second, at random, whatever becomes of them; 0 for a closed loop.
        outstanding: Of a closed loop: its callers.
        seed: Of the random times. Two stages with the same seed and rate have the same.
    """

    seconds: float
    rate: float = 0.0
    outstanding: int = 0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """What is sent.

    Attributes:
        target: The server.
        path: Of the method.
        payloads: Messages, in turns, in base 64.
        stages: One after the other, without a pause.
        deadline_seconds: Of each call, from when it is due; None for none.
        metadata: Likewise.
    """

    target: str
    path: str
    payloads: tuple[str, ...]
    stages: tuple[Stage, ...]
    deadline_seconds: float | None
    metadata: tuple[tuple[str, str], ...] = ()


class Seen(NamedTuple):
    """One call.

    Attributes:
        stage: Number of its stage.
        due: When it was due, in seconds from the beginning of its stage.
        lag: By how much later it was sent.
        seconds: From when it was due to its end.
        code: Its status.
        pushback: What the server said of when to try again, in milliseconds; None if nothing.
    """

    stage: int
    due: float
    lag: float
    seconds: float
    code: str
    pushback: str | None

    @property
    def good(self) -> bool:
        """Whether it was answered."""
        return self.code == OK

    @property
    def refused(self) -> bool:
        """Whether the server would not have it."""
        return self.code == REFUSED


def send_all(
    target: str,
    payloads: Sequence[bytes],
    stages: Sequence[Stage],
    *,
    path: str = EMBED,
    deadline_seconds: float | None = None,
    metadata: Sequence[tuple[str, str]] = (),
    watch: Callable[[], None] = lambda: None,
) -> list[list[Seen]]:
    """Send the calls of all stages from another process.

    Args:
        target: The server.
        payloads: Messages, in turns.
        stages: One after the other, without a pause.
        path: Of the method.
        deadline_seconds: Of each call.
        metadata: Likewise.
        watch: Called every tenth of a second.

    Returns:
        What became of the calls of each stage, in the order in which they ended.

    Raises:
        TimeoutError: Some calls have not ended long after the last stage.
    """
    encoded = tuple(base64.b64encode(payload).decode() for payload in payloads)
    plan = Plan(target, path, encoded, tuple(stages), deadline_seconds, tuple(metadata))
    with tempfile.TemporaryFile("w+") as told, tempfile.TemporaryFile("w+") as answered:
        json.dump(asdict(plan), told)
        told.seek(0)
        until = time.monotonic() + sum(stage.seconds for stage in stages) + (deadline_seconds or 0.0) + _MOST_SECONDS
        with subprocess.Popen([sys.executable, __file__], stdin=told, stdout=answered) as process:
            try:
                while process.poll() is None:
                    if time.monotonic() > until:
                        raise TimeoutError("some calls have not ended")
                    watch()
                    time.sleep(_LOOK_SECONDS)
            finally:
                process.kill()
        assert process.returncode == 0, "the process that sends has failed"
        answered.seek(0)
        seen = [Seen(*each) for each in json.load(answered)]
    return [[each for each in seen if each.stage == number] for number in range(len(stages))]


def answers_a_second(stage: Stage, seen: Sequence[Seen], warmup: float = 0.2) -> float:
    """Good answers a second of a stage, by when they came, without a first part of its time.

    Args:
        stage: The stage.
        seen: Its calls.
        warmup: That part.
    """
    began = stage.seconds * warmup
    good = sum(each.good and began <= each.due + each.seconds < stage.seconds for each in seen)
    return good / (stage.seconds - began)


class _Sender:
    """Sends a plan's calls."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._payloads = [base64.b64decode(payload) for payload in plan.payloads]
        self._metadata = tuple((key, value) for key, value in plan.metadata)
        self._numbers = itertools.count()
        # Nothing is tried twice, and each channel has a connection of its own.
        options = [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]
        self._channels = [grpc.aio.insecure_channel(plan.target, options) for _ in range(_CHANNELS)]
        self._methods: list[grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]] = [
            each.unary_unary(plan.path) for each in self._channels
        ]
        self.seen: list[Seen] = []

    async def run(self) -> None:
        """Send all stages."""
        await asyncio.gather(*(each.channel_ready() for each in self._channels))
        began, calls = time.monotonic() + _LEAD_SECONDS, []
        for number, stage in enumerate(self._plan.stages):
            await asyncio.sleep(max(0.0, began - time.monotonic()))
            if stage.rate:
                calls += await self._open_loop(number, stage, began)
            else:
                await asyncio.gather(*(self._caller(number, stage, began) for _ in range(stage.outstanding)))
            began += stage.seconds
        await asyncio.gather(*calls)
        for each in self._channels:
            await each.close()

    async def _open_loop(self, number: int, stage: Stage, began: float) -> list[asyncio.Task[None]]:
        calls = []
        for due in due_times(Open("poisson", stage.rate, seed=stage.seed)):
            if due >= stage.seconds:
                break
            if (early := began + due - time.monotonic()) > 0:
                await asyncio.sleep(early)
            calls.append(asyncio.create_task(self._call(number, began, due)))
        return calls

    async def _caller(self, number: int, stage: Stage, began: float) -> None:
        while (due := time.monotonic() - began) < stage.seconds:
            await self._call(number, began, due)

    async def _call(self, stage: int, began: float, due: float) -> None:
        number, sent = next(self._numbers), time.monotonic()
        timeout = None
        if self._plan.deadline_seconds is not None:
            timeout = max(_SHORTEST_TIMEOUT_SECONDS, began + due + self._plan.deadline_seconds - sent)
        code, pushback = OK, None
        try:
            payload, method = self._payloads[number % len(self._payloads)], self._methods[number % _CHANNELS]
            await method(payload, timeout=timeout, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            code = error.code().name
            told: dict[str, Any] = dict(error.trailing_metadata() or ())
            pushback = told.get(_PUSHBACK_KEY)
        self.seen.append(Seen(stage, due, sent - began - due, time.monotonic() - began - due, code, pushback))


async def _send(plan: Plan) -> list[Seen]:
    sender = _Sender(plan)
    await sender.run()
    return sender.seen


def main() -> None:
    """Send what the input says."""
    fields = json.load(sys.stdin)
    stages = tuple(Stage(**stage) for stage in fields.pop("stages"))
    gc.freeze()
    json.dump(asyncio.run(_send(Plan(**fields | {"stages": stages}))), sys.stdout)


if __name__ == "__main__":
    main()
