"""Servers end, one after the other, under load that goes on; what became of them, and of the calls."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from .drain_load import Called, Load, capacity, running_load
from .replicas import Replica
from .ways import Way

LAME_DUCK_SECONDS, DRAIN_SECONDS = 2.0, 20.0  # the server's defaults
LOAD_SHARE = 0.7
_BURST_SECONDS = 0.005
_CAPACITY_SECONDS = 1.0
_COME_SECONDS = 60.0
# A burst may wait for longer than two runs; here nothing is to be refused for that.
FLAGS = ("--max-queue-seconds", "20")


@dataclass(frozen=True)
class Ending:
    """One server's end.

    Attributes:
        burst_seconds: From the first call of the burst to the signal.
        seconds: From the signal to the end of the process.
        code: Its exit code.
        after: Calls that were started from the signal to the end, by way.
    """

    burst_seconds: float
    seconds: float
    code: int
    after: Counter[str]


@dataclass
class Seen:
    """What came of one exercise.

    Attributes:
        rate: Calls a second, of all ways together.
        endings: Of the servers.
        calls: All calls.
    """

    rate: float
    endings: list[Ending] = field(default_factory=list)
    calls: list[Called] = field(default_factory=list)

    def of(self, way: str, *, retries: bool) -> list[Called]:
        """The calls of one way."""
        return [call for call in self.calls if call.way == way and call.retries is retries]

    def failed(self, way: str, *, retries: bool) -> list[Called]:
        """Those that nobody answered."""
        return [call for call in self.of(way, retries=retries) if not call.replica]

    @property
    def punctual(self) -> int:
        """Ends whose burst began no sooner than it should."""
        return sum(ending.burst_seconds <= _BURST_SECONDS for ending in self.endings)

    @property
    def wrong_codes(self) -> int:
        """Ends with another exit code than 0."""
        return sum(ending.code != 0 for ending in self.endings)


async def end(replica: Replica, load: Load) -> Ending:
    """SIGTERM right behind a burst, while the load goes on."""
    process = replica.server.process
    began = await load.burst()
    process.send_signal(signal.SIGTERM)
    signalled, before = time.monotonic(), len(load.begun)
    code = await asyncio.to_thread(process.wait, LAME_DUCK_SECONDS + DRAIN_SECONDS + _COME_SECONDS)
    after = Counter(way for way, _ in load.begun[before:])
    return Ending(signalled - began, time.monotonic() - signalled, code, after)


async def exercise(
    ways: Sequence[Way],
    replicas: Sequence[Replica],
    signals: int,
    *,
    most: int = 0,
    rolling: bool = False,
    restart: bool = True,
    told: Callable[[], None] = lambda: None,
) -> Seen:
    """End one server after the other.

    Args:
        ways: By which calls come.
        replicas: Those that serve.
        signals: How many ends.
        most: So many ends at most, while bursts come late: an end counts if its burst came at most 5 ms before.
        rolling: Whether the next one ends as soon as the last one is ready again; else not before every server answers
            calls of every way that spreads them, and it is the one that pick-first goes to, if calls go so.
        restart: Whether servers come back.
        told: Called after each end.
    """
    direct = Way("direct", replicas[0].address, "service-config.json")
    seen = Seen(await capacity(direct, _CAPACITY_SECONDS) * LOAD_SHARE)
    up = list(replicas)
    async with running_load(ways, seen.rate) as load:
        for number in range(max(signals, most)):
            if seen.punctual >= signals:
                break
            chosen = replicas[number % len(replicas)]
            if number == 0 or not rolling:
                chosen = await _next(load, ways, up, chosen)
            seen.endings.append(await end(chosen, load))
            if restart:
                await asyncio.to_thread(chosen.start)
            else:
                up.remove(chosen)
            told()
    seen.calls = load.ended
    return seen


async def _next(load: Load, ways: Sequence[Way], up: Sequence[Replica], turn: Replica) -> Replica:
    """Wait until every server has calls; the one that all calls of pick-first go to, or else whose turn it is."""
    before, until = len(load.ended), time.monotonic() + _COME_SECONDS
    numbers = {replica.number for replica in up}
    while time.monotonic() < until:
        await asyncio.sleep(0.02)
        answers = [call for call in load.ended[before:] if call.replica]
        seen: dict[tuple[str, bool], set[int]] = defaultdict(set)
        for call in answers:
            seen[call.way, call.retries].add(call.replica)
        # The last answer says where pick-first is now.
        latest = {call.way: call.replica for call in answers if call.retries}
        followed = [latest.get(way.name) for way in ways if not way.spreads]
        spread = [seen[way.name, retries] for way in ways if way.spreads for retries in (True, False)]
        if all(each == numbers for each in spread) and None not in followed:
            return next((each for each in up if each.number in followed), turn)
    raise TimeoutError(f"the calls of some way have not come to every server within {_COME_SECONDS} s")
