"""The JSON file gives back what was written, and files that say something else are refused by field."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from headwaiter_load import results
from headwaiter_load.decoding import DecodingError
from headwaiter_load.histograms import Histogram
from headwaiter_load.recorder import Recorder
from headwaiter_load.results import CapacityResult, Goal, RunResult, Step
from unit.load.test_recorder import GOOD, REFUSED, SETTINGS, WINDOW, merged


def run_result() -> RunResult:
    """A small result of every part."""
    recorder = Recorder(WINDOW)
    for number in range(50):
        recorder.ended(1000.0 + number / 10, 1000.0 + number / 10, 1000.2 + number / 10, 1, 5, GOOD)
    recorder.ended(1003.0, 1003.0, 1003.5, 1, 5, REFUSED)
    return merged(recorder)


def capacity_result() -> CapacityResult:
    """A search of one step."""
    step = Step(
        number=1,
        phase="doubling",
        attempt=1,
        rate=10.0,
        seconds=5.0,
        calls=50,
        answered_per_second=10.0,
        p50_seconds=0.1,
        p99_seconds=0.2,
        error_ratio=0.0,
        backlog_growth=0,
        cpu_share=0.1,
        met=True,
        reasons=(),
    )
    return CapacityResult(
        tool_version="1",
        started_at="2026-01-01T00:00:00+00:00",
        finished=True,
        settings=SETTINGS,
        goal=Goal(p99_seconds=0.2, error_ratio=0.01, precision=0.05),
        steps=(step,),
        capacity_per_second=10.0,
        missed_per_second=None,
        limited_by="max-rate",
        best=run_result(),
    )


@pytest.mark.parametrize("make", [run_result, capacity_result])
def test_a_result_comes_back_as_it_was(tmp_path: Path, make: Callable[[], results.Result]) -> None:
    """Every field, through the file."""
    path = tmp_path / "result.json"
    results.save(make(), path)
    assert results.load(path) == make()
    assert [each.name for each in tmp_path.iterdir()] == ["result.json"]


def test_the_whole_distribution_is_in_the_file() -> None:
    """Any percentile can be read from it later."""
    latency = run_result().latency
    histogram = Histogram.decoded(latency.histogram)
    assert histogram.count == latency.count == 50
    assert histogram.percentile(37) == pytest.approx(0.2, rel=2e-3)
    assert sum(count for _, count in histogram.buckets()) == 50


def broken(change: Callable[[dict[str, Any]], object]) -> str:
    """A result's text with a change."""
    value = json.loads(results.to_json(run_result()))
    change(value)
    return json.dumps(value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda value: value.pop("kind"), '"kind" is none of run, capacity'),
        (lambda value: value.update(kind="walk"), '"kind" is none of'),
        (lambda value: value.update(format_version=2), "format_version is 2; this headwaiter-load reads 1"),
        (lambda value: value.update(mood="good"), "unknown field 'mood'"),
        (lambda value: value.pop("scheduled"), "lacks the field 'scheduled'"),
        (lambda value: value.update(scheduled="many"), "it.scheduled is 'many', no int"),
        (lambda value: value.update(scheduled=True), "it.scheduled is True, no int"),
        (lambda value: value["timeline"][3].pop("failed"), r"it.timeline\[3\] lacks the field 'failed'"),
        (lambda value: value["settings"].update(load="chaos"), "it.settings.load is 'chaos', none of 'closed'"),
        (lambda value: value["latency"]["percentiles"].update({"50": None}), "it.latency.percentiles.50 is None"),
    ],
)
def test_other_files_are_refused(change: Callable[[dict[str, Any]], object], said: str) -> None:
    """What is missing, unknown or of another type is named with its path."""
    with pytest.raises(DecodingError, match=said):
        results.from_json(broken(change))


@pytest.mark.parametrize("text", ["", "[1]", "null", '{"kind": ["run"]}', "\x00"])
def test_what_is_no_result_is_refused(tmp_path: Path, text: str) -> None:
    """The file is named."""
    path = tmp_path / "thing.json"
    path.write_text(text)
    with pytest.raises(DecodingError, match=r"thing\.json"):
        results.load(path)


def test_numbers_may_be_whole() -> None:
    """Other tools write 10.0 as 10."""
    text = results.to_json(run_result()).replace('"measured_seconds": 10.0', '"measured_seconds": 10')
    assert results.from_json(text) == run_result()
