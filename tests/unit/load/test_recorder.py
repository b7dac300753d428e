"""What processes saw is counted where it belongs, and merged as if one process had seen it all."""

from __future__ import annotations

import dataclasses
import random

import pytest
from headwaiter_load.histograms import Histogram
from headwaiter_load.merging import merge
from headwaiter_load.outcome import OK, Outcome
from headwaiter_load.recorder import Recorder, Report, Window
from headwaiter_load.results import RunResult, Settings

WINDOW = Window(begin=1000.0, seconds=10.0, bin_seconds=1.0)
SETTINGS = Settings(
    target="t",
    protocol="headwaiter",
    task="embed",
    model="m",
    version="",
    stream=False,
    texts_per_call=1,
    load="poisson",
    rate=10.0,
    outstanding=None,
    burst_size=1,
    seconds=10.0,
    warmup_seconds=1.0,
    deadline_seconds=None,
    processes=1,
    connections=1,
    workload="w",
    seed=0,
)
GOOD, REFUSED = Outcome(OK, received_bytes=8), Outcome("UNAVAILABLE", "full")


def merged(*recorders: Recorder, cpu_seconds: float = 1.0) -> RunResult:
    """The result of processes that ran to the end."""
    reports = [each.report(number, WINDOW.seconds, cpu_seconds) for number, each in enumerate(recorders)]
    return merge(reports, SETTINGS, WINDOW, "2026-01-01T00:00:00+00:00", finished=True, server=None)


def test_latency_counts_from_when_a_call_was_due() -> None:
    """A call that was sent late has its lateness in the latency, not in the service time."""
    recorder = Recorder(WINDOW)
    recorder.ended(due=1001.0, sent=1001.5, ended=1002.0, rows=3, sent_bytes=20, outcome=GOOD)
    result = merged(recorder)
    assert result.latency.p99_seconds == pytest.approx(1.0, rel=1e-3)
    assert result.service_time.p99_seconds == pytest.approx(0.5, rel=1e-3)
    assert result.tester.lateness.p99_seconds == pytest.approx(0.5, rel=1e-3)
    assert (result.scheduled, result.answered, result.texts) == (1, 1, 3)
    assert (result.sent_bytes, result.received_bytes) == (20, 8)


def test_warm_up_is_left_out() -> None:
    """Calls due before count in no distribution; their answers count where they come, and they are outstanding."""
    recorder = Recorder(WINDOW)
    recorder.ended(999.0, 999.0, 999.5, 1, 1, GOOD)
    recorder.ended(999.0, 999.0, 1002.5, 1, 1, GOOD)
    recorder.ended(1009.5, 1009.5, 1011.0, 1, 1, GOOD)
    result = merged(recorder)
    assert (result.scheduled, result.latency.count, result.outstanding_at_begin) == (1, 1, 1)
    assert result.answered_per_second == pytest.approx(0.1)
    assert [moment.answered for moment in result.timeline] == [0, 0, 1, 0, 0, 0, 0, 0, 0, 0]
    assert [moment.outstanding for moment in result.timeline] == [1, 1, 0, 0, 0, 0, 0, 0, 0, 1]
    assert result.outstanding_at_end == 1


def test_time_line_puts_latency_where_calls_were_due() -> None:
    """A second's quantiles are of the calls due in it, its answers those that came in it."""
    recorder = Recorder(WINDOW)
    recorder.ended(1002.1, 1002.1, 1005.6, 2, 1, GOOD)
    result = merged(recorder)
    due, came = result.timeline[2], result.timeline[5]
    assert (due.scheduled, due.answered, due.outstanding, due.texts) == (1, 0, 1, 0)
    assert due.p99_seconds == pytest.approx(3.5, rel=0.02)
    assert Histogram.decoded(due.histogram, coarse=True).count == 1
    assert (came.scheduled, came.answered, came.outstanding, came.texts) == (0, 1, 0, 2)
    assert (came.p50_seconds, came.histogram) == (None, "")


def test_errors_are_counted_by_code_with_an_example() -> None:
    """Failed calls have no part in the latency of answers."""
    recorder = Recorder(WINDOW)
    for _ in range(3):
        recorder.ended(1001.0, 1001.0, 1001.2, 1, 1, REFUSED)
    recorder.ended(1001.0, 1001.0, 1009.0, 1, 1, Outcome("DEADLINE_EXCEEDED"))
    recorder.ended(1001.0, 1001.0, 1001.1, 1, 1, GOOD)
    result = merged(recorder)
    assert [(each.code, each.count, each.example) for each in result.errors] == [
        ("UNAVAILABLE", 3, "full"),
        ("DEADLINE_EXCEEDED", 1, ""),
    ]
    assert (result.failed, result.answered, result.latency.count, result.error_latency.count) == (4, 1, 1, 4)
    assert result.error_ratio == 0.8


