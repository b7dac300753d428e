"""Prometheus's rules: sound by Prometheus's own tool, true to the server's metrics, complete, and explained."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from .promtext import wrong_names

ROOT = Path(__file__).resolve().parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"
RULES = sorted((PROMETHEUS / "rules").glob("*.yml"))
TESTS = sorted((PROMETHEUS / "tests").glob("*.yml"))
RUNBOOKS = ROOT / "docs" / "runbooks.md"
SEVERITIES = {"critical", "warning", "info"}
# What each section of the runbooks must tell.
PARTS = ("**Meaning.**", "**Impact.**", "**First look.**", "**Mend.**")

_WINDOW = re.compile(r"(?<=rate)(5m|30m|1h|6h|3d)\b")

pytestmark = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool comes with Debian's prometheus")


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Prometheus's own tool."""
    return subprocess.run(["promtool", *map(str, arguments)], check=False, capture_output=True, text=True, timeout=60)


def alerts(rules: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The alerting rules."""
    return [rule for rule in rules if "alert" in rule]


def test_rules_are_sound() -> None:
    """`promtool check rules` has nothing to say, nor has its linter."""
    done = promtool("check", "rules", "--lint=all", "--lint-fatal", *RULES)
    assert done.returncode == 0, done.stdout + done.stderr


def test_configuration_is_sound() -> None:
    """`promtool check config` has nothing to say, and the configuration loads every file of rules."""
    done = promtool("check", "config", PROMETHEUS / "prometheus.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(RULES)} rule files found" in done.stdout


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_rules_do_what_they_should(path: Path) -> None:
    """`promtool test rules`: each alert fires when it should and is silent just below; each recording rule's value."""
    done = promtool("test", "rules", path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_rule_has_such_a_test(rules: list[dict[str, Any]], recorded: dict[str, set[str]]) -> None:
    """Each recording rule has a test with a value; each alert one in which it fires and one in which it is silent."""
    tests = [test for path in TESTS for test in yaml.safe_load(path.read_text())["tests"]]
    tested = {case["expr"] for test in tests for case in test.get("promql_expr_test", []) if case["exp_samples"]}
    assert {name for name in recorded if not any(name in expr for expr in tested)} == set()
    cases = [case for test in tests for case in test.get("alert_rule_test", [])]
    firing = {(case["alertname"], alert["exp_labels"].get("windows")) for case in cases for alert in case["exp_alerts"]}
    silent = {case["alertname"] for case in cases if not case["exp_alerts"]}
    assert firing == {(rule["alert"], rule["labels"].get("windows")) for rule in alerts(rules)}
    assert silent == {rule["alert"] for rule in alerts(rules)}


def test_rules_name_what_exists(rules: list[dict[str, Any]], recorded: dict[str, set[str]]) -> None:
    """Every metric, label and value of a rule is one of the server's definitions, or of another rule."""
    wrong = {rule.get("record", rule.get("alert")): wrong_names(rule["expr"], recorded) for rule in rules}
    assert {name: each for name, each in wrong.items() if each} == {}


def test_names_that_do_not_exist_are_noticed(recorded: dict[str, set[str]]) -> None:
    """The check above finds a metric, a label, a value and a grouping that nothing has."""
    assert wrong_names("rate(headwaiter_nothing_total[5m])", recorded) == ["headwaiter_nothing_total"]
    assert wrong_names('headwaiter_workers{model="m"}', recorded) == ["headwaiter_workers{model}"]
    assert wrong_names('headwaiter_batches_total{reason=~"budget|bored"}', recorded) == [
        'headwaiter_batches_total{reason="bored"}'
    ]
    assert wrong_names("sum by (job, code) (headwaiter_workers)", recorded) == ["code"]
    assert wrong_names("job:headwaiter_nothing:rate5m > 1", recorded) == ["job:headwaiter_nothing:rate5m"]


def test_windows_differ_in_nothing_else(rules: list[dict[str, Any]]) -> None:
    """Rules over several windows are the same rule, written out for each of the five."""
    families: dict[str, dict[str, str]] = {}
    for rule in rules:
        match = _WINDOW.search(rule.get("record", ""))
        if match is not None:
            window = match[0]
            expr = re.sub(rf"\b{window}\b|(?<=rate){window}\b", "W", rule["expr"])
            families.setdefault(_WINDOW.sub("W", rule["record"]), {})[window] = expr
    over_windows = {name: each for name, each in families.items() if len(each) > 1}
    assert len(over_windows) == 4
    for name, exprs in over_windows.items():
        assert set(exprs) == {"5m", "30m", "1h", "6h", "3d"}, name
        assert len(set(exprs.values())) == 1, name


def test_long_windows_are_read_seldom() -> None:
    """What reads six hours or three days of samples stands apart from what is evaluated every few seconds."""
    groups = [group for path in RULES for group in yaml.safe_load(path.read_text())["groups"]]
    seldom = {rule["record"] for group in groups if group.get("interval") == "2m" for rule in group["rules"]}
    recorded = [rule["record"] for group in groups for rule in group["rules"] if "record" in rule]
    assert seldom == {name for name in recorded if name.endswith(("6h", "3d"))}
    assert len(seldom) == 8


def test_alerts_say_what_a_person_needs(rules: list[dict[str, Any]]) -> None:
    """Each alert has a severity, a summary, a description and the link to its own runbook."""
    for rule in alerts(rules):
        name, annotations = rule["alert"], rule["annotations"]
        assert rule["labels"]["severity"] in SEVERITIES, name
        assert set(annotations) == {"summary", "description", "runbook_url"}, name
        assert annotations["runbook_url"] == f"docs/runbooks.md#{name.lower()}"
        assert annotations["description"].endswith("."), name


def test_every_alert_has_its_runbook_and_no_runbook_is_left_over(rules: list[dict[str, Any]]) -> None:
    """docs/runbooks.md has one section for each alert: what it means, whom it hurts, where to look, what to do."""
    sections = re.split(r"^## ", RUNBOOKS.read_text(), flags=re.MULTILINE)[1:]
    titles = [section.partition("\n")[0] for section in sections]
    assert len(titles) == len(set(titles))
    assert set(titles) == {rule["alert"] for rule in alerts(rules)}
    incomplete = [
        title for title, section in zip(titles, sections, strict=True) if not all(p in section for p in PARTS)
    ]
    assert incomplete == []
