"""What the benchmark of generation makes of calls."""

from __future__ import annotations

import math

import pytest

from benchmarks.encoders.outcomes import UNAVAILABLE
from benchmarks.generation.aims import aims
from benchmarks.generation.figures import Candidate, Load, Quantity, Workload, figure
from benchmarks.generation.outcomes import Call, Window, agreement, summarize
from benchmarks.generation.report import contexts_table, markdown


def test_tokens_count_when_they_come_also_of_calls_that_began_or_end_outside() -> None:
    window = Window(1.0, 3.0)
    calls = [
        Call(0, due=0.0, sent=0.0, ended=2.0, token_times=[0.5, 1.0, 2.0]),
        Call(1, due=2.0, sent=2.0, ended=5.0, token_times=[2.5, 3.0, 4.0]),
    ]
    figures = summarize(calls, window)
    assert figures["tokens_per_second"] == 3 / 2
    assert figures["tokens"] == 6
    assert figures["calls"] == 1


def test_a_first_token_counts_from_when_its_call_was_due_not_from_when_it_was_sent() -> None:
    figures = summarize([Call(0, due=1.0, sent=1.5, ended=4.0, token_times=[3.0, 4.0])], Window(0.0, 9.0))
    assert figures["first_token_p99_seconds"] == 2.0
    assert figures["call_p99_seconds"] == 3.0
    assert figures["lag_p99_seconds"] == 0.5


def test_gaps_are_within_a_call_and_never_from_one_to_another() -> None:
    calls = [
        Call(0, due=0.0, sent=0.0, token_times=[1.0, 1.25]),
        Call(1, due=0.0, sent=0.0, token_times=[7.0, 7.5]),
    ]
    figures = summarize(calls, Window(0.0, 9.0))
    assert (figures["between_tokens_p50_seconds"], figures["between_tokens_p99_seconds"]) == (0.25, 0.5)


def test_refused_and_failed_calls_are_told_apart_and_have_no_times() -> None:
    calls = [
        Call(0, due=0.0, sent=0.0, code=UNAVAILABLE),
        Call(1, due=0.0, sent=0.0, code=13),
        Call(2, due=0.0, sent=0.0, ended=1.0, token_times=[1.0]),
        Call(3, due=0.0, sent=0.0, ended=1.0, token_times=[1.0]),
    ]
    figures = summarize(calls, Window(0.0, 9.0))
    assert figures["refused_share"] == 0.25
    assert figures["failed_calls"] == 1
    assert figures["call_p50_seconds"] == 1.0


def test_no_calls_are_no_error() -> None:
    assert math.isnan(summarize([], Window(0.0, 1.0))["first_token_p50_seconds"])


def test_agreement_is_over_what_both_have_answered() -> None:
    assert agreement({0: [1, 2], 1: [3], 5: [9]}, {0: [1, 2], 1: [4], 7: [9]}) == 0.5
    assert math.isnan(agreement({0: [1]}, {1: [1]}))


def test_each_aim_is_of_figures_that_can_be_measured() -> None:
    names = {
        figure(candidate, workload, load, quantity)
        for candidate in Candidate
        for workload in Workload
        for load in Load
        for quantity in Quantity
    }
    for aim in aims():
        assert aim.over in names
        assert aim.under is None or aim.under in names


@pytest.mark.parametrize(("ours", "reached"), [(600.0, True), (599.0, False)])
def test_six_times_pytorch_is_the_aim(ours: float, reached: bool) -> None:  # noqa: FBT001
    figures = {
        figure(Candidate.AUTO, Workload.DECODER, Load.CLOSED, Quantity.TOKENS): ours,
        figure(Candidate.ALONE, Workload.DECODER, Load.OFFLINE, Quantity.TOKENS): 100.0,
    }
    (aim,) = (each for each in aims() if each.value(figures) is not None)
    value = aim.value(figures)
    assert value is not None
    assert aim.bound.holds(value) is reached


def test_the_page_holds_every_table_and_what_was_not_measured_says_so() -> None:
    rounds = [
        {figure(Candidate.AUTO, Workload.DECODER, Load.CLOSED, Quantity.TOKENS): speed} for speed in (900.0, 1100.0)
    ]
    contexts = {"64": {"step_seconds": 0.01, "copied_bytes": 0.0, "kept_bytes": 2**20}}
    page = markdown(rounds, "Measured somewhere.", ["CTranslate2: so"], {"Headwaiter, decoder": 1.0}, contexts)
    assert "| Headwaiter | 64 calls outstanding | 1,000 (900 to 1,100) |" in page
    assert "not measured" in page
    assert "| 64 | 10.0 | 1 | 0 |" in page
    assert "- Headwaiter, decoder: 100 %" in page
    assert "nan" not in page
    assert "| 64 | 10.0 | 1 | 0 |" in contexts_table(contexts)
