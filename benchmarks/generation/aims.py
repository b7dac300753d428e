"""What the benchmark of generation should show: the one place where the aims are written down."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.encoders.aims import Aim, at_least, at_most
from benchmarks.generation.figures import Candidate, Load, Quantity, Workload, figure

_LOADS = {
    Candidate.ALONE: Load.OFFLINE,
    Candidate.BATCHES: Load.OFFLINE,
    Candidate.FIFO: Load.CLOSED,
    Candidate.CTRANSLATE: Load.CLOSED,
}
_FASTER = {Candidate.ALONE: 6.0, Candidate.BATCHES: 2.0, Candidate.FIFO: 1.5, Candidate.CTRANSLATE: 1.0}


def aims() -> list[Aim]:
    """All aims, in the order of the page."""
    return [*_throughput(), *_arrivals(), *_steps()]


def _throughput() -> Iterator[Aim]:
    for workload in Workload:
        ours = figure(Candidate.AUTO, workload, Load.CLOSED, Quantity.TOKENS)
        for rival, times in _FASTER.items():
            # Of pronounce, CTranslate2 does not know the model, and the answers are nearly of one length.
            if rival in (Candidate.CTRANSLATE, Candidate.FIFO) and workload is not Workload.DECODER:
                continue
            theirs = figure(rival, workload, _LOADS[rival], Quantity.TOKENS)
            yield Aim(f"tokens/s against {rival}, {workload}", ours, theirs, at_least(times))


def _arrivals() -> Iterator[Aim]:
    for load in (Load.RIVAL_HALF, Load.RIVAL_HIGH):
        for quantity in (Quantity.FIRST_P99, Quantity.BETWEEN_P99, Quantity.CALL_P99):
            ours, theirs = (
                figure(each, Workload.DECODER, load, quantity) for each in (Candidate.AUTO, Candidate.CTRANSLATE)
            )
            yield Aim(f"{quantity} against CTranslate2, at {load}", ours, theirs, at_most(1.0))


def _steps() -> Iterator[Aim]:
    newcomer = figure(Candidate.AUTO, Workload.DECODER, Load.NEWCOMERS, Quantity.WAIT_P50)
    yield Aim("steps that a newcomer waits beside its own prefill, rows free (median)", newcomer, None, at_most(2.0))
    for workload in Workload:
        share = figure(Candidate.IDEAL, workload, Load.OFFLINE, Quantity.PYTHON)
        yield Aim(f"Python's share of an iteration, without writes, %, {workload}", share, None, at_most(15.0))