@pytest.mark.parametrize(("seed", "processes"), [(1, 1), (2, 2), (3, 5)])
def test_merged_processes_are_as_one(seed: int, processes: int) -> None:
    """Whichever process a call fell to, counts, quantiles and time line are the same."""
    dice = random.Random(seed)
    one, many = Recorder(WINDOW), [Recorder(WINDOW) for _ in range(processes)]
    for _ in range(60):
        due = dice.uniform(998, 1012)
        sent = due + dice.uniform(0, 0.1)
        call = (due, sent, sent + dice.expovariate(1), dice.randint(1, 4), 7, dice.choice([GOOD, GOOD, REFUSED]))
        one.ended(*call)
        dice.choice(many).ended(*call)
    alone, together = merged(one), merged(*many)
    assert dataclasses.replace(together, tester=alone.tester) == alone
    assert together.tester.lateness == alone.tester.lateness


def test_a_process_without_answers_makes_none_shorter() -> None:
    """The shortest latency is that of an answer, also where one of the processes has had none."""
    busy, idle = Recorder(WINDOW), Recorder(WINDOW)
    busy.ended(1001.0, 1001.0, 1001.5, 1, 1, GOOD)
    assert merged(busy, idle).latency.min_seconds == pytest.approx(0.5, rel=1e-3)


def test_a_busy_tester_is_told() -> None:
    """A process that used most of a core makes the figures doubtful; an idle one does not."""
    recorder = Recorder(WINDOW)
    recorder.ended(1001.0, 1001.0, 1001.2, 1, 1, GOOD)
    busy, idle = merged(recorder, cpu_seconds=9.5), merged(recorder, cpu_seconds=2.0)
    assert busy.tester.bottleneck
    assert "95% of a core" in busy.tester.warnings[0]
    assert (idle.tester.bottleneck, idle.tester.warnings) == (False, ())
    assert idle.tester.processes[0].cpu_share == pytest.approx(0.2)


@pytest.mark.parametrize(("late", "told"), [(0.001, False), (0.03, True)])
def test_a_late_tester_is_told(late: float, *, told: bool) -> None:
    """Lateness that shows in the latency makes the figures doubtful."""
    recorder = Recorder(WINDOW)
    for _ in range(100):
        recorder.ended(1001.0, 1001.0 + late, 1001.05 + late, 1, 1, GOOD)
    assert merged(recorder).tester.bottleneck is told


def test_an_interrupted_run_has_a_shorter_time_line() -> None:
    """Rates are of the time that was measured, and nothing stands behind it."""
    recorder = Recorder(WINDOW)
    recorder.ended(1001.0, 1001.0, 1001.2, 1, 1, GOOD)
    report = recorder.report(0, seconds=2.5, cpu_seconds=0.1)
    result = merge([report], SETTINGS, WINDOW, "2026-01-01T00:00:00+00:00", finished=False, server=None)
    assert (result.measured_seconds, result.finished, len(result.timeline)) == (2.5, False, 3)
    assert result.timeline[-1].length_seconds == pytest.approx(0.5)
    assert result.answered_per_second == pytest.approx(0.4)


def test_nothing_measured_is_no_division_by_zero() -> None:
    """A run without a call has figures, all of them 0."""
    report: Report = Recorder(WINDOW).report(0, seconds=0.0, cpu_seconds=0.0)
    result = merge([report], SETTINGS, WINDOW, "2026-01-01T00:00:00+00:00", finished=False, server=None)
    assert (result.answered_per_second, result.error_ratio, result.latency.p99_seconds) == (0.0, 0.0, 0.0)
    assert result.timeline == ()


def test_memory_does_not_grow_with_calls() -> None:
    """What travels to the parent is as large after a hundred thousand calls as the histograms are wide."""
    dice, recorder = random.Random(1), Recorder(WINDOW)
    for number in range(20_000):
        due = 1000 + number % 10
        recorder.ended(due, due, due + dice.expovariate(10), 1, 1, Outcome("INTERNAL", "x" * 1000))
    report = recorder.report(0, 10.0, 1.0)
    assert len(report.errors) == len(report.examples) == 1
    assert len(report.examples["INTERNAL"]) == 300
    assert len(report.latency) + len(report.error_latency) < 40_000
