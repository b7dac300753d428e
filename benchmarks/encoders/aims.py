"""What the encoder benchmark should show: the one place where the aims are written down."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from benchmarks.encoders.figures import WORKLOADS, Candidate, Load, Quantity, Round, figure


@dataclass(frozen=True)
class Bound:
    """A number, and on which side of it a figure should lie."""

    comparison: Literal["at least", "at most"]
    number: float

    def holds(self, value: float) -> bool:
        """Whether a value lies on the good side, or on the bound itself."""
        return value >= self.number if self.comparison == "at least" else value <= self.number


def at_least(number: float) -> Bound:
    """More is better."""
    return Bound("at least", number)


def at_most(number: float) -> Bound:
    """Less is better."""
    return Bound("at most", number)


@dataclass(frozen=True)
class Aim:
    """What a figure, or the ratio of two of the same round, should be.

    Attributes:
        name: For people.
        over: The figure.
        under: What it is divided by; none for an absolute aim.
        bound: Where it should lie.
    """

    name: str
    over: str
    under: str | None
    bound: Bound

    def value(self, figures: Round) -> float | None:
        """What one round measured, or None where it did not."""
        if self.over not in figures or (self.under is not None and not figures.get(self.under)):
            return None
        return figures[self.over] / (1.0 if self.under is None else figures[self.under])


def aims() -> list[Aim]:
    """All aims, in the order of the page."""
    return [*_against_other_servers(), *_against_the_ideal(), *_alone(), *_under_pressure(), *_own_cost()]


def _against_other_servers() -> Iterator[Aim]:
    speed, fp32, int8 = Quantity.THROUGHPUT, Candidate.AUTO, Candidate.AUTO_INT8
    for ours, theirs, load, quantity, bounds in (
        (fp32, Candidate.FIFO, Load.MANY, speed, {"short": at_least(2.2), "mixed": at_least(4.5)}),
        (fp32, Candidate.AFTERNOON, Load.MANY, speed,
         {"short": at_least(1.35), "mixed": at_least(1.05), "uniform": at_least(1.0)}),
        (int8, Candidate.AFTERNOON, Load.MANY, speed, {"short": at_least(2.1), "mixed": at_least(1.7)}),
        (fp32, Candidate.AFTERNOON, Load.FEW, Quantity.P99, {"short": at_most(0.65), "mixed": at_most(0.5)}),
    ):  # fmt: skip
        for workload, bound in bounds.items():
            over, under = (figure(each, workload, load, quantity) for each in (ours, theirs))
            yield Aim(f"{quantity}, {ours} against {theirs}, {workload}, {load}", over, under, bound)


def _against_the_ideal() -> Iterator[Aim]:
    for server, ideal, load, cpu, throughput in (
        (Candidate.AUTO, Candidate.IDEAL, Load.MANY, at_most(1.15), at_least(0.80)),
        (Candidate.AUTO, Candidate.IDEAL, Load.BULK, at_most(1.05), at_least(0.92)),
        (Candidate.AUTO, Candidate.IDEAL, Load.STREAMS, at_most(1.05), at_least(0.92)),
        (Candidate.AUTO_INT8, Candidate.IDEAL_INT8, Load.MANY, at_most(1.25), at_least(0.70)),
    ):
        for workload in WORKLOADS:
            for quantity, bound in ((Quantity.CPU, cpu), (Quantity.THROUGHPUT, throughput)):
                over, under = figure(server, workload, load, quantity), figure(ideal, workload, Load.OFFLINE, quantity)
                yield Aim(f"{quantity}, {server} against {ideal}, {workload}, {load}", over, under, bound)


def _alone() -> Iterator[Aim]:
    for workload in WORKLOADS:
        over, under = (
            figure(Candidate.AUTO, workload, Load.ALONE, Quantity.P50),
            figure(Candidate.BARE, workload, Load.ALONE, Quantity.ALLOWED),
        )
        yield Aim(
            f"p50 of one caller alone against 1.1 x bare onnxruntime + 1 ms, {workload}", over, under, at_most(1.0)
        )


def _under_pressure() -> Iterator[Aim]:
    for workload in ("short", "mixed"):
        goodput, capacity = (
            figure(Candidate.AUTO, workload, Load.OVERLOAD, Quantity.GOODPUT),
            figure(Candidate.AUTO, workload, Load.CAPACITY, Quantity.THROUGHPUT),
        )
        yield Aim(
            f"goodput under twice the capacity against the capacity, {workload}", goodput, capacity, at_least(0.85)
        )
        overload, high = (figure(Candidate.AUTO, workload, load, Quantity.P99) for load in (Load.OVERLOAD, Load.HIGH))
        yield Aim(
            f"p99 of admitted calls under twice the capacity against 80 %, {workload}", overload, high, at_most(2.0)
        )
        crowd, few = (figure(Candidate.AUTO, workload, load, Quantity.CPU) for load in (Load.CROWD, Load.FEW))
        yield Aim(f"CPU a text with 512 callers against 16, {workload}", crowd, few, at_most(1.10))


def _own_cost() -> Iterator[Aim]:
    null, echo = (figure(each, "short", Load.MANY, Quantity.CALLS) for each in (Candidate.NULL, Candidate.ECHO))
    yield Aim("calls/s of a null model against a bare echo", null, echo, at_least(0.40))
    yield Aim(
        "texts/s of a null model, 32 a call",
        figure(Candidate.NULL, "short", Load.BULK, Quantity.THROUGHPUT),
        None,
        at_least(15_000),
    )
