"""How much is measured."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.generation.candidates import QUICK_SETTINGS, SETTINGS, Setting


@dataclass(frozen=True)
class Effort:
    """How much is measured.

    Attributes:
        rounds: How often everybody takes a turn.
        requests: Of the decoder's workload.
        words: Of pronounce's.
        alone_seconds: After these PyTorch begins no further text.
        long_batches: Whether PyTorch's batches of long texts take part, of which one takes half a minute.
        long: Length of a load in which batches of long texts come and go, and how much of it does not count.
        short: The same of other loads.
        newcomers: On the idle server and on the busy one.
        settings: Of CTranslate2, that are tried.
        search_seconds: For each of them.
        checked: Requests of which every candidate's tokens are compared.
    """

    rounds: int
    requests: int
    words: int
    alone_seconds: float
    long_batches: bool
    long: tuple[float, float]
    short: tuple[float, float]
    newcomers: int
    settings: tuple[Setting, ...]
    search_seconds: float
    checked: int


FULL = Effort(
    rounds=2,
    requests=512,
    words=30_000,
    alone_seconds=5.0,
    long_batches=True,
    long=(18.0, 4.0),
    short=(8.0, 2.0),
    newcomers=40,
    settings=SETTINGS,
    search_seconds=4.0,
    checked=32,
)
QUICK = Effort(
    rounds=1,
    requests=256,
    words=15_000,
    alone_seconds=2.0,
    long_batches=False,
    long=(6.0, 2.0),
    short=(3.0, 1.0),
    newcomers=10,
    settings=QUICK_SETTINGS,
    search_seconds=0.0,
    checked=8,
)
