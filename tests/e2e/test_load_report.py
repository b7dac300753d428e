"""The load tester's report of a real run: against its own figures, the server's, and in a real browser."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from headwaiter_load import results, units
from headwaiter_load.results import RunResult
from headwaiter_load.server_side import server_side
from unit.load.page_reader import Page

from .chromium import Browser, running_browser
from .process import ServerProcess, environment

# The server's figures are held to the tester's.
pytestmark = pytest.mark.alone

_COMMAND = [sys.executable, "-m", "headwaiter_load"]
# Of all calls, as the server's metrics name them.
_SERVER_TIME = 'headwaiter_request_duration_seconds_{}{{method="headwaiter.v1.InferenceService/Embed",model="embed"}}'
# A legend of a plot: the names of its entries and the values that stand beside them.
_LEGEND = """
[...document.querySelectorAll("#plot-percentiles .u-series")].map((entry) =>
  [entry.querySelector(".u-label").textContent, entry.querySelector(".u-value").textContent])
"""
# As a mouse that rests in the middle of a plot.
_POINT = """
(() => {
  const over = document.querySelector("#plot-percentiles .u-over");
  const box = over.getBoundingClientRect();
  const at = { clientX: box.x + box.width / 2, clientY: box.y + box.height / 2, bubbles: true };
  over.dispatchEvent(new MouseEvent("mouseenter", at));
  over.dispatchEvent(new MouseEvent("mousemove", at));
})()
"""
# Tables that are cut off at the side, by their titles.
_CUT_OFF = """
[...document.querySelectorAll(".card:has(.scroll)")]
  .filter((card) => card.querySelector(".scroll").scrollWidth > card.querySelector(".scroll").clientWidth)
  .map((card) => card.querySelector("h3").textContent)
"""
# Of each plot, how many points of its drawing are not empty.
_DRAWN = """
[...document.querySelectorAll("figure canvas")].map((canvas) => {
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  let drawn = 0;
  for (let at = 3; at < data.length; at += 4) drawn += data[at] > 0;
  return drawn;
})
"""


@dataclass
class Report:
    """What a run has written, and what the server has counted meanwhile by its own account."""

    result: RunResult
    saved: Path
    page: Path
    printed: str
    server_calls: float
    server_seconds: float


@pytest.fixture(scope="module")
def report(encoder_server: ServerProcess, tmp_path_factory: pytest.TempPathFactory) -> Report:
    folder = tmp_path_factory.mktemp("report")
    saved, page = folder / "run.json", folder / "run.html"
    before = encoder_server.scrape()
    done = subprocess.run(
        [
            *_COMMAND, "run", "--target", encoder_server.grpc, "--model", "embed",
            "--metrics-url", f"http://{encoder_server.metrics}/metrics",
            "--rate", "50", "--texts-per-call", "2", "--words", "uniform:1-3",
            "--seconds", "10", "--warmup-seconds", "0", "--output", str(saved), "--html", str(page),
        ],
        env={**environment(), "COLUMNS": "160"}, capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    after = encoder_server.scrape()
    result = results.load(saved)
    assert isinstance(result, RunResult)
    calls, seconds = (
        after[name] - before.get(name, 0.0) for name in (_SERVER_TIME.format(part) for part in ("count", "sum"))
    )
    return Report(result, saved, page, done.stdout, calls, seconds)


def test_the_page_and_the_terminal_hold_the_figures_of_the_file(report: Report) -> None:
    latency = report.result.latency
    assert report.result.answered == report.result.scheduled
    # The tester tries each of its connections before it begins.
    assert 0 <= report.server_calls - report.result.scheduled <= 2
    page = Page(report.page.read_text(encoding="utf-8"))
    shown = [*(latency.percentiles[each] for each in ("50", "90", "99", "99.9")), latency.max_seconds]
    assert page.values["Latency"][:5] == shown
    assert page.values["Calls"][2:4] == [report.result.answered, report.result.answered_per_second]
    assert sum(page.plots["calls-over-time"]["series"][1]["values"]) == pytest.approx(report.result.answered, abs=25)
    assert all(units.seconds(each) in report.printed for each in shown)


def test_the_servers_parts_add_up_to_its_latency(report: Report) -> None:
    assert report.result.server is not None
    found = server_side(report.result.server)
    assert found.problem == ""
    assert found.totals is not None
    stretch = found.totals.stretch
    assert stretch.parts is not None
    # Its first and last pages may be a quarter of a second old.
    assert 0.85 * report.server_calls <= stretch.calls <= report.server_calls
    # The parts are counted apart from the whole: were one of them of anything else, they would exceed it.
    assert stretch.parts.rest > 0
    assert min(stretch.parts.tokenize, stretch.parts.queue + stretch.parts.batch_wait, stretch.parts.inference) > 0
    assert stretch.parts.total == pytest.approx(stretch.mean_seconds, rel=1e-6)
    assert stretch.parts.total * stretch.calls <= report.server_seconds * (1 + 1e-6)
    # No call takes the server longer than it takes its caller.
    assert report.server_seconds / report.server_calls <= report.result.service_time.mean_seconds
    assert sum(found.totals.reasons.values()) == stretch.runs > 0
    assert 0 < (stretch.saturation or 0) <= 1
    assert len(found.stretches) >= 5


def test_a_run_against_itself_has_not_changed(report: Report, tmp_path: Path) -> None:
    page = tmp_path / "compare.html"
    arguments = [str(report.saved), str(report.saved), "--html", str(page), "--fail-if", "p99>1.01", "--json"]
    done = subprocess.run([*_COMMAND, "compare", *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    changes = json.loads(done.stdout)["changes"]
    assert {change["verdict"] for change in changes.values()} <= {"no difference shown", "cannot be told"}
    assert changes["p50"]["change"]["estimate"] == 1
    assert Page(page.read_text(encoding="utf-8")).fetched == []


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with running_browser(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_browser_shows_the_page_from_the_file_alone(report: Report, browser: Browser, *, dark: bool) -> None:
    page = browser.page(report.page.as_uri(), dark=dark)
    assert page.evaluate(_CUT_OFF) == []
    drawn = page.evaluate(_DRAWN)
    assert len(drawn) == len(Page(report.page.read_text(encoding="utf-8")).plots)
    assert min(drawn) > 1000
    page.evaluate(_POINT)
    page.wait("document.querySelector('#plot-percentiles .u-value').textContent.endsWith(' %')")
    legend = dict(page.evaluate(_LEGEND))
    assert legend["from when it was due"].endswith((" ms", " s", " µs"))
    background = "getComputedStyle(document.body).backgroundColor"
    before = page.evaluate(background)
    page.click("#theme")
    assert page.evaluate(background) != before
    page.click("figure button")
    assert page.text("figure button") == "linear scale"
    page.resize(700, 900)
    page.wait("document.querySelector('#plot-percentiles canvas').clientWidth < 700")
    assert page.complaints() == []
    assert page.requested() == [report.page.as_uri()]
    page.close()
