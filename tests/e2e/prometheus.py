"""Debian's Prometheus with the deployed configuration and rules, faster, scraping a server of a test's."""

from __future__ import annotations

import json
import math
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import psutil
import yaml  # type: ignore[import-untyped]

DEPLOYED = Path(__file__).resolve().parents[2] / "deploy" / "prometheus"
INTERVAL_SECONDS = 1
# The server renders its metrics at most this often.
_RENDERING_SECONDS = 0.25

Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Prometheus:
    """A Prometheus that scrapes one server every second."""

    address: str

    def instant(self, expr: str, at: float | None = None) -> dict[Labels, float]:
        """A query's value, now or at a Unix time, by labels."""
        when = {} if at is None else {"time": f"{at:.3f}"}
        result = self.ask("query", query=expr, **when)["result"]
        return {_labels(each): float(each["value"][1]) for each in result}

    def over(self, expr: str, start: float, end: float) -> dict[Labels, list[float]]:
        """A query's values by labels, so often that no sample is passed over; those that are no number are left out."""
        # Scrapes that were late are less than an interval before the next.
        times = {"start": f"{start:.3f}", "end": f"{end:.3f}", "step": str(INTERVAL_SECONDS / 4)}
        result = self.ask("query_range", query=expr, **times)["result"]
        return {
            _labels(each): [value for _, text in each["values"] if not math.isnan(value := float(text))]
            for each in result
        }

    def samples(self, selector: str) -> dict[Labels, list[float]]:
        """Every sample so far of the series that a selector selects."""
        result = self.ask("query", query=f"{selector}[1h]")["result"]
        return {_labels(each): [float(text) for _, text in each["values"]] for each in result}

    def settled(self) -> float:
        """Wait for a scrape of all that has happened before; returns when it was, in Unix time."""
        asked = time.time()
        while True:
            for scraped in self.instant('timestamp(up{job="headwaiter"}) and up{job="headwaiter"} == 1').values():
                if scraped > asked + _RENDERING_SECONDS:
                    return scraped
            time.sleep(0.05)

    def ask(self, path: str, **query: str) -> Any:  # noqa: ANN401 - JSON
        """One answer of Prometheus's API."""
        # A query as a form: some are longer than an address may be.
        request = Request(f"http://{self.address}/api/v1/{path}", urlencode(query).encode() or None)
        with urlopen(request, timeout=30) as response:  # noqa: S310 - as above
            return json.load(response)["data"]


@contextmanager
def running_prometheus(folder: Path, target: str, access: Mapping[str, Any] | None = None) -> Iterator[Prometheus]:
    """Prometheus with the deployed rules; what it scrapes, how often, and how it gets in is the test's."""
    config = yaml.safe_load((DEPLOYED / "prometheus.yml").read_text())
    interval = f"{INTERVAL_SECONDS}s"
    config["global"] = dict.fromkeys(("scrape_interval", "scrape_timeout", "evaluation_interval"), interval)
    (job,) = config["scrape_configs"]
    job |= {"static_configs": [{"targets": [target]}], **(access or {})}
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    (folder / "rules").mkdir()
    for path in (DEPLOYED / "rules").glob("*.yml"):
        rules = yaml.safe_load(path.read_text())
        for group in rules["groups"]:
            group.pop("interval", None)  # in a test that takes a minute, all are
        (folder / "rules" / path.name).write_text(yaml.safe_dump(rules))
    command = [
        "prometheus",
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        "--web.listen-address=127.0.0.1:0",
    ]
    with (folder / "log").open("w") as log, subprocess.Popen(command, stderr=log, cwd=folder) as process:
        try:
            prometheus = Prometheus(_address(process))
            _await_ready(prometheus.address)
            prometheus.settled()
            yield prometheus
        finally:
            process.kill()


def _address(process: subprocess.Popen[bytes]) -> str:
    while process.poll() is None:
        for socket in psutil.Process(process.pid).net_connections(kind="tcp"):
            if socket.status == psutil.CONN_LISTEN:
                return f"127.0.0.1:{socket.laddr.port}"
        time.sleep(0.05)
    raise AssertionError("Prometheus has ended before it listened")


def _await_ready(address: str) -> None:
    while True:
        with suppress(HTTPError), urlopen(f"http://{address}/-/ready", timeout=30):
            return
        time.sleep(0.05)


def _labels(series: dict[str, Any]) -> Labels:
    return tuple(sorted(series["metric"].items()))
