"""Engines that take a known processor time, and keep account of whose texts it went into."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
from fakes import EchoModel, EchoRows
from headwaiter_server.encoding import Encoding
from headwaiter_server.model.contract import Cancellation, FloatArray, IntArray

POISON = 98
# Large enough for the library to let go of the interpreter lock, as onnxruntime does; about 0.2 ms.
_BLOCK = bytes(256 << 10)


def burn(seconds: float) -> float:
    """Keep this thread's processor busy, and no other thread waiting; what it took."""
    began = time.thread_time()
    while (burned := time.thread_time() - began) < seconds:
        hashlib.sha256(_BLOCK).digest()
    return burned


class Ledger:
    """Processor time that engines spent on each text; a text goes by its first token.

    Attributes:
        spent: Seconds by text.
    """

    def __init__(self, spend: Callable[[float], float] = burn) -> None:
        """Set up.

        Args:
            spend: Takes so much processor time; returns what it really took.
        """
        self.spent: defaultdict[int, float] = defaultdict(float)
        self._spend = spend
        self._lock = threading.Lock()

    def spend(self, sources: Sequence[Encoding], parts: Sequence[int], seconds: float) -> None:
        """Spend time on texts, each of which has its part in it."""
        taken = self._spend(seconds)
        with self._lock:
            for source, part in zip(sources, parts, strict=True):
                self.spent[source.ids[0]] += taken * part / sum(parts)

    def of(self, *texts: int) -> float:
        """What was spent on texts."""
        return sum(self.spent[text] for text in texts)

    @property
    def total(self) -> float:
        """What was spent on all."""
        return sum(self.spent.values())


class BurningEncoder:
    """Spends a time for each token of a run, whether it then answers or, for a text that begins with `POISON`, raises.

    Attributes:
        on_run: Called in every run with its texts, on the worker's thread, before time is spent.
    """

    def __init__(self, ledger: Ledger, token_seconds: float, *, packed: bool = True) -> None:
        self.packed = packed
        self.on_run: Callable[[Sequence[Encoding]], None] = lambda _: None
        self._ledger = ledger
        self._token_seconds = token_seconds

    def run(
        self, sources: Sequence[Encoding], raw: Sequence[bool], cancellation: Cancellation | None = None
    ) -> list[FloatArray]:
        """See `EncoderModel`; it does not heed who asks it to end early."""
        self.on_run(sources)
        lengths = [len(source) for source in sources]
        self._ledger.spend(sources, lengths, self._token_seconds * sum(lengths))
        if any(source.ids[0] == POISON for source in sources):
            raise RuntimeError("poison")
        return [np.array([1.0, 0.0], np.float32) for _ in sources]


class BurningModel(EchoModel):
    """Echoes, and spends a time for each source token that it encodes and for each row of a step."""

    def __init__(self, ledger: Ledger, token_seconds: float) -> None:
        super().__init__()
        self.ledger = ledger
        self.token_seconds = token_seconds

    def new_rows(self, rows: int, capacity: int | None = None) -> EchoRows:
        return _BurningRows(self, rows, capacity)


class _BurningRows(EchoRows):
    """The rows of a `BurningModel`."""

    def __init__(self, model: BurningModel, rows: int, capacity: int | None = None) -> None:
        super().__init__(model, rows, capacity)
        self._ledger = model.ledger
        self._token_seconds = model.token_seconds
        self._texts: dict[int, Encoding] = {}

    def encode(self, sources: Sequence[Encoding], rows: Sequence[int]) -> None:
        lengths = [len(source) for source in sources]
        self._ledger.spend(sources, lengths, self._token_seconds * sum(lengths))
        super().encode(sources, rows)
        self._texts.update(zip(rows, sources, strict=True))

    def step(self, tokens: IntArray, places: IntArray, start: int) -> FloatArray:
        texts = [self._texts[row] for row in range(start, start + len(tokens)) if row in self._texts]
        self._ledger.spend(texts, [1] * len(texts), self._token_seconds * len(texts))
        return super().step(tokens, places, start)

    def copy(self, source: int, target: int, first: int, stop: int) -> None:
        super().copy(source, target, first, stop)
        self._texts[target] = self._texts[source]

    def free(self, row: int) -> None:
        super().free(row)
        self._texts.pop(row, None)
