"""Measures what an encoder's runs cost on this machine, and plans by it.

Runs are measured as they serve: one on each worker at the same time, each with the threads that a run has. Sizes take
turns, so that a slow moment of the machine hits all of them alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from statistics import median

from headwaiter_server.encoding import Encoding
from headwaiter_server.lifecycle.memory import resident_bytes
from headwaiter_server.lifecycle.plan import CalibrationPlan, LoneSample, MemorySample
from headwaiter_server.model.contract import EncoderModel
from headwaiter_server.scheduling.cost import Sample, fit_packed, fit_padded, knee_tokens

# Tokens of the runs that are measured; further doublings up to the longest text as far as time allows.
_PACKED_TOKENS = (8, 16, 32, 64, 96, 128, 192, 256, 384, 512)
# A packed run's cost does not depend on how its tokens are shared out among texts; this is an ordinary text.
_TEXT_TOKENS = 16
_PADDED_ROWS = (1, 4, 16)
_PADDED_LENGTHS = (8, 32, 128, 512)
_MOST_PADDED_TOKENS = 1024
_LONE_TOKENS = (8, 16, 32, 64, 128, 256, 512)

# Of the runs, waiting for each other excluded; the whole takes little more.
_SECONDS = 3.0
_LONE_SECONDS = 1.0
_FEWEST_ROUNDS = 5
_MOST_ROUNDS = 9
# A size of which one run takes longer than this is left to the extrapolation, but for the smallest few.
_LONGEST_RUN_SECONDS = 0.5
_ALWAYS_MEASURED = 4
# A run on all threads must be so much faster than one on its own share to be worth disturbing whoever comes next.
_LONE_GAIN = 1.1

MakeText = Callable[[int], Encoding]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Calibrator:
    """Measures models.

    Attributes:
        workers: Runs at one time when serving.
        clock: Seconds, on the thread that asks.
        resident: Bytes that the process holds.
    """

    workers: int
    clock: Callable[[], float] = time.perf_counter
    resident: Callable[[], int] = resident_bytes

    def measure(
        self, model: EncoderModel, lone_model: EncoderModel | None, longest_tokens: int, make_text: MakeText
    ) -> CalibrationPlan:
        """Measure a model, in a few seconds.

        Args:
            model: The model, with the threads that each run has.
            lone_model: The same with all threads; None if there are no more.
            longest_tokens: Longest text that it takes.
            make_text: A text of so many tokens.
        """
        shapes = _packed_shapes(longest_tokens) if model.packed else _padded_shapes(longest_tokens)
        held, grown = self.resident(), []
        with ThreadPoolExecutor(self.workers, thread_name_prefix="calibration") as pool:

            def beside_others(shape: Shape) -> float:
                texts = [make_text(length) for length in shape]
                seconds = median(pool.map(lambda _: self._time(model, texts), range(self.workers)))
                grown.append(self.resident() - held)
                return seconds

            seconds = _take_turns([partial(beside_others, shape) for shape in shapes], _SECONDS)
        # The largest shapes may have been left out. Of the memory, the first time that a shape ran counts.
        samples = tuple(
            Sample(len(shape), max(shape), sum(shape), taken) for shape, taken in zip(shapes, seconds, strict=False)
        )
        memory = tuple(
            MemorySample(each.rows * each.longest if not model.packed else each.tokens, each.longest, size_bytes)
            for each, size_bytes in zip(samples, grown, strict=False)
        )
        lone = () if lone_model is None else self._measure_lone(model, lone_model, longest_tokens, make_text)
        cost = fit_packed(samples) if model.packed else fit_padded(samples)
        return CalibrationPlan(
            cost=cost,
            budget_tokens=knee_tokens(cost, max(each.tokens for each in memory)),
            lone_tokens=_lone_tokens(lone),
            samples=samples,
            lone_samples=lone,
            memory_samples=memory,
        )

    def _measure_lone(
        self, model: EncoderModel, lone_model: EncoderModel, longest_tokens: int, make_text: MakeText
    ) -> tuple[LoneSample, ...]:
        sizes = sorted({min(tokens, longest_tokens) for tokens in _LONE_TOKENS})
        # Both ways of a size follow each other, so that they meet the same machine.
        measures = [partial(self._time, each, [make_text(tokens)]) for tokens in sizes for each in (model, lone_model)]
        seconds = _take_turns(measures, _LONE_SECONDS)
        return tuple(
            LoneSample(tokens, one, all_threads)
            for tokens, one, all_threads in zip(sizes, seconds[::2], seconds[1::2], strict=False)
        )

    def _time(self, model: EncoderModel, texts: Sequence[Encoding]) -> float:
        started = self.clock()
        model.run(texts, [False] * len(texts))
        return self.clock() - started


def _packed_shapes(longest_tokens: int) -> list[Shape]:
    sizes = list(_PACKED_TOKENS)
    while sizes[-1] * 2 <= longest_tokens:
        sizes.append(sizes[-1] * 2)
    return [_texts_of(tokens, min(_TEXT_TOKENS, longest_tokens)) for tokens in sizes]


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
