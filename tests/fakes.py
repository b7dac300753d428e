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
# What rows read that nobody has, and what a run leaves behind that raises.
NOBODY, GARBAGE = 0, -1


class FakeClock:
    """A clock that moves when it is told to."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


class WorkersClock(FakeClock):
    """A clock on which time has passed before a worker looks: as where it must wait for its turn to begin."""

    def __init__(self, ahead_seconds: float) -> None:
        super().__init__()
        self.ahead_seconds = ahead_seconds

    def __call__(self) -> float:
        return self.now + self.ahead_seconds * (threading.current_thread() is not threading.main_thread())


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


class Turnstile:
    """Holds the engine in each of its steps until it lets it through, so that a test counts steps instead of time."""

    def __init__(self) -> None:
        self._entered = threading.Semaphore(0)
        self._let = threading.Semaphore(0)

    def __call__(self) -> None:
        self._entered.release()
        self._let.acquire(timeout=10)

    async def entered(self) -> None:
        """Return when one more step is held."""
        await asyncio.to_thread(self._entered.acquire, timeout=10)

    def let(self, steps: int = 1) -> None:
        """Let so many steps through: the one that is held, and the next ones."""
        self._let.release(steps)


# Of the source and of what has been generated from it, to the logits of what follows.
Distribution = Callable[[list[int], list[int]], FloatArray]


def dice(seed: int, vocab_size: int = VOCAB, end: float = 0.0) -> Distribution:
    """Logits without any order, that depend on every token before, on nothing else, and are the same each time.

    There is one token that they never give, as with many models: `NOBODY`.

    Args:
        seed: Of another such distribution.
        vocab_size: Tokens to choose from.
        end: Added to the logit of `EOS`.
    """

    def logits(source: list[int], generated: list[int]) -> FloatArray:
        random = np.random.default_rng([seed, len(source), *source, *generated])
        drawn = random.standard_normal(vocab_size).astype(np.float32) * 2
        drawn[EOS] += end
        drawn[NOBODY] = -np.inf
        return drawn

    return logits


class EchoModel:
    """Generates its source text, then ends: n source tokens take n + 1 tokens.

    A source that begins with `POISON` makes every run that encodes it raise; one that begins with `POISON_LATER` does
    so when its second token is computed. What a run that raises was to write is overwritten with `GARBAGE`.

    Attributes:
        steps: Rows of every step that was run, in order.
        joins: Source tokens of every text that was encoded, or of every part of a prompt that was read, in order.
        freed: Rows that were freed, in order.
        on_step: Called in every step, on the worker's thread.
        on_join: Called before texts are encoded, or a part of a prompt is read, on the worker's thread.
    """

    token_bytes = 8

    def __init__(
        self,
        on_step: Callable[[], None] = lambda: None,
        *,
        decoder_only: bool = False,
        distribution: Distribution | None = None,
        vocab_size: int = VOCAB,
        max_total_tokens: int = 1024,
    ) -> None:
        """Set up.

        Args:
            on_step: See the class; what moves a clock there gives steps a length.
            decoder_only: Whether it goes on with the source instead of encoding it.
            distribution: What follows what, where that is not the echo: it may end at any token, or never.
            vocab_size: Tokens it may choose from.
            max_total_tokens: Places of a row.
        """
        self.start_id = None if decoder_only else BOS
        self.end_ids = frozenset({EOS})
        self.vocab_size = vocab_size
        self.max_total_tokens = max_total_tokens
        self.source_token_bytes = 0 if decoder_only else 4
        self.decoder_only = decoder_only
        self.distribution = distribution
        self.steps: list[int] = []
        self.joins: list[list[int]] = []
        self.freed: list[int] = []
        self.on_step = on_step
        self.on_join: Callable[[], None] = lambda: None
        self.lock = threading.Lock()

    def new_rows(self, rows: int, capacity: int | None = None) -> EchoRows:
        return EchoRows(self, rows, capacity)


class EchoRows:
    """The rows of an `EchoModel`: it keeps what each has read, and refuses tokens that do not follow from it."""

    def __init__(self, model: EchoModel, rows: int, capacity: int | None = None) -> None:
        self.rows = rows
        self.capacity = model.max_total_tokens if capacity is None else capacity
        self.copied_bytes = 0
        self.run_seconds = 0.0
        self._model = model
        self._sources: list[list[int]] = [[] for _ in range(rows)]
        self._read: list[list[int]] = [[] for _ in range(rows)]

    def encode(self, sources: Sequence[Encoding], rows: Sequence[int]) -> None:
        self._model.on_join()
        if any(source.ids[0] == POISON for source in sources):
            for row in rows:
                self._sources[row] = [GARBAGE]
            raise RuntimeError("secret poison in the encoder")
        with self._model.lock:
            self._model.joins += [source.ids for source in sources]
        for source, row in zip(sources, rows, strict=True):
            self._sources[row], self._read[row] = source.ids, []

    def read(self, row: int, tokens: Sequence[int], place: int) -> FloatArray:
        self._model.on_join()
        if POISON in tokens:
            self._write(row, place, [GARBAGE] * len(tokens))
            raise RuntimeError("secret poison in a prompt")
        with self._model.lock:
            self._model.joins.append(list(tokens))
        self._write(row, place, tokens)
        self._sources[row] = self._read[row][:]
        return self._logits(row)

    def step(self, tokens: IntArray, places: IntArray, start: int) -> FloatArray:
        self._model.on_step()
        rows = range(start, start + len(tokens))
        if any(self._poisoned(row, place) for row, place in zip(rows, places.tolist(), strict=True)):
            for row, place in zip(rows, places.tolist(), strict=True):
                self._write(row, place, [GARBAGE])
            raise RuntimeError("secret poison in a step")
        with self._model.lock:
            self._model.steps.append(len(tokens))
        logits = np.zeros((len(tokens), self._model.vocab_size), np.float32)
        for row, token, place in zip(rows, tokens.tolist(), places.tolist(), strict=True):
            self._write(row, place, [token])
            if self._sources[row] and token != NOBODY:
                logits[row - start] = self._logits(row)
        return logits

    def copy(self, source: int, target: int, first: int, stop: int) -> None:
        assert first <= len(self._read[target])
        assert stop <= len(self._read[source])
        self._sources[target] = self._sources[source]
        self._read[target] = self._read[target][:first] + self._read[source][first:stop]
        self.copied_bytes += (stop - first) * self._model.token_bytes

    def attention(self, row: int) -> FloatArray:
        weights = np.zeros((1, 1, len(self._sources[row])), np.float32)
        weights[..., (len(self._read[row]) - 1) % weights.shape[-1]] = 1.0
        return weights

    def free(self, row: int) -> None:
        with self._model.lock:
            self._model.freed.append(row)
        self._sources[row], self._read[row] = [], []

    def _write(self, row: int, place: int, tokens: Sequence[int]) -> None:
        assert place <= len(self._read[row]), f"row {row} has read {len(self._read[row])} tokens, not {place}"
        assert place + len(tokens) <= self.capacity
        self._read[row][place:] = tokens

    def _poisoned(self, row: int, place: int) -> bool:
        source = self._sources[row]
        return source[:1] == [POISON_LATER] and place == (len(source) if self._model.decoder_only else 1)

    def _logits(self, row: int) -> FloatArray:
        source, read = self._sources[row], self._read[row]
        if GARBAGE in read or GARBAGE in source:
            raise AssertionError(f"row {row} holds what a run has left behind that raised")
        generated = read[len(source) :] if self._model.decoder_only else read[1:]
        if self._model.distribution is not None:
            return self._model.distribution(source, generated)
        if generated != source[: len(generated)]:
            raise AssertionError(f"row {row} was given {generated}, its text has {source}")
        logits = np.zeros(self._model.vocab_size, np.float32)
        logits[source[len(generated)] if len(generated) < len(source) else EOS] = 1.0
        return logits


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
