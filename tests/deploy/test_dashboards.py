"""Grafana's dashboards: as the code makes them, true to the server's metrics, and explained panel by panel."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from deploy.grafana import build
from deploy.grafana.render import to_json
from deploy.grafana.spec import Dashboard, Kind, Panel, Query, Row

from .promtext import wrong_names

ROOT = Path(__file__).resolve().parents[2]
PROVISIONING = ROOT / "deploy" / "grafana" / "provisioning"
RUNBOOKS = ROOT / "docs" / "runbooks.md"
NAMES = {"overview", "batching", "generation", "capacity"}
UNITS = {"s", "bytes", "percentunit", "reqps"}
VARIABLES = {"$job": "j", "$instance": "i", "$model": "m", "$__rate_interval": "5m"}


def panels(dashboard: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The panels that show something."""
    yield from (panel for panel in dashboard["panels"] if panel["type"] != "row")


def every_panel(dashboards: dict[str, dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The panels of all dashboards."""
    for dashboard in dashboards.values():
        yield from panels(dashboard)


def test_committed_json_is_fresh() -> None:
    """The committed files are what the code makes."""
    assert build.stale_dashboards() == []


def test_stale_missing_and_surplus_files_are_noticed(tmp_path: Path) -> None:
    """A file that was edited, one that is missing and one that belongs to no dashboard are named."""
    build.write_dashboards(tmp_path)
    assert build.stale_dashboards(tmp_path) == []
    (tmp_path / "overview.json").write_text("{}")
    (tmp_path / "batching.json").unlink()
    (tmp_path / "other.json").write_text("{}")
    assert build.stale_dashboards(tmp_path) == ["batching.json", "other.json", "overview.json"]


def test_dashboards_are_told_apart(dashboards: dict[str, dict[str, Any]]) -> None:
    """There are the four of them, each with a title and an id of its own, of a schema that Grafana 11 and 12 read."""
    assert set(dashboards) == NAMES
    assert {each["uid"] for each in dashboards.values()} == {f"headwaiter-{name}" for name in NAMES}
    assert len({each["title"] for each in dashboards.values()}) == len(NAMES)
    assert {each["schemaVersion"] for each in dashboards.values()} == {41}


def test_dashboards_share_their_variables(dashboards: dict[str, dict[str, Any]]) -> None:
    """Data source, job, instance and model can be chosen everywhere, several at a time, and are all chosen at first."""
    for dashboard in dashboards.values():
        source, *others = dashboard["templating"]["list"]
        assert (source["name"], source["type"], source["query"]) == ("datasource", "datasource", "prometheus")
        assert [each["name"] for each in others] == ["job", "instance", "model"]
        for variable in others:
            assert variable["multi"]
            assert variable["includeAll"]
            assert variable["allValue"] == ".*"
            assert variable["current"]["value"] == ["$__all"]


def test_every_panel_explains_itself(dashboards: dict[str, dict[str, Any]]) -> None:
    """Each panel has a title of its own, a unit, what it means, what to do when it is bad, and when it is empty."""
    for dashboard in dashboards.values():
        titles = [panel["title"] for panel in panels(dashboard)]
        assert len(titles) == len(set(titles))
    for panel in every_panel(dashboards):
        meaning, _, remedy = panel["description"].partition("\n\n**When it is bad:** ")
        assert meaning.endswith("."), panel["title"]
        assert remedy.endswith("."), panel["title"]
        defaults = panel["fieldConfig"]["defaults"]
        assert defaults["unit"] in UNITS or re.fullmatch(r"suffix: \S+", defaults["unit"]), panel["title"]
        assert defaults["noValue"].startswith("No data. "), panel["title"]


def test_runbooks_that_panels_name_exist(dashboards: dict[str, dict[str, Any]]) -> None:
    """A panel's description names only runbooks that there are."""
    titles = set(re.findall(r"^## (\w+)$", RUNBOOKS.read_text(), flags=re.MULTILINE))
    named = {
        name for panel in every_panel(dashboards) for name in re.findall(r"Headwaiter[A-Z]\w+", panel["description"])
    }
    assert named
    assert named <= titles


def test_every_query_is_complete(dashboards: dict[str, dict[str, Any]]) -> None:
    """Each query has an id, a legend and the chosen data source, and keeps to the chosen job."""
    for panel in every_panel(dashboards):
        ids = [target["refId"] for target in panel["targets"]]
        assert ids == sorted(set(ids))
        assert ids
        for target in panel["targets"]:
            assert target["legendFormat"], panel["title"]
            assert target["datasource"] == panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            assert 'job=~"$job"' in target["expr"], panel["title"]
            assert target.get("instant", False) is not target.get("range", False)


def test_queries_name_what_exists(dashboards: dict[str, dict[str, Any]], recorded: dict[str, set[str]]) -> None:
    """Every metric, label and value of a query is one of the server's definitions, or of a recording rule."""
    queries = {target["expr"] for panel in every_panel(dashboards) for target in panel["targets"]}
    wrong = {expr: wrong_names(expr, recorded) for expr in queries}
    assert {expr: each for expr, each in wrong.items() if each} == {}


def test_legends_name_labels_that_are_left(dashboards: dict[str, dict[str, Any]]) -> None:
    """A legend names only labels that the query keeps: those it adds up by, where it adds up."""
    for panel in every_panel(dashboards):
        for target in panel["targets"]:
            wanted = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            outer = re.match(
                r"(?:1000 \* )?(?:\w+\(\d[\d.]*, )?(?:sum|max|count)(?: by \(([^)]*)\))? \(", target["expr"]
            )
            if outer is not None:
                kept = {label.strip() for label in (outer[1] or "").split(",")}
                assert wanted <= kept, (panel["title"], target["legendFormat"])


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool comes with Debian's prometheus")
def test_queries_are_promql(dashboards: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    """Prometheus's own parser takes every query."""
    queries = {target["expr"] for panel in every_panel(dashboards) for target in panel["targets"]}
    for variable, value in VARIABLES.items():
        queries = {expr.replace(variable, value) for expr in queries}
    rules = [{"record": f"query:{number}", "expr": expr} for number, expr in enumerate(sorted(queries))]
    path = tmp_path / "queries.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    done = subprocess.run(["promtool", "check", "rules", str(path)], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_panels_fill_their_rows(dashboards: dict[str, dict[str, Any]]) -> None:
    """No two panels overlap, and every line of panels is as wide as the page."""
    for dashboard in dashboards.values():
        lines: dict[int, list[tuple[int, int]]] = {}
        for panel in dashboard["panels"]:
            place = panel["gridPos"]
            lines.setdefault(place["y"], []).append((place["x"], place["w"]))
        for line in lines.values():
            ends = [0]
            for start, width in sorted(line):
                assert start == ends[-1]
                ends.append(start + width)
            assert ends[-1] == 24
        ids = [panel["id"] for panel in dashboard["panels"]]
        assert len(ids) == len(set(ids))


def test_bounds_are_drawn_apart() -> None:
    """A query that is a bound is dashed, red and never stacked upon the others."""
    panel = Panel("t", "s", "Means.", "Do.", (Query("a", "a"), Query("b", "b", is_bound=True)), Kind.STACK)
    text = to_json(Dashboard("d", "D", "Why.", (Row("r", (panel,)),)))
    assert '"fixedColor": "red"' in text
    assert '"options": "B"' in text


def test_provisioning_agrees_with_itself(dashboards: dict[str, dict[str, Any]]) -> None:
    """Grafana finds a Prometheus and the folder of the dashboards, and lets nobody change them by accident."""
    (source,) = yaml.safe_load((PROVISIONING / "datasources" / "prometheus.yml").read_text())["datasources"]
    assert (source["type"], source["isDefault"]) == ("prometheus", True)
    config = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())
    assert source["jsonData"]["timeInterval"] == config["global"]["scrape_interval"]
    (provider,) = yaml.safe_load((PROVISIONING / "dashboards" / "headwaiter.yml").read_text())["providers"]
    assert provider["type"] == "file"
    assert provider["allowUiUpdates"] is False
    assert provider["options"]["path"].startswith("/")
