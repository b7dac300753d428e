"""What a scrape gets: formats, exemplars, compression, and one rendering for all who ask at about the same time."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from fakes import FakeClock
from headwaiter_server.metrics import CallFacts, Metrics
from headwaiter_server.metrics.messages import Request
from headwaiter_server.metrics.rendering import AGE_HEADER, Renderer
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text

METHOD = "headwaiter.v1.InferenceService/Embed"
TRACE = "0af7651916cd43dd8448eb211c80319c"
TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
# As Prometheus 2.42 and 3 send them.
OLD_PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
NEW_PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)


class Counting:
    """A collector that counts how often it is asked."""

    def __init__(self, on_collect: Callable[[], None] = lambda: None) -> None:
        self.times = 0
        self._on_collect = on_collect

    def collect(self) -> Iterator[Metric]:
        self.times += 1
        self._on_collect()
        yield GaugeMetricFamily("renderings", "How often this was rendered.", self.times)


def scrape(accept: str | None = None, encoding: str | None = None) -> Request:
    headers = {"accept": accept, "accept-encoding": encoding}
    return Request("/metrics", {name: value for name, value in headers.items() if value is not None})


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def counting() -> Counting:
    return Counting()


@pytest.fixture
def renderer(counting: Counting, clock: FakeClock) -> Renderer:
    """Renders the collector that counts."""
    registry = CollectorRegistry()
    registry.register(counting)
    return Renderer(registry, clock)


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        (None, TEXT),
        ("*/*", TEXT),
        ("text/plain", TEXT),
        ("text/html,application/xhtml+xml,*/*;q=0.8", TEXT),
        (OLD_PROMETHEUS, OPENMETRICS),
        (NEW_PROMETHEUS, OPENMETRICS),
        ("application/openmetrics-text", OPENMETRICS),
        ("APPLICATION/OpenMetrics-Text; version=1.0.0", OPENMETRICS),
        ("application/openmetrics-text;q=0", TEXT),
        ("application/openmetrics-text;q=0.2,text/plain;q=0.5", TEXT),
        ("application/openmetrics-text;q=0.2,*/*;q=0.1", OPENMETRICS),
        ("application/openmetrics-text;q=nonsense", TEXT),
        (",;,q=1", TEXT),
    ],
)
def test_format_is_the_one_that_is_asked_for(renderer: Renderer, accept: str | None, content_type: str) -> None:
    """OpenMetrics for who prefers it, the text format for everybody else, whatever the header says."""
    response = renderer(scrape(accept))
    assert response.content_type == content_type
    assert response.body.endswith(b"# EOF\n") == (content_type == OPENMETRICS)


@pytest.mark.parametrize(
    ("encoding", "compressed"),
    [(None, False), ("gzip", True), ("deflate, gzip;q=0.5", True), ("*", True), ("gzip;q=0, *", False), ("br", False)],
)
def test_compressed_for_who_accepts_it(renderer: Renderer, encoding: str | None, compressed: bool) -> None:  # noqa: FBT001 - a parameter
    """The same text either way, and caches are told that it differs by these headers."""
    response = renderer(scrape(encoding=encoding))
    plain = gzip.decompress(response.body) if compressed else response.body
    assert plain == b"# HELP renderings How often this was rendered.\n# TYPE renderings gauge\nrenderings 1.0\n"
    assert response.headers.get("Content-Encoding") == ("gzip" if compressed else None)
    assert response.headers["Vary"] == "Accept, Accept-Encoding"


def test_one_rendering_is_shared_for_250_ms(renderer: Renderer, counting: Counting, clock: FakeClock) -> None:
    """However many ask within 250 ms, compressed or not, the metrics are rendered once; then again."""
    bodies = []
    for seconds in (0.0, 0.1, 0.149):
        clock.advance(seconds)
        bodies += [renderer(scrape()).body, gzip.decompress(renderer(scrape(encoding="gzip")).body)]
    assert counting.times == 1
    assert set(bodies) == {bodies[0]}
    clock.advance(0.002)
    compressed, plain = renderer(scrape(encoding="gzip")).body, renderer(scrape()).body
    assert gzip.decompress(compressed) == plain != bodies[0]
    assert counting.times == 2


def test_each_format_has_its_own_rendering(renderer: Renderer, counting: Counting) -> None:
    """A scrape in one format is never answered with another's."""
    for accept in ("text/plain", OLD_PROMETHEUS, "text/plain", OLD_PROMETHEUS):
        renderer(scrape(accept))
    assert counting.times == 2


