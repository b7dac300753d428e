"""The server's own metrics: read, reduced, and taken apart."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from headwaiter_load import breakdown
from headwaiter_load.breakdown import Breakdown
from headwaiter_load.decoding import DecodingError
from headwaiter_load.metrics_page import MetricsError, MetricsPage
from headwaiter_load.server_metrics import KEPT, ServerWatch, reduce_text
from headwaiter_load.server_side import server_side
from headwaiter_server.metrics.definitions import ALL, PROCESS

from .recorded_runs import SETTINGS

_PAGE = """\
# HELP headwaiter_requests_total Calls answered.
# TYPE headwaiter_requests_total counter
headwaiter_requests_total{method="S/Embed",model="minilm",version="1",code="OK"} 90.0
headwaiter_requests_total{method="S/Embed",model="minilm",version="2",code="OK"} 10.0
headwaiter_requests_total{method="S/Embed",model="_other",version="",code="NOT_FOUND"} 5.0
headwaiter_requests_total{method="S/Embed",model="second",version="1",code="OK"} 7.0
# TYPE headwaiter_request_duration_seconds histogram
headwaiter_request_duration_seconds_bucket{method="S/Embed",model="minilm",le="0.1"} 100.0
headwaiter_request_duration_seconds_sum{method="S/Embed",model="minilm"} 2.0
headwaiter_request_duration_seconds_count{method="S/Embed",model="minilm"} 100.0
headwaiter_request_duration_seconds_sum{method="S/GetModel",model="minilm"} 0.1
headwaiter_request_duration_seconds_count{method="S/GetModel",model="minilm"} 30.0
headwaiter_request_duration_seconds_sum{method="S/Embed",model="_other"} 50.0
headwaiter_request_duration_seconds_count{method="S/Embed",model="_other"} 5.0
headwaiter_request_duration_seconds_sum{method="S/Embed",model="second"} 1.0
headwaiter_request_duration_seconds_count{method="S/Embed",model="second"} 7.0
headwaiter_batch_tokens_bucket{model="minilm",le="64.0"} 3.0
headwaiter_batch_tokens_bucket{model="minilm",le="+Inf"} 4.0
headwaiter_workers 2.0
headwaiter_queue_depth{model="minilm"} NaN
process_cpu_seconds_total 12.5
"""


def test_only_what_is_shown_is_kept() -> None:
    values = reduce_text(_PAGE, "minilm")
    assert values["headwaiter_request_duration_seconds_sum"] == 2.0
    assert values["headwaiter_request_duration_seconds_count"] == 100.0
    assert values["headwaiter_batch_tokens_bucket:64.0"] == 3.0
    assert values["headwaiter_workers"] == 2.0
    assert values["process_cpu_seconds_total"] == 12.5
    assert "headwaiter_queue_depth" not in values


def test_without_a_model_all_that_are_known_count() -> None:
    assert reduce_text(_PAGE)["headwaiter_request_duration_seconds_sum"] == 3.0


def test_codes_are_of_calls_without_a_known_model_too() -> None:
    values = reduce_text(_PAGE, "minilm")
    assert values["headwaiter_requests_total:OK"] == 107.0
    assert values["headwaiter_requests_total:NOT_FOUND"] == 5.0


def test_everything_that_is_kept_is_what_the_server_has() -> None:
    suffixes = {"histogram": ("_sum", "_count", "_bucket"), "counter": ("",), "gauge": ("",)}
    labels = {
        f"{metric.name}{suffix}": {*metric.labels, *(["le"] if suffix == "_bucket" else [])}
        for metric in (*ALL, *PROCESS)
        for suffix in suffixes.get(metric.kind, ("",))
    }
    assert {name: set(kept) <= labels.get(name, set()) for name, kept in KEPT.items()} == dict.fromkeys(KEPT, True)
    assert set(KEPT) <= set(labels)


@pytest.mark.parametrize("text", ["", "<html>", "nv_inference_count 5\n"])
def test_other_servers_pages_are_refused(text: str) -> None:
    with pytest.raises(MetricsError, match="none of Headwaiter's metrics"):
        reduce_text(text)


def test_text_that_is_broken_is_refused() -> None:
    with pytest.raises(MetricsError, match="format"):
        reduce_text("headwaiter_workers nonsense\n")


def test_without_the_parser_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client.parser", None)
    with pytest.raises(MetricsError, match="extra: load"):
        reduce_text(_PAGE)


class _Pages:
    """What a server answers, one page after the other; the last one again and again."""

    def __init__(self, *pages: str | None) -> None:
        self._pages = list(pages)
        self._lock = threading.Lock()

    def next(self) -> str | None:
        with self._lock:
            return self._pages.pop(0) if len(self._pages) > 1 else self._pages[0]


@contextmanager
def _serving(pages: _Pages) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            page = pages.next()
            self.send_response(200 if page is not None else 503)
            self.send_header("Headwaiter-Age-Seconds", "0.125")
            self.end_headers()
            self.wfile.write((page or "").encode())

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/metrics"
        finally:
            server.shutdown()
            thread.join()


def _page(calls: float, seconds: float, **others: float) -> str:
    lines = [
        f'headwaiter_request_duration_seconds_sum{{method="S/Embed",model="minilm"}} {seconds}',
        f'headwaiter_request_duration_seconds_count{{method="S/Embed",model="minilm"}} {calls}',
        *(f'headwaiter_{name}{{model="minilm"}} {value}' for name, value in others.items()),
    ]
    return "\n".join([*lines, ""])


def test_a_run_is_what_was_counted_between_its_readings() -> None:
    before = _page(100, 50.0, tokenize_duration_seconds_sum=1.0, queue_duration_seconds_sum=5.0)
    after = _page(
        200, 60.0,
        tokenize_duration_seconds_sum=1.5, queue_duration_seconds_sum=8.0, inference_duration_seconds_sum=5.0,
        batch_wait_duration_seconds_sum=0.5, batch_wait_duration_seconds_count=100,
        computed_tokens_total=400, padding_tokens_total=100, batch_tokens_sum=400, batch_tokens_count=8,
    )  # fmt: skip
    with _serving(_Pages(before, before, after)) as url:
        reading = Breakdown(MetricsPage(url), SETTINGS)
        reading.begin()
        found = server_side(reading.end())
    assert found.problem == ""
    assert found.totals is not None
    stretch = found.totals.stretch
    assert stretch.calls == 100
    assert stretch.mean_seconds == pytest.approx(0.1)
    assert stretch.parts is not None
    assert stretch.parts.tokenize == pytest.approx(0.005)
    assert stretch.parts.queue == pytest.approx(0.025)
    assert stretch.parts.batch_wait == pytest.approx(0.005)
    assert stretch.parts.inference == pytest.approx(0.05)
    assert stretch.parts.rest == pytest.approx(0.015)
    assert stretch.parts.total == pytest.approx(stretch.mean_seconds)
    assert stretch.padding_ratio == 0.25
    assert stretch.tokens_per_run == 50


def _stored(*values: dict[str, float]) -> dict[str, object]:
    readings = [{"at_seconds": float(2 * at), "values": each} for at, each in enumerate(values)]
    return {"metrics_url": "http://host/metrics", "model": "minilm", "problem": "", "readings": readings}


def test_figures_over_time_are_of_each_stretch() -> None:
    busy = "headwaiter_worker_busy_seconds_total"
    found = server_side(
        _stored(
            {busy: 0.0, "headwaiter_workers": 2.0, "headwaiter_texts_total": 0.0},
            {busy: 1.0, "headwaiter_workers": 2.0, "headwaiter_texts_total": 10.0},
            {busy: 4.0, "headwaiter_workers": 2.0, "headwaiter_texts_total": 50.0},
        )
    )
    assert [stretch.saturation for stretch in found.stretches] == [0.25, 0.75]
    assert [stretch.texts_per_second for stretch in found.stretches] == [5.0, 20.0]
    assert found.totals is not None
    assert found.totals.stretch.saturation == 0.5


def test_buckets_and_labels_are_counted_apart() -> None:
    found = server_side(
        _stored(
            {"headwaiter_batch_size_bucket:1.0": 1.0, "headwaiter_batch_size_bucket:+Inf": 1.0},
            {
                "headwaiter_batch_size_bucket:1.0": 3.0,
                "headwaiter_batch_size_bucket:+Inf": 7.0,
                "headwaiter_batches_total:budget": 2.0,
                "headwaiter_batches_total:empty": 4.0,
                "headwaiter_batches_total:delay": 0.0,
                "headwaiter_deadlines_total:true": 3.0,
                "headwaiter_deadlines_total:false": 1.0,
                "headwaiter_cpu_seconds_total": 10.0,
                "headwaiter_wasted_cpu_seconds_total:expired": 1.0,
                "headwaiter_wasted_cpu_seconds_total:cancelled": 1.5,
            },
        )
    ).totals
    assert found is not None
    assert found.batch_size == ((1.0, 2), (float("inf"), 4))
    assert list(found.reasons.items()) == [("empty", 4), ("budget", 2)]
    assert found.deadlines_met_ratio == 0.75
    assert found.wasted_cpu_ratio == 0.25


def test_a_server_that_was_started_again_counts_from_nothing() -> None:
    name = "headwaiter_texts_total"
    found = server_side(_stored({name: 100.0}, {name: 20.0}))
    assert found.stretches[0].texts_per_second == 10.0


def test_what_is_not_measured_is_none() -> None:
    found = server_side(_stored({}, {}))
    assert found.totals is not None
    stretch = found.totals.stretch
    assert (stretch.mean_seconds, stretch.parts, stretch.saturation, stretch.padding_ratio) == (None,) * 4


def test_a_server_without_metrics_is_told_before_the_run() -> None:
    with _serving(_Pages(None)) as url, pytest.raises(MetricsError, match="Service Unavailable"):
        Breakdown(MetricsPage(url), SETTINGS)
    with pytest.raises(MetricsError, match="no http address"):
        MetricsPage("file:///etc/passwd")


def test_readings_that_fail_are_a_remark_and_no_error() -> None:
    with _serving(_Pages(_page(1, 1.0), _page(1, 1.0), None)) as url:
        reading = Breakdown(MetricsPage(url), SETTINGS)
        reading.begin()
        found = server_side(reading.end())
    assert found.totals is None
    assert "Service Unavailable" in found.problem


def test_the_same_page_twice_is_one_reading() -> None:
    """Who asks again at once gets the page of before: between the two no time has passed."""
    with _serving(_Pages(_page(1, 1.0))) as url:
        watch = ServerWatch(MetricsPage(url), every_seconds=3600.0).start()
        watch.stop()
    assert len(watch.readings) == 1


def test_a_long_run_has_no_more_readings_than_a_page_can_show(monkeypatch: pytest.MonkeyPatch) -> None:
    intervals: list[float] = []

    def watch(page: MetricsPage, every_seconds: float, *others: Any) -> ServerWatch:  # noqa: ANN401 - those of `ServerWatch`
        intervals.append(every_seconds)
        return ServerWatch(page, every_seconds, *others)

    monkeypatch.setattr(breakdown, "ServerWatch", watch)
    with _serving(_Pages(_page(1, 1.0))) as url:
        for seconds in (20.0, 60_000.0):
            reading = Breakdown(MetricsPage(url), replace(SETTINGS, seconds=seconds))
            reading.begin()
            reading.end()
    assert intervals == [1.0, 100.0]


def test_a_page_is_as_old_as_it_says() -> None:
    with _serving(_Pages(_PAGE)) as url:
        page, age_seconds = MetricsPage(url).read()
    assert page.decode() == _PAGE
    assert age_seconds == 0.125


def test_what_is_no_breakdown_is_refused() -> None:
    with pytest.raises(DecodingError, match="server"):
        server_side({"metrics_url": "http://host"})
