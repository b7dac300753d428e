"""Measures what the runs of a model that answers at once cost on this machine, and plans by it.

Runs are measured as they serve: one on each worker at the same time, each with the threads that a run has. Sizes take
turns, so that a slow moment of the machine hits all of them alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import Any

from headwaiter_server.lifecycle.memory import resident_bytes
from headwaiter_server.lifecycle.plan import CalibrationPlan, LoneSample, MemorySample
from headwaiter_server.model.contract import BatchModel
from headwaiter_server.scheduling.cost import RunCost, Sample, fit_packed, fit_padded, knee_rows, knee_tokens

# Tokens of the runs that are measured; further doublings up to the longest text as far as time allows.
_PACKED_TOKENS = (8, 16, 32, 64, 96, 128, 192, 256, 384, 512)
# A packed run's cost does not depend on how its tokens are shared out among texts; this is an ordinary text.
_TEXT_TOKENS = 16
_PADDED_ROWS = (1, 4, 16)
_PADDED_LENGTHS = (8, 32, 128, 512)
_MOST_PADDED_TOKENS = 1024
_LONE_TOKENS = (8, 16, 32, 64, 128, 256, 512)

_LONE_SECONDS = 1.0
_FEWEST_ROUNDS = 5
_MOST_ROUNDS = 9
# A size of which one run takes longer than this is left to the extrapolation, but for the smallest few.
_LONGEST_RUN_SECONDS = 0.5
_ALWAYS_MEASURED = 4
# A run on all threads must be so much faster than one on its own share to be worth disturbing whoever comes next.
_LONE_GAIN = 1.1

Shape = tuple[int, ...]
# Of a model of tensors tokens are rows, and a text is a request of so many.
MakeText = Callable[[int], Any]
_Model = BatchModel[Any, Any, Any]


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked of a model when it is measured.

    Attributes:
        wanted: What is wanted of each text.
        rows: Whether it is a model of tensors, whose cost is counted in rows.
        joined: Whether its requests may share a run.
    """

    wanted: Any = False
    rows: bool = False
    joined: bool = True


_TEXTS = Asked()


@dataclass(frozen=True)
class Calibrator:
    """Measures models.

    Attributes:
        workers: Runs at one time when serving.
        clock: Seconds, on the thread that asks.
        resident: Bytes that the process holds.
        seconds: Of the runs that are measured, about, waiting for each other excluded; the whole takes little more.
    """

    workers: int
    clock: Callable[[], float] = time.perf_counter
    resident: Callable[[], int] = resident_bytes
    seconds: float = 3.0

    def measure(
        self,
        model: _Model,
        longest_tokens: int,
        make_text: MakeText,
        asked: Asked = _TEXTS,
    ) -> CalibrationPlan:
        """Measure a model, in a few seconds.

        Args:
            model: The model, with the threads that each run has.
            longest_tokens: Longest text that it takes.
            make_text: A text of so many tokens.
            asked: What is asked of it.
        """
        if asked.rows:
            shapes = _row_shapes(longest_tokens, joined=asked.joined)
        else:
            shapes = _packed_shapes(longest_tokens) if model.packed else _padded_shapes(longest_tokens)
        held, grown = self.resident(), []
        with ThreadPoolExecutor(self.workers, thread_name_prefix="calibration") as pool:

            def beside_others(shape: Shape) -> float:
                texts = [make_text(length) for length in shape]
                seconds = median(pool.map(lambda _: self._time(model, texts, asked), range(self.workers)))
                grown.append(self.resident() - held)
                return seconds

            seconds = _take_turns([partial(beside_others, shape) for shape in shapes], self.seconds)
        # The largest shapes may have been left out. Of the memory, the first time that a shape ran counts.
        samples = tuple(
            Sample(len(shape), max(shape), sum(shape), taken) for shape, taken in zip(shapes, seconds, strict=False)
        )
        memory = tuple(
            MemorySample(each.rows * each.longest if not model.packed else each.tokens, each.longest, size_bytes)
            for each, size_bytes in zip(samples, grown, strict=False)
        )
        cost = fit_packed(samples) if model.packed else fit_padded(samples)
        largest = max(each.tokens for each in memory)
        budget = _knee_of_rows(cost, largest, asked) if asked.rows else knee_tokens(cost, largest)
        return CalibrationPlan(
            cost=cost,
            budget_tokens=budget,
            samples=samples,
            memory_samples=memory,
        )

    def warm(self, model: _Model, plan: CalibrationPlan, make_text: MakeText, asked: Asked) -> None:
        """Run what a plan was measured on, as far as it will serve in such runs, so that no caller is the first."""
        for each in plan.samples:
            if each.tokens <= plan.budget_tokens:
                last = each.tokens - each.longest * (each.rows - 1)
                self._time(model, [make_text(tokens) for tokens in [each.longest] * (each.rows - 1) + [last]], asked)

    def measure_lone(
        self,
        plan: CalibrationPlan,
        model: _Model,
        lone_model: _Model,
        longest_tokens: int,
        make_text: MakeText,
        asked: Asked = _TEXTS,
    ) -> CalibrationPlan:
        """Find from how many tokens on all threads pay for a run that has the server to itself.

        Args:
            plan: What `measure` found.
            model: The model, with the threads that each run has.
            lone_model: The same with all threads.
            longest_tokens: Longest text that it takes.
            make_text: A text of so many tokens.
            asked: What is asked of it.

        Returns:
            The plan with what was found.
        """
        if asked.rows:
            sizes = [sum(shape) for shape in _row_shapes(longest_tokens, joined=False)]
        else:
            sizes = sorted({min(tokens, longest_tokens) for tokens in _LONE_TOKENS})
        # Both ways of a size follow each other, so that they meet the same machine.
        measures = [
            partial(self._time, each, [make_text(tokens)], asked) for tokens in sizes for each in (model, lone_model)
        ]
        seconds = _take_turns(measures, _LONE_SECONDS)
        samples = tuple(
            LoneSample(tokens, one, all_threads)
            for tokens, one, all_threads in zip(sizes, seconds[::2], seconds[1::2], strict=False)
        )
        return replace(plan, lone_tokens=_lone_tokens(samples), lone_samples=samples)

    def _time(self, model: _Model, texts: Sequence[Any], asked: Asked) -> float:
        started = self.clock()
        model.run(texts, [asked.wanted] * len(texts))
        return self.clock() - started