def test_age_of_an_answer_is_told(renderer: Renderer, clock: FakeClock) -> None:
    """Who has to know what happened a moment ago can see whether the answer can know it."""
    ages = []
    for seconds in (0.0, 0.125, 0.2):
        clock.advance(seconds)
        ages.append(float(renderer(scrape()).headers[AGE_HEADER]))
    assert ages == [0.0, 0.125, 0.0]


def test_who_asks_during_a_rendering_gets_that_rendering(clock: FakeClock) -> None:
    """Scrapers that come while the metrics are rendered wait for it, instead of making more work."""
    rendering, proceed = threading.Event(), threading.Event()

    def hold() -> None:
        rendering.set()
        assert proceed.wait(30)

    counting = Counting(hold)
    registry = CollectorRegistry()
    registry.register(counting)
    renderer = Renderer(registry, clock)
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(renderer, scrape())
        assert rendering.wait(30)
        others = [pool.submit(renderer, scrape()) for _ in range(7)]
        proceed.set()
        bodies = {each.result(30).body for each in (first, *others)}
    assert counting.times == 1
    assert len(bodies) == 1


def test_slow_rendering_is_shared_like_any_other(clock: FakeClock) -> None:
    """On a machine so busy that a rendering takes seconds, those who asked while it began cause no second one."""
    rendering, asked, proceed = threading.Event(), threading.Semaphore(0), threading.Event()

    def hold() -> None:
        rendering.set()
        assert proceed.wait(30)

    def now() -> float:
        asked.release()
        return clock()

    counting = Counting(hold)
    registry = CollectorRegistry()
    registry.register(counting)
    renderer = Renderer(registry, now)
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(renderer, scrape())
        assert rendering.wait(30)
        while asked.acquire(blocking=False):
            pass
        clock.advance(0.2)
        others = [pool.submit(renderer, scrape()) for _ in range(7)]
        for _ in others:
            assert asked.acquire(timeout=30)
        clock.advance(5.0)
        proceed.set()
        ages = [float(each.result(30).headers[AGE_HEADER]) for each in (first, *others)]
    assert counting.times == 1
    assert ages == pytest.approx([0.0, *[0.2] * 7])
    renderer(scrape())
    assert counting.times == 2


def test_a_rendering_that_fails_is_not_shared(counting: Counting, clock: FakeClock) -> None:
    """The next scrape tries again at once."""
    registry = CollectorRegistry()
    fail = [True]

    def perhaps() -> None:
        if fail.pop():
            raise RuntimeError("no figures now")

    registry.register(counting)
    renderer = Renderer(registry, clock)
    counting._on_collect = perhaps
    with pytest.raises(RuntimeError):
        renderer(scrape())
    fail.append(False)
    assert b"renderings 2.0" in renderer(scrape()).body


def call(metrics: Metrics, seconds: float, trace_id: str | None) -> None:
    metrics.call_started(METHOD)
    metrics.call_finished(CallFacts(METHOD, "m", "1", "OK", seconds, trace_id=trace_id))


def test_exemplars_name_the_last_trace_of_each_bucket() -> None:
    """OpenMetrics that the library's own parser reads: a bucket shows the last traced call in it, and no other does."""
    metrics = Metrics()
    for seconds, trace_id in ((0.02, "a" * 32), (0.02, TRACE), (0.03, "b" * 32), (0.02, None), (0.2, None)):
        call(metrics, seconds, trace_id)
    text = Renderer(metrics.registry)(scrape(OLD_PROMETHEUS)).body.decode()
    families = {family.name: family for family in read_openmetrics(text)}  # type: ignore[no-untyped-call]
    buckets = [
        (sample.labels["le"], sample.exemplar.labels["trace_id"], sample.exemplar.value)
        for sample in families["headwaiter_request_duration_seconds"].samples
        if sample.exemplar is not None
    ]
    assert buckets == [("0.025", TRACE, 0.02), ("0.05", "b" * 32, 0.03)]
    assert families["headwaiter_request_duration_seconds"].unit == "seconds"
    assert families["headwaiter_batch_tokens"].unit == "tokens"


def test_text_format_has_the_same_numbers_and_no_exemplars() -> None:
    """Who reads the old format misses nothing but the exemplars, which it cannot hold."""
    metrics = Metrics()
    call(metrics, 0.02, TRACE)
    renderer = Renderer(metrics.registry)
    text = renderer(scrape()).body.decode()
    openmetrics = renderer(scrape(OLD_PROMETHEUS)).body.decode()
    assert TRACE not in text

    def numbers(families: list[Metric]) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in families
            for sample in family.samples
            if sample.name.startswith("headwaiter_")
        }

    families = list(read_openmetrics(openmetrics))  # type: ignore[no-untyped-call]
    assert numbers(list(read_text(text))) == numbers(families)
