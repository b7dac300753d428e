"""The terminal shows the same figures as the page."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from headwaiter_load import results, units
from headwaiter_load.cli_report import report
from headwaiter_load.report import print_result
from headwaiter_load.results import LimitedBy, Result
from rich.console import Console

from .recorded_runs import SETTINGS, capacity_of, random_seconds, run_of


def _printed(result: Result, width: int = 160) -> str:
    console = Console(width=width, record=True, quiet=False, file=None, force_terminal=False)
    with console.capture() as captured:
        print_result(result, console)
    return captured.get()


def test_figures_have_units() -> None:
    run = run_of(random_seconds(1), failed=3)
    text = _printed(run)
    for percentile in ("50", "90", "99", "99.9"):
        assert units.seconds(run.latency.percentiles[percentile]) in text
    assert "DEADLINE_EXCEEDED" in text
    assert "Deadline <b>Exceeded</b>" in text
    assert "7.50 %" in text  # CPU of a process: 1.5 of 20 s
    assert "1.50 s of processor time per 1000 calls" in text


def test_brackets_from_outside_are_no_markup() -> None:
    run = run_of(random_seconds(1, seconds=3), failed=1)
    error = replace(run.errors[0], example="[red]not[/red] [/]markup")
    text = _printed(replace(run, errors=(error,), settings=replace(SETTINGS, target="[bold]host[/]")))
    assert "[red]not[/red] [/]markup" in text
    assert "[bold]host[/]" in text


def test_a_percentile_of_few_calls_is_doubted() -> None:
    assert "fewer than 5 calls lie beyond p99.9" in _printed(run_of(random_seconds(1)))
    assert "calls lie beyond" not in _printed(run_of(random_seconds(1, seconds=60)))


def test_a_closed_loop_has_one_latency() -> None:
    settings = replace(SETTINGS, load="closed", rate=None, outstanding=8)
    text = _printed(run_of(random_seconds(1, seconds=3), settings=settings))
    assert "8 calls outstanding" in text
    assert "From when it was sent" not in text


def test_a_search_ends_with_what_it_found() -> None:
    text = _printed(capacity_of(run_of(random_seconds(1, seconds=3))))
    assert "missed: p99 was 200 ms" in text
    assert text.rstrip().endswith("Capacity: 300/s; 320/s was too much.")


@pytest.mark.parametrize(
    ("limited_by", "said"),
    [
        ("server", "No rate met the goal, not even 100/s."),
        ("tester", "Nothing is known of the server: the tester itself could not send 100/s in time."),
        ("interrupted", "No rate had met the goal when the search was interrupted, not even 100/s."),
    ],
)
def test_a_search_that_found_nothing_says_whose_fault_it_was(limited_by: LimitedBy, said: str) -> None:
    found = replace(capacity_of(None), capacity_per_second=None, best=None, limited_by=limited_by)
    assert _printed(found).rstrip().endswith(said)


def test_calls_under_way_when_a_run_was_interrupted_are_told() -> None:
    run = replace(run_of(random_seconds(1)), finished=False)
    assert "figures of what there was." in _printed(run)
    assert "without 1,234 calls that were still under way." in _printed(replace(run, left_out=1234))
    assert "without the one call that was still under way." in _printed(replace(run, left_out=1))


def test_narrow_terminals_break_no_words() -> None:
    """On 80 columns the table of a search has its lines broken between words only."""
    words = _printed(capacity_of(run_of(random_seconds(1))), width=80).split()
    assert "answered" in words
    assert words.count("doubling") == 4


def test_the_command_reads_a_saved_result(tmp_path: Path) -> None:
    saved, page = tmp_path / "run.json", tmp_path / "run.html"
    results.save(run_of(random_seconds(1, seconds=3)), saved)
    done = CliRunner(env={"COLUMNS": "150"}).invoke(report, [str(saved), "--html", str(page)])
    assert done.exit_code == 0, done.output
    assert "Latency" in done.output
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_several_runs_are_one_table(tmp_path: Path) -> None:
    for name, calls in (("slow", 20), ("fast", 40)):
        results.save(run_of(random_seconds(1, seconds=3, calls=calls)), tmp_path / f"{name}.json")
    results.save(capacity_of(None), tmp_path / "search.json")
    runs = [str(tmp_path / "slow.json"), str(tmp_path / "fast.json")]
    page = tmp_path / "runs.html"
    done = CliRunner(env={"COLUMNS": "150"}).invoke(report, [*runs, "--html", str(page)])
    assert done.exit_code == 0, done.output
    assert "The runs" in done.output
    assert "2 load tests" in page.read_text(encoding="utf-8")
    mixed = CliRunner().invoke(report, [*runs, str(tmp_path / "search.json")])
    assert mixed.exit_code == 2
    assert "all must be runs" in mixed.output


def test_a_file_that_is_no_result_is_an_error(tmp_path: Path) -> None:
    saved = tmp_path / "run.json"
    saved.write_text("[]")
    done = CliRunner().invoke(report, [str(saved)])
    assert done.exit_code == 1
    assert "run.json" in done.output
