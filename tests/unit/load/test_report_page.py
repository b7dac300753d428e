"""The page holds the result's own figures, and needs nothing but itself."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from headwaiter_load.compare import compare
from headwaiter_load.comparison_page import write_comparison, write_several
from headwaiter_load.comparison_plots import comparison_plots
from headwaiter_load.page import write_html
from headwaiter_load.results import CapacityResult, Result, RunResult

from .page_reader import Page
from .recorded_runs import SETTINGS, capacity_of, random_seconds, run_of


def _server() -> dict[str, object]:
    names = {
        "headwaiter_request_duration_seconds_sum": 2.0,
        "headwaiter_request_duration_seconds_count": 100.0,
        "headwaiter_queue_duration_seconds_sum": 0.5,
        "headwaiter_inference_duration_seconds_sum": 1.0,
        "headwaiter_run_duration_seconds_count": 10.0,
        "headwaiter_batch_tokens_sum": 400.0,
        "headwaiter_batch_tokens_count": 10.0,
        "headwaiter_batch_tokens_bucket:32.0": 4.0,
        "headwaiter_batch_tokens_bucket:64.0": 10.0,
        "headwaiter_batch_tokens_bucket:+Inf": 10.0,
        "headwaiter_batches_total:budget": 3.0,
        "headwaiter_batches_total:empty": 7.0,
    }
    readings = [
        {"at_seconds": float(at), "values": {name: value * at for name, value in names.items()}} for at in range(4)
    ]
    return {"metrics_url": "http://host:8002/metrics", "model": "minilm", "problem": "", "readings": readings}


@pytest.fixture(scope="module")
def run() -> RunResult:
    return run_of(random_seconds(1), failed=3, server=_server())


def _page(result: Result, folder: Path) -> Page:
    path = folder / "page.html"
    write_html(result, path)
    return Page(path.read_text(encoding="utf-8"))


def test_figures_are_the_results_own(run: RunResult, tmp_path: Path) -> None:
    page = _page(run, tmp_path)
    percentiles = [run.latency.percentiles[each] for each in ("50", "90", "99", "99.9")]
    assert page.values["Latency"][:6] == [*percentiles, run.latency.max_seconds, run.latency.mean_seconds]
    rates = run.offered_per_second, run.answered_per_second, run.texts_per_second, run.error_ratio
    counts = run.scheduled, run.answered, run.texts, run.failed
    assert page.values["Calls"] == [value for pair in zip(counts, rates, strict=True) for value in pair]
    assert page.values["Failed calls"] == [3, 3 / run.scheduled]
    assert page.tables["Failed calls"][1][3] == "Deadline <b>Exceeded</b>"
    shares = [(process.cpu_share, process.late_p99_seconds) for process in run.tester.processes]
    assert page.values["The tester itself"] == [value for pair in shares for value in pair]


def test_the_servers_part_adds_up(run: RunResult, tmp_path: Path) -> None:
    page = _page(run, tmp_path)
    *parts_and_shares, total = page.values["Where the server's time goes"]
    assert total == pytest.approx(0.02)
    assert sum(parts_and_shares[::2]) == pytest.approx(total)
    assert sum(parts_and_shares[1::2]) == pytest.approx(1)
    assert page.tables["Why batches closed"][1:] == [["empty", "21", "70.0 %"], ["budget", "9", "30.0 %"]]


def test_plots_hold_the_timeline(run: RunResult, tmp_path: Path) -> None:
    plots = _page(run, tmp_path).plots
    over_time = {series["name"]: series["values"] for series in plots["latency-over-time"]["series"]}
    assert over_time["p99"] == [moment.p99_seconds for moment in run.timeline]
    assert plots["latency-over-time"]["x"] == [moment.start_seconds + 0.5 for moment in run.timeline]
    calls = {series["name"]: series["values"] for series in plots["calls-over-time"]["series"]}
    assert calls["failed"] == [moment.failed for moment in run.timeline]
    tokens = plots["server-batch-tokens"]
    assert tokens["buckets"] == ["1-32", "33-64"]
    assert tokens["series"][0]["values"] == [0.4, 0.6]


def test_the_curve_goes_through_the_percentiles(run: RunResult, tmp_path: Path) -> None:
    plot = _page(run, tmp_path).plots["percentiles"]
    curve = dict(zip(plot["x"], plot["series"][0]["values"], strict=True))
    assert curve[10.0] == run.latency.percentiles["90"]
    assert curve[100.0] == run.latency.percentiles["99"]
    assert curve[1000.0] == run.latency.percentiles["99.9"]
    assert max(curve) <= run.latency.count


def test_every_plot_has_its_place(run: RunResult, tmp_path: Path) -> None:
    page = _page(capacity_of(run), tmp_path)
    assert [name for name in page.ids if name.startswith("plot-")] == [f"plot-{name}" for name in page.plots]


def test_the_page_needs_nothing_else(run: RunResult, tmp_path: Path) -> None:
    page = _page(run, tmp_path)
    assert page.fetched == []
    assert page.policy.startswith("default-src 'none'")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert re.search(r"@import|url\s*\(|import\s*\(|fetch\s*\(|XMLHttpRequest|WebSocket", text) is None


def test_what_came_from_outside_stays_text(run: RunResult, tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script>{{css}}<img src=x>"
    server = {**_server(), "model": evil, "metrics_url": evil}
    settings = replace(SETTINGS, model=evil, target=evil, workload=evil)
    error = replace(run.errors[0], code=evil, example=evil)
    hostile = replace(run, settings=settings, errors=(error,), server=server, started_at=evil)
    page = _page(hostile, tmp_path)
    assert page.fetched == []
    assert page.words.count("alert(1)") >= 5
    assert page.plots


def test_a_plots_data_cannot_end_its_script(run: RunResult, tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script>"
    path = tmp_path / "page.html"
    write_comparison(compare(run, run), (run, run), (evil, "other"), path)
    assert Page(path.read_text(encoding="utf-8")).plots["percentiles"]["series"][0]["name"] == evil


def test_the_search_is_shown_with_its_goal(tmp_path: Path) -> None:
    result = capacity_of(run_of(random_seconds(1)))
    page = _page(result, tmp_path)
    assert "Capacity: 300/s; 320/s was too much." in page.words
    plot = page.plots["latency-by-rate"]
    assert plot["x"] == [100.0, 300.0, 320.0, 400.0]
    assert plot["marks"] == [
        {"axis": "y", "value": 0.1, "label": "goal"},
        {"axis": "x", "value": 300.0, "label": "capacity"},
    ]
    assert [row[0] for row in page.tables["Steps of the search"][1:]] == [f"{n}. doubling" for n in (1, 2, 3, 4)]
    assert page.tables["Steps of the search"][2][-1] == "missed: p99 was 200 ms"


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (capacity_of(None, None, 100.0), "No rate met the goal, not even 100/s."),
        (capacity_of(None, 300.0, None), "300/s or more"),
        (replace(capacity_of(None, None, None), steps=()), "No rate was tried."),
    ],
)
def test_searches_without_an_end(result: CapacityResult, words: str, tmp_path: Path) -> None:
    assert words in _page(result, tmp_path).words


def test_a_run_without_an_answer_has_a_page(tmp_path: Path) -> None:
    page = _page(run_of([[]] * 3, failed=5), tmp_path)
    assert "percentiles" not in page.plots
    assert page.tables["Latency"][1][1:] == ["-"] * 6
    assert "give --metrics-url" in page.words


def test_metrics_that_could_not_be_read_are_explained(tmp_path: Path) -> None:
    server = {"metrics_url": "http://h/metrics", "model": "", "problem": "h: refused", "readings": []}
    words = _page(run_of(random_seconds(1, seconds=3), server=server), tmp_path).words
    assert "Its metrics could not be read: h: refused." in words


def test_doubts_stand_on_the_page(tmp_path: Path) -> None:
    base = run_of(random_seconds(1, seconds=3))
    tester = replace(base.tester, bottleneck=True, warnings=("The tester was busy: add --processes.",))
    words = _page(replace(base, finished=False, outstanding_at_end=200, tester=tester), tmp_path).words
    assert "The tester was busy: add --processes." in words
    assert "was interrupted" in words
    assert "200 more calls were outstanding at the end" in words


def test_two_runs_stand_in_the_same_plots(run: RunResult, tmp_path: Path) -> None:
    other = run_of(random_seconds(2, seconds=10, scale=1.3))
    path = tmp_path / "page.html"
    comparison = compare(run, other)
    write_comparison(comparison, (run, other), ("old", "new"), path)
    page = Page(path.read_text(encoding="utf-8"))
    assert page.fetched == []
    assert page.tables["Changes"][1][0] == "p50"
    assert page.values["Changes"][:2] == [run.latency.p50_seconds, other.latency.p50_seconds]
    old, new = page.plots["answered-over-time"]["series"]
    assert old["values"] == [100.0] * 20
    assert new["values"] == [100.0] * 10 + [None] * 10


def test_a_longer_run_with_longer_stretches_has_a_line_of_its_own(run: RunResult) -> None:
    """One of its stretches stands for each second that it holds, and for none after it."""
    first = replace(run.timeline[0], length_seconds=4.0, answered=40)
    longer = replace(run, timeline=(first, replace(first, start_seconds=4.0, length_seconds=1.0, answered=20)))
    plots = {plot.name: plot for plot in comparison_plots(run, longer, ("a", "b"))}
    answered = plots["answered-over-time"]
    assert list(answered.x) == [float(second) for second in range(len(run.timeline))]
    values = answered.series[1].values
    assert values[:6] == [10.0, 10.0, 10.0, 10.0, 20.0, None]


def test_two_searches_stand_in_the_same_plot(tmp_path: Path) -> None:
    first, second = capacity_of(None, 300.0, 320.0), capacity_of(None, 350.0, 380.0)
    path = tmp_path / "page.html"
    write_comparison(compare(first, second), (first, second), ("old", "new"), path)
    page = Page(path.read_text(encoding="utf-8"))
    assert page.plots["p99-by-rate"]["x"] == [100.0, 300.0, 320.0, 350.0, 380.0, 400.0]


def test_several_runs_show_latency_by_throughput(tmp_path: Path) -> None:
    slow = run_of(random_seconds(1, seconds=5, calls=50))
    fast = run_of(random_seconds(2, seconds=5, calls=200, scale=3))
    closed = replace(
        run_of(random_seconds(3, seconds=5, calls=100), failed=5),
        settings=replace(SETTINGS, load="closed", rate=None, outstanding=4),
    )
    path = tmp_path / "page.html"
    write_several({"fast": fast, "slow": slow, "closed": closed}, path)
    page = Page(path.read_text(encoding="utf-8"))
    plot = page.plots["latency-by-rate"]
    # Of a closed loop what was answered.
    assert plot["x"] == [50.0, 100.0, 200.0]
    assert plot["series"][2]["values"] == [run.latency.p99_seconds for run in (slow, closed, fast)]
    assert [series["name"] for series in page.plots["percentiles"]["series"]] == ["fast", "slow", "closed"]
    assert [row[0] for row in page.tables["The runs"]] == ["", "slow", "closed", "fast"]
    assert page.fetched == []
