"""What is said of two results, and what gates make of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from headwaiter_load import results
from headwaiter_load.cli_report import compare as command
from headwaiter_load.compare import Change, ComparisonError, changes_section, compare
from headwaiter_load.gates import Gate

from .recorded_runs import SETTINGS, capacity_of, random_seconds, run_of


def _changes(*arguments: object) -> dict[str, Change]:
    return {change.name: change for change in compare(*arguments).changes}  # type: ignore[arg-type]


def test_the_same_load_again_is_no_difference() -> None:
    changes = _changes(run_of(random_seconds(1, seconds=40)), run_of(random_seconds(2, seconds=40)))
    assert {name: change.verdict for name, change in changes.items()} == {
        "p50": "no difference shown",
        "p90": "no difference shown",
        "p99": "no difference shown",
        "p99.9": "cannot be told",  # of 4000 calls four lie beyond it
        "mean": "no difference shown",
        "rate": "no difference shown",
        "failed": "no difference shown",
    }


@pytest.mark.parametrize(("scale", "verdict"), [(1.25, "worse"), (0.8, "better")])
def test_a_change_is_told_from_noise(scale: float, verdict: str) -> None:
    changes = _changes(run_of(random_seconds(1)), run_of(random_seconds(2, scale=scale)))
    assert {changes[name].verdict for name in ("p50", "p90", "mean")} == {verdict}
    assert changes["p50"].change.estimate == pytest.approx(scale, rel=0.05)


def test_more_answers_are_better() -> None:
    changes = _changes(run_of(random_seconds(1, calls=50)), run_of(random_seconds(2, calls=60)))
    assert changes["rate"].verdict == "better"
    assert changes["rate"].change.estimate == pytest.approx(1.2)


def test_failures_are_compared_by_their_difference() -> None:
    failed = [0.02] * 100
    steady = run_of([failed] * 20, failed=0)
    moments = tuple(replace(moment, failed=10, scheduled=110) for moment in steady.timeline)
    failing = replace(steady, failed=200, scheduled=2200, timeline=moments)
    change = _changes(steady, failing)["failed"]
    assert change.verdict == "worse"
    assert change.change.estimate == pytest.approx(200 / 2200)


def test_estimates_are_the_results_own_figures() -> None:
    run = run_of(random_seconds(1, calls=97))
    changes = _changes(run, run)
    for name, percentile in (("p50", "50"), ("p90", "90"), ("p99", "99"), ("p99.9", "99.9")):
        assert changes[name].before.estimate == pytest.approx(run.latency.percentiles[percentile], rel=1e-9)
    assert changes["mean"].before.estimate == pytest.approx(run.latency.mean_seconds, rel=1e-3)
    assert changes["rate"].before.estimate == run.answered_per_second


def test_what_makes_a_comparison_doubtful_is_said() -> None:
    first = run_of(random_seconds(1, seconds=3))
    second = replace(
        run_of(random_seconds(2)),
        settings=replace(SETTINGS, rate=120.0),
        tester=replace(first.tester, bottleneck=True),
    )
    remarks = compare(first, second).remarks
    assert any("Load (Poisson arrivals, 100/s against Poisson arrivals, 120/s)" in remark for remark in remarks)
    assert any("first run is so short" in remark for remark in remarks)
    assert any("In the second run the tester" in remark for remark in remarks)


def test_another_address_is_no_other_load() -> None:
    first, second = run_of(random_seconds(1)), run_of(random_seconds(1))
    assert compare(first, replace(second, settings=replace(SETTINGS, target="other:8001"))).remarks == ()


def test_capacities_differ_only_beyond_the_steps_of_the_search() -> None:
    within = _changes(capacity_of(None, 300.0, 330.0), capacity_of(None, 320.0, 340.0))["capacity"]
    assert within.verdict == "no difference shown"
    beyond = _changes(capacity_of(None, 300.0, 330.0), capacity_of(None, 340.0, 360.0))["capacity"]
    assert beyond.verdict == "better"
    assert (beyond.change.low, beyond.change.high) == pytest.approx((340 / 330, 360 / 300))


def test_capacity_without_an_upper_bound_may_be_any() -> None:
    change = _changes(capacity_of(None, 300.0, 330.0), capacity_of(None, 310.0, None))["capacity"]
    assert change.verdict == "cannot be told"
    assert _changes(capacity_of(None, 300.0, 330.0), capacity_of(None, 340.0, None))["capacity"].verdict == "better"


def test_what_cannot_be_compared_is_refused() -> None:
    run = run_of(random_seconds(1))
    with pytest.raises(ComparisonError, match="one is a run"):
        compare(run, capacity_of(run))
    with pytest.raises(ComparisonError, match="no call was answered"):
        compare(run, run_of([[]] * 10, failed=5))
    with pytest.raises(ComparisonError, match="found no capacity"):
        compare(capacity_of(None, None, 100.0), capacity_of(None))


@pytest.mark.parametrize("text", ["p99", "p99>", "p99=1.1", "p99>1.1.1", ">1", "p99>-1"])
def test_a_gate_that_means_nothing_is_refused(text: str) -> None:
    with pytest.raises(ComparisonError, match=r"p99|>1"):
        Gate.parsed(text)


def test_a_gate_trips_only_on_what_is_no_chance() -> None:
    base = run_of(random_seconds(1))
    same = compare(base, run_of(random_seconds(2))).changes
    slower = compare(base, run_of(random_seconds(2, scale=1.25))).changes
    assert Gate.parsed("p50>1.1").tripped(slower)
    assert not Gate.parsed("p50>1.5").tripped(slower)
    assert not Gate.parsed("p50 < 0.9").tripped(slower)
    # By the estimates alone one of these trips.
    assert not Gate.parsed("p50>1.0").tripped(same)
    assert not Gate.parsed("p50<1.0").tripped(same)
    with pytest.raises(ComparisonError, match="there are p50"):
        Gate.parsed("p98>1").tripped(same)


def test_a_gate_may_ask_for_more() -> None:
    faster = compare(run_of(random_seconds(1, scale=1.25)), run_of(random_seconds(2))).changes
    assert Gate.parsed("p50<0.9").tripped(faster)


def test_the_section_has_a_row_for_every_figure() -> None:
    comparison = compare(run_of(random_seconds(1)), run_of(random_seconds(2)))
    section = changes_section(comparison, ("old", "new"))
    assert section.columns[1:3] == ("old", "new")
    assert {len(row) for row in section.rows} == {len(section.columns)}
    assert [row[0] for row in section.rows[:7]] == [change.name for change in comparison.changes]


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    paths = tmp_path / "old.json", tmp_path / "new.json"
    results.save(run_of(random_seconds(1)), paths[0])
    results.save(run_of(random_seconds(2, scale=1.25)), paths[1])
    return paths


def test_the_command_prints_the_changes_and_writes_the_page(files: tuple[Path, Path], tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    done = CliRunner(env={"COLUMNS": "150"}).invoke(command, [*map(str, files), "--html", str(page)])
    assert done.exit_code == 0, done.output
    assert "p50" in done.output
    assert "worse" in done.output
    assert "new against old" in page.read_text()


def test_a_tripped_gate_has_an_exit_code_of_its_own(files: tuple[Path, Path]) -> None:
    runner = CliRunner()
    tripped = runner.invoke(command, [*map(str, files), "--fail-if", "p50>1.1", "--fail-if", "p90>3"])
    assert tripped.exit_code == 3
    assert "beyond the gate p50>1.1" in tripped.output
    assert "p90>3" not in tripped.output
    assert runner.invoke(command, [*map(str, files), "--fail-if", "p50>1.5"]).exit_code == 0
    wrong = runner.invoke(command, [*map(str, files), "--fail-if", "p98>1"])
    assert wrong.exit_code == 1
    assert "p98" in wrong.output


def test_the_changes_as_json(files: tuple[Path, Path]) -> None:
    done = CliRunner().invoke(command, [*map(str, files), "--json", "--fail-if", "mean>1.1"])
    printed = json.loads(done.stdout)
    assert printed["tripped"] == ["mean>1.1"]
    assert printed["changes"]["p50"]["verdict"] == "worse"
    assert printed["changes"]["p99.9"]["change"]["high"] is None


def test_a_file_that_is_no_result_is_named(tmp_path: Path, files: tuple[Path, Path]) -> None:
    other = tmp_path / "other.json"
    other.write_text("{}")
    done = CliRunner().invoke(command, [str(files[0]), str(other)])
    assert done.exit_code == 1
    assert "other.json" in done.output
