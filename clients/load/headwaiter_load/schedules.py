"""When calls are due: pure sequences of seconds since the beginning, without an end but for a trace's.

A sequence is a function of its arguments, the seed among them. Every process makes the whole of it and takes its share,
so that what the server sees does not depend on the number of processes.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

Arrivals = Literal["constant", "poisson", "bursty"]


@dataclass(frozen=True, slots=True)
class Closed:
    """A closed loop: each caller sends its next call when its last one has ended.

    Attributes:
        outstanding: Callers, of all processes together.
    """

    outstanding: int


@dataclass(frozen=True, slots=True)
class Open:
    """An open loop: calls come when they come, whatever became of the earlier ones.

    Attributes:
        arrivals: constant: evenly; poisson: at random, as from many callers who know nothing of each other; bursty: the
            same of bursts, each of `burst_size` calls at once.
        rate: Calls a second, in the long run.
        burst_size: Calls of a burst.
        seed: Of the random ones.
    """

    arrivals: Arrivals
    rate: float
    burst_size: int = 1
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Replay:
    """An open loop that follows a trace.

    Attributes:
        offsets: When each call is due.
        deadlines: Its deadline in seconds; None for the run's.
    """

    offsets: tuple[float, ...]
    deadlines: tuple[float | None, ...]


Load = Closed | Open | Replay


def due_times(load: Open | Replay) -> Iterator[float]:
    """When each call is due, in seconds from the beginning, ascending."""
    if isinstance(load, Replay):
        return iter(load.offsets)
    if load.arrivals == "constant":
        # A product, not a sum: a thousand additions of a rounded gap would drift.
        return (number / load.rate for number in itertools.count())
    bursts = _poisson(load.rate / load.burst_size, load.seed)
    return itertools.chain.from_iterable(itertools.repeat(time, load.burst_size) for time in bursts)


def share(times: Iterable[float], number: int, count: int) -> Iterator[tuple[int, float]]:
    """What process `number` of `count` sends: the calls' numbers and times."""
    return itertools.islice(enumerate(times), number, None, count)


def callers(outstanding: int, number: int, count: int) -> int:
    """How many callers of a closed loop process `number` of `count` has."""
    return outstanding // count + (number < outstanding % count)


def _poisson(rate: float, seed: int) -> Iterator[float]:
    dice = random.Random(seed)  # noqa: S311 - repeatable, not secret
    time = 0.0
    while True:
        time += dice.expovariate(rate)
        yield time
