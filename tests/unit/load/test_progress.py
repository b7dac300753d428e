"""A run that goes on is seen to go on, on a terminal and in a log."""

from __future__ import annotations

import io

import pytest
from headwaiter_load import progress
from headwaiter_load.histograms import Histogram
from headwaiter_load.progress import Watcher
from headwaiter_load.results import Step
from headwaiter_load.worker import Progress
from rich.console import Console
from unit.load.test_results_file import capacity_result


def told(number: int, sent: int, answered: int, failed: int, *latencies: float) -> Progress:
    """Word of one process."""
    histogram = Histogram(coarse=True)
    for each in latencies:
        histogram.record(each)
    return Progress(number, sent, answered, failed, histogram.encoded())


def step() -> Step:
    """A step of a search."""
    return capacity_result().steps[0]


@pytest.fixture(autouse=True)
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Show whatever is told at once."""
    monkeypatch.setattr(progress, "_PLAIN_SECONDS", 0.0)
    monkeypatch.setattr(progress, "_SHOW_SECONDS", 0.0)


@pytest.mark.parametrize("terminal", [False, True])
def test_processes_are_added_up(*, terminal: bool) -> None:
    """Counts are of all processes; latencies of what was answered since the last line."""
    out = io.StringIO()
    with Watcher(Console(file=out, force_terminal=terminal, width=150), 12.0, quiet=False) as watcher:
        watcher.watch(told(0, 40, 30, 2, 0.010))
        watcher.watch(told(1, 1005, 1000, 0, 0.250))
        watcher.watch(told(0, 41, 30, 2))
    text = out.getvalue()
    assert "0 of 12 s: 1,030 answered" in text
    assert "2 failed, 13 outstanding; p50 250" in text
    assert "2 failed, 14 outstanding" in text
    assert text.count("p50") == 2


def test_steps_of_a_search_are_lines() -> None:
    """The rate, its figures, and whether it meets the goal; the next step counts from 0 again."""
    out = io.StringIO()
    with Watcher(Console(file=out, width=150), None, quiet=False) as watcher:
        watcher.watch(told(0, 50, 50, 0))
        watcher.step(step())
        watcher.watch(told(0, 3, 2, 0))
    assert "10.0 calls/s for    5 s: p50 100 ms, p99 200 ms, 0.00% failed; meets" in out.getvalue()
    assert out.getvalue().splitlines()[-1].startswith("0 s: 2 answered")


def test_quiet_is_quiet() -> None:
    """Nothing at all."""
    out = io.StringIO()
    with Watcher(Console(file=out, force_terminal=True), 1.0, quiet=True) as watcher:
        watcher.watch(told(0, 50, 50, 0, 0.1))
        watcher.step(step())
    assert out.getvalue() == ""
