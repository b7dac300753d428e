"""Stand-ins for the engine and the clock, for forcing what the real ones do only now and then."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence

import numpy as np
from headwaiter_server.encoding import Encoding
from headwaiter_server.model.contract import Cancellation, FloatArray, IntArray

BOS, EOS, POISON, POISON_LATER = 1, 2, 98, 99
VOCAB = 100


class FakeClock:
    """A clock that moves when it is told to."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


class Gate:
    """Holds the engine in its first step until it is opened, so that a test can act in the middle of a run."""

    def __init__(self) -> None:
        self._entered = threading.Event()
        self._opened = threading.Event()

    def __call__(self) -> None:
        self._entered.set()
        self._opened.wait(10)

    async def entered(self) -> None:
        """Return when a step is held."""
        await asyncio.to_thread(self._entered.wait, 10)

    def open(self) -> None:
        """Let this step and all later ones go on."""
        self._opened.set()


class EchoModel:
    """Generates its source text, then ends: n source tokens take n + 1 steps.

    A source that begins with `POISON` makes every run that encodes it raise; `POISON_LATER` does so at its second step.

    Attributes:
        steps: Rows of every step that was run, in order.
        joins: Source tokens of every text that was encoded, in order.
        on_step: Called in every step, on the worker's thread.
        on_join: Called before texts are encoded, on the worker's thread.
    """

    bos_id = BOS
    eos_id = EOS

    def __init__(self, on_step: Callable[[], None] = lambda: None) -> None:
        self.steps: list[int] = []
        self.joins: list[list[int]] = []
        self.on_step = on_step
        self.on_join: Callable[[], None] = lambda: None
        self.lock = threading.Lock()

    def new_batch(self) -> EchoBatch:
        return EchoBatch(self)


class EchoBatch:
    """The rows of an `EchoModel`."""

    def __init__(self, model: EchoModel) -> None:
        self._model = model
        self._sources: list[list[int]] = []
        self._positions: list[int] = []

    def join(self, sources: Sequence[Encoding], rows: Sequence[int]) -> None:
        self._model.on_join()
        if any(source.ids[0] == POISON for source in sources):
            raise RuntimeError("secret poison in the encoder")
        with self._model.lock:
            self._model.joins += [source.ids for source in sources]
        missing = max(rows) + 1 - len(self._sources)
        self._sources += [[]] * missing
        self._positions += [0] * missing
        for source, row in zip(sources, rows, strict=True):
            self._sources[row], self._positions[row] = source.ids, 0

    def step(self, tokens: IntArray, start: int, stop: int) -> FloatArray:
        self._model.on_step()
        rows = range(start, stop)
        if any(self._sources[row][0] == POISON_LATER and self._positions[row] == 1 for row in rows):
            raise RuntimeError("secret poison in a step")
        with self._model.lock:
            self._model.steps.append(stop - start)
        logits = np.zeros((stop - start, VOCAB), np.float32)
        for row in rows:
            source, position = self._sources[row], self._positions[row]
            expected = source[position - 1] if position else BOS
            if tokens[row - start] != expected:
                raise AssertionError(f"row {row} was given {tokens[row - start]}, its text has {expected}")
            logits[row - start, source[position] if position < len(source) else EOS] = 1.0
            self._positions[row] += 1
        return logits

    def keep(self, rows: Sequence[int]) -> None:
        self._sources = [self._sources[row] for row in rows]
        self._positions = [self._positions[row] for row in rows]


class MirrorModel:
    """An encoder model that answers a text with its own tokens; raw answers are negated.

    A run with a text that begins with `POISON` raises.

    Attributes:
        packed: See `EncoderModel`.
        runs: Token ids of the texts of every run that did not raise, in order.
        on_run: Called in every run, on the worker's thread.
    """

    def __init__(self, on_run: Callable[[], None] = lambda: None, *, packed: bool = True) -> None:
        self.packed = packed
        self.runs: list[list[list[int]]] = []
        self.on_run = on_run
        self._lock = threading.Lock()

    def run(
        self, sources: Sequence[Encoding], raw: Sequence[bool], cancellation: Cancellation | None = None
    ) -> list[FloatArray]:
        self.on_run()
        if any(source.ids[0] == POISON for source in sources):
            raise RuntimeError("secret poison in a run")
        with self._lock:
            self.runs.append([source.ids for source in sources])
        return [
            np.array(source.ids, np.float32) * (-1 if is_raw else 1)
            for source, is_raw in zip(sources, raw, strict=True)
        ]
