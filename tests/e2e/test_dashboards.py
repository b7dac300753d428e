"""Debian's Prometheus scrapes the real server: every panel and every rule, held to what the callers counted."""

from __future__ import annotations

import json
import math
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from .expected_panels import MODEL_PANELS, PANELS, Finally, Peaks, Rates
from .expected_rules import ANY, PENDING, SILENT, expected_series
from .monitored import MOST_CALLS, SLO_SECONDS, Story, told_story
from .monitored_models import write_models
from .prometheus import Labels
from .reloading import FAILED_LOADS, HITS, MISSES, SWAPS, Reloading, told_reloading
from .windows import Between, Window

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
VARIABLES = {"$job": "headwaiter", "$instance": ".*", "$model": ".*"}

pytestmark = [
    pytest.mark.alone,
    pytest.mark.torch,
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="Debian's package prometheus is not installed"),
]


@pytest.fixture(scope="module")
def story(encoders_dir: Path, models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """A server that has been through everything, and the Prometheus that watched."""
    folder = tmp_path_factory.mktemp("monitored")
    models = write_models(encoders_dir, models_dir / "pronounce", folder / "models")
    with told_story(models, folder) as told:
        yield told


@pytest.fixture(scope="module")
def reloading(encoders_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reloading]:
    """A server whose model was loaded again and again, and the Prometheus that watched."""
    with told_reloading(encoders_dir / "embed" / "1", tmp_path_factory.mktemp("reloading")) as told:
        yield told


@pytest.fixture(scope="module")
def panels() -> dict[tuple[str, str], list[dict[str, str]]]:
    """The queries of every panel, by dashboard and title."""
    dashboards = {
        path.stem: json.loads(path.read_text()) for path in (DEPLOY / "grafana" / "dashboards").glob("*.json")
    }
    return {
        (name, panel["title"]): panel["targets"]
        for name, dashboard in dashboards.items()
        for panel in dashboard["panels"]
        if panel["type"] != "row"
    }


@pytest.fixture(scope="module")
def rules() -> list[dict[str, Any]]:
    """Every recording rule."""
    groups = yaml.safe_load((DEPLOY / "prometheus" / "rules" / "recording.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def legend(template: str, labels: Labels) -> str:
    """What Grafana writes beside a series."""
    told = dict(labels)
    return re.sub(r"\{\{(\w+)\}\}", lambda match: told.get(match[1], ""), template)


def filled_in(expr: str, window: Window) -> str:
    """A query as Grafana sends it, with everything chosen."""
    for variable, value in VARIABLES.items():
        expr = expr.replace(variable, value)
    return expr.replace("$__rate_interval", f"{window.seconds * 1000:.0f}ms")


def wrong(shown: dict[str, float], expected: dict[str, float | Between], part: float) -> dict[str, object]:
    """What is shown and should not be, or not as it should; series of 0, and of what is no number, do not count."""
    found: dict[str, object] = {
        name: value for name, value in shown.items() if name not in expected and value != 0 and not math.isnan(value)
    }
    for name, each in expected.items():
        value = shown.get(name, math.nan)
        if isinstance(each, Between):
            right = each.least <= value <= each.most
        else:
            right = value == pytest.approx(each, rel=part, abs=1e-12)
        if not right:
            found[name] = (value, each)
    return found


def shows(value: float | Between) -> bool:
    """Whether it takes something to have happened for a value to be so."""
    return (value.most if isinstance(value, Between) else value) > 0


def test_counters_are_those_of_the_callers(story: Story) -> None:
    """Prometheus has counted exactly what the callers did: every code, every text, every token, calm and storm."""
    for window in (story.calm, story.storm):
        codes = window.rises("headwaiter_requests_total", "code")
        assert {code: n for code, n in codes.items() if n} == dict(window.codes())
    answered = [call for call in story.whole.calls if call.code == "OK"]
    texts = story.whole.rises("headwaiter_texts_total", "model")
    assert texts == {model: sum(call.texts for call in answered if call.model == model) for model in texts}
    tokens = story.calm.rise("headwaiter_tokens_total", model="pronounce", direction="generated")
    assert tokens == sum(call.generated_tokens for call in answered)
    assert story.whole.rise("headwaiter_requests_started_total") == len(story.whole.calls)


def test_slow_calls_are_those_of_the_callers(story: Story) -> None:
    """As many calls exceed the SLO's bucket as took their callers that long, give or take the way to the server."""
    calls = story.calm.rise("headwaiter_request_duration_seconds_count")
    slow = calls - story.calm.rise("headwaiter_request_duration_seconds_bucket", le=str(SLO_SECONDS))
    least, most = story.calm.slow(SLO_SECONDS)
    assert least <= slow <= most


def test_storm_was_one(story: Story) -> None:
    """The worker was hardly ever idle, and next to all its work was wasted on callers that left."""
    busy = story.storm.rise("headwaiter_worker_busy_seconds_total")
    # Between two steps it waits for the event loop, which has to wait itself where the machine has other work.
    assert 0.7 * story.held_seconds <= busy <= story.storm.seconds
    cpu = story.storm.rise("headwaiter_cpu_seconds_total")
    wasted = story.storm.rises("headwaiter_wasted_cpu_seconds_total", "reason")
    assert all(wasted.values())
    # Beside what runs took, callers are charged with what it took to read their texts.
    read = story.storm.rise("headwaiter_tokenize_duration_seconds_sum")
    assert 0.9 * cpu <= sum(wasted.values()) <= 1.1 * cpu + read
    assert story.storm.codes() == {
        "UNAVAILABLE": 30,
        "DEADLINE_EXCEEDED": MOST_CALLS // 2,
        "CANCELLED": MOST_CALLS - MOST_CALLS // 2,
    }


def test_every_panel_has_its_check(panels: dict[tuple[str, str], list[dict[str, str]]]) -> None:
    """No panel is left out below, and none is checked that is not there."""
    assert not set(PANELS) & set(MODEL_PANELS)
    assert set(PANELS) | set(MODEL_PANELS) == set(panels)


@pytest.mark.parametrize(("dashboard", "title"), PANELS, ids=lambda part: part.replace(" ", "-"))
def test_panel(story: Story, panels: dict[tuple[str, str], list[dict[str, str]]], dashboard: str, title: str) -> None:
    """What the panel shows moved by what the story caused."""
    check = PANELS[dashboard, title]
    window: Window = getattr(story, check.window) if isinstance(check, Rates) else story.whole
    expected = dict(check.expected(window) if isinstance(check, Rates) else check.expected(story))
    shown: dict[str, float] = {}
    for target in panels[dashboard, title]:
        expr = filled_in(target["expr"], window)
        if isinstance(check, Peaks):
            over = story.prometheus.over(expr, story.calm.start, story.end)
            values = {labels: max(each) for labels, each in over.items() if each}
        else:
            values = story.prometheus.instant(expr, story.end if isinstance(check, Finally) else window.end)
        shown |= {legend(target["legendFormat"], labels): value for labels, value in values.items()}
    # A panel whose condition was never caused would prove nothing.
    assert any(shows(each) for each in expected.values())
    assert wrong(shown, expected, window.edge_share) == {}


@pytest.mark.parametrize(("dashboard", "title"), MODEL_PANELS, ids=lambda part: part.replace(" ", "-"))
def test_panel_of_models_that_come_and_go(
    reloading: Reloading, panels: dict[tuple[str, str], list[dict[str, str]]], dashboard: str, title: str
) -> None:
    """What the panel shows is what the caller had loaded, and what it asked for again."""
    window = reloading.window
    (target,) = panels[dashboard, title]
    values = window.prometheus.instant(filled_in(target["expr"], window), window.end)
    shown = {legend(target["legendFormat"], labels): value for labels, value in values.items()}
    assert wrong(shown, dict(MODEL_PANELS[dashboard, title](reloading)), window.edge_share) == {}


def test_loads_and_remembered_answers_are_those_of_the_caller(reloading: Reloading) -> None:
    """Exactly: each load by what came of it, each swap, each text by whether it had come before; the alert follows."""
    window = reloading.window
    loads = window.rises("headwaiter_model_loads_total", "outcome")
    assert loads == {"loaded": SWAPS, "failed": FAILED_LOADS}
    assert window.rise("headwaiter_model_swap_duration_seconds_count") == SWAPS
    assert window.rises("headwaiter_cache_requests_total", "result") == {"hit": HITS, "miss": MISSES}
    assert window.rise("headwaiter_model_unloads_total") == SWAPS
    assert window.gauges("headwaiter_models_loaded", "instance") == {reloading.instance: 1}
    while not reloading.prometheus.instant('ALERTS{alertname="HeadwaiterModelLoadFailing",model="embed"}'):
        time.sleep(0.1)


def test_every_recording_rule(story: Story, rules: list[dict[str, Any]]) -> None:
    """Each rule's series are what the raw counters say, over all that Prometheus has seen.

    Quantiles are asked for over the story alone. Of younger series Prometheus reckons what they did before their first
    sample, of each bucket by itself, which moves a quantile of few calls from one bucket to the next.
    """
    found = {}
    for rule in rules:
        name, labels = rule["record"], rule.get("labels", {})
        if "quantile" in labels:
            window, part = story.whole, story.whole.edge_share
            expr, at = rule["expr"].replace("[5m]", f"[{window.seconds * 1000:.0f}ms]"), window.end
        else:
            window, part = story.ever, 2 * story.ever.edge_share
            expr, at = name, story.end
        shown = {_name({**dict(told), **labels}): value for told, value in story.prometheus.instant(expr, at).items()}
        expected = {_name({**told, **labels}): value for told, value in expected_series(name, labels, window)}
        assert any(shows(value) for value in expected.values()), name
        found[name, *labels.values()] = wrong(shown, dict(expected), part)
    assert {name: each for name, each in found.items() if each} == {}


def test_every_rule_is_recorded(story: Story, rules: list[dict[str, Any]]) -> None:
    """Prometheus has recorded every rule, and none of them has failed."""
    names = {(rule["record"], rule.get("labels", {}).get("quantile")) for rule in rules}
    recorded = story.prometheus.instant('{__name__=~".+:.+"}', story.end)
    assert {(told["__name__"], told.get("quantile")) for told in map(dict, recorded)} == names
    groups = story.prometheus.ask("rules")["groups"]
    assert {rule["health"] for group in groups for rule in group["rules"]} == {"ok"}


def _name(labels: dict[str, str]) -> str:
    return ",".join(f"{name}={value}" for name, value in sorted(labels.items()) if value and name != "__name__")


def test_alerts(story: Story) -> None:
    """What was caused is pending or firing, and nothing else is."""
    seen = {dict(labels)["alertname"] for labels in story.prometheus.over("ALERTS", story.calm.start, story.end)}
    assert seen >= PENDING
    assert seen <= PENDING | ANY
    assert not seen & SILENT


def test_choices_of_the_variables(story: Story) -> None:
    """What the dashboards let one choose is there: the job, the server, every model, and calls to none of them."""
    models = story.prometheus.instant(
        'group by (model) ({__name__=~"headwaiter_model_info|headwaiter_requests_total",job=~"headwaiter"})'
    )
    assert {dict(labels)["model"] for labels in models} == {"embed", "fragile", "pronounce", "tag", "_other"}
    servers = story.prometheus.instant("group by (job, instance) (headwaiter_build_info)")
    assert [dict(labels) for labels in servers] == [{"job": "headwaiter", "instance": story.server.metrics}]


def test_what_is_wrong_is_noticed() -> None:
    """The comparison above finds a value that is off, one that is missing, one too many; and lets nothing else pass."""
    assert wrong({"a": 1.0, "b": 0.0}, {"a": 1.01}, 0.02) == {}
    assert wrong({"a": 1.0}, {"a": 1.05}, 0.02) == {"a": (1.0, 1.05)}
    assert set(wrong({}, {"a": 0.0}, 0.02)) == {"a"}
    assert wrong({"a": 1.0, "b": 2.0}, {"a": 1.0}, 0.02) == {"b": 2.0}
    assert set(wrong({"a": 1.0}, {"a": Between(2, 3)}, 0.02)) == {"a"}
    assert legend("{{model}} p50", (("job", "j"), ("model", "m"))) == "m p50"
