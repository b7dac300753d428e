"""Grafana as the compose file sets it up. It is not run here: what it would be given is held against what there is."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from .composed import Service, checked, services

VARIABLE = re.compile(r"\$(?:\{([^}]*)\}|(\w+))")


@pytest.fixture(scope="module")
def composed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Service]:
    """The services."""
    return services(tmp_path_factory.mktemp("compose"))


@pytest.fixture
def grafana(composed: dict[str, Service]) -> Service:
    """Grafana's service."""
    return composed["grafana"]


def provisioned(grafana: Service, kind: str) -> list[dict[str, Any]]:
    """What the provisioning files of a kind say."""
    folder = grafana.outside("/etc/grafana/provisioning") / kind
    return [yaml.safe_load(path.read_text()) for path in sorted(folder.glob("*.yml"))]


def test_grafana_finds_the_dashboards(grafana: Service) -> None:
    """Every path that is provisioned holds dashboards in what is mounted; the home page is one of them."""
    (file,) = provisioned(grafana, "dashboards")
    dashboards = [
        json.loads(path.read_text())
        for provider in file["providers"]
        for path in sorted(grafana.outside(provider["options"]["path"]).glob("*.json"))
    ]
    uids = [dashboard["uid"] for dashboard in dashboards]
    assert len(set(uids)) == len(uids) == 4
    assert grafana.outside(grafana.environment["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]).is_file()


def test_grafana_asks_the_prometheus_that_there_is(grafana: Service, composed: dict[str, Service]) -> None:
    """The one data source is the compose file's Prometheus, and no dashboard names another."""
    (file,) = provisioned(grafana, "datasources")
    (source,) = file["datasources"]
    port = composed["prometheus"].fields["ports"][0].rpartition(":")[2]
    assert filled_in(source["url"], grafana.environment) == f"http://prometheus:{port}"
    texts = [path.read_text() for path in grafana.outside("/var/lib/grafana/dashboards").glob("*.json")]
    named = {found["uid"] for text in texts for found in datasources(json.loads(text)) if found["type"] == "prometheus"}
    # Chosen on the page, where there is but one to choose.
    assert named <= {source["uid"], "${datasource}"}


def datasources(value: Any) -> Iterator[dict[str, str]]:  # noqa: ANN401 - JSON
    """Every data source that a dashboard names."""
    if isinstance(value, dict):
        if isinstance(value.get("datasource"), dict):
            yield value["datasource"]
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from datasources(each)


def filled_in(text: str, environment: dict[str, str]) -> str:
    """Variables as Grafana fills them in: $NAME and ${NAME}, and no other form."""

    def value(found: re.Match[str]) -> str:
        name = found[1] or found[2]
        assert re.fullmatch(r"\w+", name), f"Grafana knows no variable of the form {found[0]}"
        return environment[name]

    return VARIABLE.sub(value, text)


@pytest.mark.parametrize(("status", "is_well"), [(200, True), (503, False)])
def test_health_check_of_grafana_reads_the_status(grafana: Service, status: int, *, is_well: bool) -> None:
    """The command tells Grafana's two answers to /api/health apart, given by a stand-in."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/api/health" else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as stand_in:
        Thread(target=stand_in.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{stand_in.server_port}/api/health"
        assert checked(grafana, {"http://127.0.0.1:3000/api/health": url}) is is_well
        stand_in.shutdown()


@pytest.mark.parametrize("text", ["${URL:-http://prometheus:9090}", "$NOBODY", "${NOBODY}"])
def test_variables_that_grafana_would_not_fill_in_are_noticed(text: str) -> None:
    """Defaults, which Grafana does not know, and names that the service does not set."""
    with pytest.raises((AssertionError, KeyError)):
        filled_in(text, {"URL": "http://prometheus:9090"})