def _packed_shapes(longest_tokens: int) -> list[Shape]:
    sizes = list(_PACKED_TOKENS)
    while sizes[-1] * 2 <= longest_tokens:
        sizes.append(sizes[-1] * 2)
    return [_texts_of(tokens, min(_TEXT_TOKENS, longest_tokens)) for tokens in sizes]


def _knee_of_rows(cost: RunCost, largest: int, asked: Asked) -> int:
    # Where nobody joins anybody each request costs a run of its own, and so do those over the budget.
    return knee_rows(cost, largest) if asked.joined else 1


def _row_shapes(most_rows: int, *, joined: bool) -> list[Shape]:
    """Requests of one row, as many as share a run; or, where none share one, one request of as many rows."""
    sizes = [1]
    while sizes[-1] < most_rows:
        sizes.append(min(sizes[-1] * 2, most_rows))
    return [(1,) * rows if joined else (rows,) for rows in sizes]


def _texts_of(tokens: int, length: int) -> Shape:
    whole, rest = divmod(tokens, length)
    return (length,) * whole + ((rest,) if rest else ())


def _padded_shapes(longest_tokens: int) -> list[Shape]:
    lengths = sorted({min(length, longest_tokens) for length in _PADDED_LENGTHS})
    shapes = [(length,) * rows for length in lengths for rows in _PADDED_ROWS if rows * length <= _MOST_PADDED_TOKENS]
    return sorted(shapes, key=sum)


def _take_turns(measures: Sequence[Callable[[], float]], limit_seconds: float) -> list[float]:
    """Medians of measurements that take turns, in as many rounds as there is time for.

    Args:
        measures: Each measures once and gives seconds; small ones first.
        limit_seconds: Of all of them together, about.

    Returns:
        The lower quartile of each, because what disturbs a run only ever prolongs it; the last may be missing, where
        one takes too long.
    """
    kept: list[Callable[[], float]] = []
    round_seconds = 0.0
    # The first round is not counted: it is where memory is taken. It shows what there is time for.
    for measure in measures:
        seconds = measure()
        if len(kept) >= _ALWAYS_MEASURED and seconds > _LONGEST_RUN_SECONDS:
            break
        round_seconds += seconds
        kept.append(measure)
    rounds = int(limit_seconds / round_seconds) if round_seconds > 0 else _MOST_ROUNDS
    taken: list[list[float]] = [[] for _ in kept]
    for _ in range(min(max(rounds, _FEWEST_ROUNDS), _MOST_ROUNDS)):
        for seconds_of, measure in zip(taken, kept, strict=True):
            seconds_of.append(measure())
    return [sorted(each)[len(each) // 4] for each in taken]


def _lone_tokens(samples: Sequence[LoneSample]) -> int | None:
    """The smallest measured size from which on all threads are faster."""
    best = None
    for each in reversed(samples):
        if each.all_threads_seconds * _LONE_GAIN > each.seconds:
            break
        best = each.tokens
    return best
