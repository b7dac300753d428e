"""How the encoder benchmark holds figures against its aims, and shows both."""

from __future__ import annotations

import pytest

from benchmarks.encoders.aims import Aim, aims, at_least, at_most
from benchmarks.encoders.figures import ANY, CLOSED, Candidate, Load, Quantity, figure
from benchmarks.encoders.report import aims_table, figures_tables, histograms, offline_table, spreads
from benchmarks.encoders.workloads import Text

_RATIO = Aim("ratio", "ours", "theirs", at_least(2.0))


@pytest.mark.parametrize(("value", "held"), [(1.99, False), (2.0, True), (2.01, True)])
def test_a_lower_bound_holds_from_its_number_on(value: float, *, held: bool) -> None:
    assert at_least(2.0).holds(value) is held


@pytest.mark.parametrize(("value", "held"), [(0.64, True), (0.65, True), (0.66, False)])
def test_an_upper_bound_holds_up_to_its_number(value: float, *, held: bool) -> None:
    assert at_most(0.65).holds(value) is held


def test_a_ratio_is_taken_within_a_round() -> None:
    rounds = [{"ours": 10.0, "theirs": 4.0}, {"ours": 100.0, "theirs": 25.0}, {"ours": 6.0, "theirs": 2.0}]
    assert aims_table([_RATIO], rounds).endswith("| ratio | at least 2 | 3 (2.5 to 4) | reached |")


def test_the_median_decides() -> None:
    rounds = [{"ours": ours, "theirs": 1.0} for ours in (1.0, 1.5, 9.0)]
    assert aims_table([_RATIO], rounds).endswith("| 1.5 (1 to 9) | not reached |")


def test_what_was_not_measured_is_not_reached_either() -> None:
    assert aims_table([_RATIO], [{"ours": 3.0}, {"theirs": 3.0}]).endswith("|  | not measured |")


def test_an_absolute_aim_needs_no_second_figure() -> None:
    assert Aim("absolute", "ours", None, at_most(3.0)).value({"ours": 2.0}) == 2.0


def test_no_aim_stands_twice_and_none_mixes_quantities_up() -> None:
    names = [aim.name for aim in aims()]
    assert len(names) == len(set(names))
    quantities = {quantity.value for quantity in Quantity}
    for aim in aims():
        for name in filter(None, (aim.over, aim.under)):
            assert name.rsplit(" | ", 1)[1] in quantities


def test_streams_are_held_to_what_calls_of_as_many_texts_are() -> None:
    bounds = [
        {
            aim.name.removesuffix(load): (aim.bound, aim.under)
            for aim in aims()
            if aim.over.startswith(f"{Candidate.AUTO} | ") and f" | {load} | " in aim.over
        }
        for load in (Load.BULK, Load.STREAMS)
    ]
    assert bounds[0] == bounds[1]
    assert len(bounds[0]) == 6
    assert CLOSED[Load.BULK] == CLOSED[Load.STREAMS]


def test_figures_stand_in_the_table_of_their_workload() -> None:
    served = figure(Candidate.AUTO, "short", Load.MANY, Quantity.THROUGHPUT)
    offered = figure(Candidate.AUTO, "short", Load.HALF, Quantity.OFFERED)
    resident = figure(Candidate.AUTO, ANY, ANY, Quantity.RESIDENT)
    own = figure(Candidate.ECHO, "short", Load.MANY, Quantity.CALLS)
    tables = figures_tables(spreads([{served: 400.0, offered: 200.0, resident: 250.0, own: 4000.0}]))
    closed, open_loop, own_cost, memory = tables.split("**")[2::2]
    assert "| packed auto | 64 x 1 | 400 |" in closed
    assert "50 %" not in closed
    assert "| packed auto | at 50 % of capacity | 200 |" in open_loop
    assert "| grpc.aio echo | 64 x 1 | 4,000 |" in own_cost
    assert "| packed auto |  | 250 |" in memory
    assert "mixed" not in tables


def test_ways_of_batching_are_compared_over_the_workloads() -> None:
    figures = {
        figure(Candidate.SORTED_PACKED, "short", Load.OFFLINE, Quantity.THROUGHPUT): 455.0,
        figure(Candidate.SORTED_PACKED, "mixed", Load.OFFLINE, Quantity.THROUGHPUT): 200.0,
        figure(Candidate.BATCHES_OF_32, "mixed", Load.OFFLINE, Quantity.THROUGHPUT): 20.0,
    }
    assert offline_table(spreads([figures])).splitlines()[2:] == [
        "| offline, padded batches of 32 |  | 20 |  |",
        "| offline, packed, sorted | 455 | 200 |  |",
    ]


def test_a_histogram_counts_every_text_once() -> None:
    shown = histograms({"short": [Text("", tokens) for tokens in (8, 9, 12, 256)]})
    shares = [float(line.split("%")[0].split()[-1]) for line in shown.splitlines() if "%" in line]
    assert sum(shares) == pytest.approx(100)
    assert "4 texts, mean 71.2 tokens" in shown
