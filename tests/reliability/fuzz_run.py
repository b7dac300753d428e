"""A run of many cases against one server."""

from __future__ import annotations

import asyncio
import itertools
import mmap
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from e2e.process import ServerProcess
from reliability.fuzz_calls import Caller, Ended, calling, problem, reached
from reliability.fuzz_cases import TYPED, Case
from reliability.fuzz_golden import Golden
from reliability.fuzz_methods import Method

# So many cases, then good requests.
BLOCK = 1000
# More than a handful says no more.
_MOST_KEPT = 200
_MEMORY = Path("/dev/shm/headwaiter-fuzz")  # noqa: S108 - where Linux has shared memory


@dataclass
class Tally:
    """What came of a run.

    Attributes:
        kinds: Cases by how they were made.
        codes: By their status.
        failures: What was wrong, by the name of the case.
        golden: Good requests whose answers were computed.
        wrong: What was wrong with the answers to good requests.
        reached: Of the typed cases, those that came to the tokenizer or a model.
        seconds: How long it took.
        resident: Bytes of the server's memory, after each block.
    """

    kinds: Counter[str] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    failures: dict[str, str] = field(default_factory=dict)
    golden: int = 0
    wrong: list[str] = field(default_factory=list)
    reached: int = 0
    seconds: float = 0.0
    resident: list[int] = field(default_factory=list)

    @property
    def cases(self) -> int:
        """How many there were."""
        return sum(self.kinds.values())

    @property
    def reached_share(self) -> float:
        """Of the typed cases, the share that came to the tokenizer or a model."""
        return self.reached / max(1, self.kinds[TYPED])

    def add(self, method: Method, case: Case, ended: Ended) -> str | None:
        """Count a case; what was wrong with it."""
        self.kinds[case.kind] += 1
        self.codes[ended.code.name] += 1
        if case.kind == TYPED and reached(method, ended):
            self.reached += 1
        wrong = problem(case, ended)
        if wrong is not None:
            self.failures[case.name] = f"{case.path}: {wrong}"
        return wrong


@contextmanager
def shared_memory() -> Iterator[None]:
    """What cases find under the key that they know."""
    _MEMORY.write_bytes(bytes(mmap.PAGESIZE))
    try:
        yield
    finally:
        _MEMORY.unlink(missing_ok=True)


async def run_cases(
    server: ServerProcess,
    methods: list[Method],
    cases: Iterable[Case],
    *,
    in_flight: int,
    keep: Path | None,
    done: Callable[[int], None] = lambda _: None,
) -> Tally:
    """Call them all, in blocks, each followed by good requests.

    Args:
        server: The server.
        methods: Its methods.
        cases: The cases.
        in_flight: At one time.
        keep: A folder for the cases that fail.
        done: Told of every block, by its number of cases.
    """
    tally, golden, process = Tally(), Golden(methods, server.scrape), psutil.Process(server.process.pid)
    by_path = {each.path: each for each in methods}
    left = iter(cases)
    began = time.monotonic()

    async def work(caller: Caller, block: Iterator[Case]) -> None:
        for case in block:
            if (
                tally.add(by_path[case.path], case, await caller.call(case))
                and keep
                and len(tally.failures) < _MOST_KEPT
            ):
                case.write(keep)

    async with calling(server.grpc, methods) as caller:
        tally.wrong += await golden.check(caller)
        while block := _first(left, BLOCK):
            shared = iter(block)
            async with asyncio.TaskGroup() as group:
                for _ in range(in_flight):
                    group.create_task(work(caller, shared))
            tally.wrong += await golden.check(caller)
            tally.resident.append(process.memory_info().rss)
            done(len(block))
            if len(tally.failures) > _MOST_KEPT or server.process.poll() is not None:
                break
    tally.golden, tally.seconds = golden.computed, time.monotonic() - began
    return tally


def _first(cases: Iterator[Case], count: int) -> list[Case]:
    return list(itertools.islice(cases, count))
