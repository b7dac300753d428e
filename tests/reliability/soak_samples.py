"""What a process holds, sampled while it is under load; and what becomes of that over time."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from itertools import combinations
from pathlib import Path
from typing import Self

import psutil

MB, MIB = 10**6, 2**20
# A line through more points costs more time than it gains certainty: there is a slope for each pair.
_POINTS = 270


@dataclass(frozen=True)
class Sample:
    """One look.

    Attributes:
        seconds: Since the load began.
        resident_bytes: Memory of the process that is in the machine's.
        proportional_bytes: The same, of what it shares with others its part only.
        descriptors: Open files and sockets.
        threads: Of the system, not Python's alone.
        tasks: Of the event loop.
        calls: Calls that have ended so far.
        failed: Of these, those that should not have ended as they did.
        refused: Of these, those that the server would not take.
        p99_seconds: Of the calls of one text that ended in the last interval; 0 within it.
        probe_seconds: What the same small work took on this machine at this moment.
    """

    seconds: float
    resident_bytes: int
    proportional_bytes: int
    descriptors: int
    threads: int
    tasks: int
    calls: int
    failed: int
    refused: int
    p99_seconds: float
    probe_seconds: float


@dataclass(frozen=True)
class Held:
    """What a process has of what must not grow.

    Attributes:
        resident_bytes: See `Sample`, as the others.
    """

    resident_bytes: int
    proportional_bytes: int
    descriptors: int
    threads: int

    @classmethod
    def of(cls, process: psutil.Process) -> Self:
        """Look at a process."""
        with process.oneshot():
            memory = process.memory_full_info()
            return cls(memory.rss, memory.pss, process.num_fds(), process.num_threads())


class SampleFile:
    """Samples, written as they are taken, so that a soak that is interrupted tells what it has seen."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("w", encoding="utf-8", newline="", buffering=1)
        self._rows = csv.DictWriter(self._file, [each.name for each in fields(Sample)])
        self._rows.writeheader()

    def add(self, sample: Sample) -> None:
        """Write one down."""
        self._rows.writerow(asdict(sample))

    def close(self) -> None:
        """No more come."""
        self._file.close()


def quarter(samples: Sequence[Sample], number: int) -> Sequence[Sample]:
    """The samples of one quarter of the time, from the first, number 1, to the fourth."""
    end = samples[-1].seconds
    return [each for each in samples if (number - 1) * end / 4 <= each.seconds <= number * end / 4]


def bytes_an_hour(samples: Sequence[Sample], name: str) -> float:
    """Slope of a line through the last three quarters: the median of the slopes of all pairs (Theil and Sen).

    What comes and goes moves it little, as long as that is less than a third of the time.

    Args:
        samples: All.
        name: Of the sample's attribute.
    """
    rest = [each for number in (2, 3, 4) for each in quarter(samples, number)]
    size = -(-len(rest) // _POINTS)
    points = [
        (statistics.median(each.seconds for each in part), statistics.median(getattr(each, name) for each in part))
        for part in (rest[start : start + size] for start in range(0, len(rest), size))
    ]
    slopes = [(y2 - y1) / (x2 - x1) for (x1, y1), (x2, y2) in combinations(points, 2) if x2 > x1]
    return float(3600 * statistics.median(slopes))


def drift(samples: Sequence[Sample], name: str) -> float:
    """The last quarter's median as a multiple of the second quarter's, without samples that are 0."""
    early, late = (
        statistics.median([value for each in quarter(samples, number) if (value := getattr(each, name))] or [1.0])
        for number in (2, 4)
    )
    return float(late / early)
