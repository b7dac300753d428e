"""Metrics of a real server, against what its callers saw: every code, made-up names, what Prometheus makes of it."""

from __future__ import annotations

import asyncio
import math
import platform
import re
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import grpc
import pytest
from headwaiter_proto.inference import grpc_service_pb2
from headwaiter_proto.v1 import inference_pb2
from headwaiter_server.metrics import definitions
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text

from .process import ServerProcess, running_server

SERVICE = "headwaiter.v1.InferenceService"
GENERATE = f"{SERVICE}/Generate"
OPENMETRICS = "application/openmetrics-text;version=1.0.0"
Call: TypeAlias = "grpc.UnaryUnaryMultiCallable[bytes, bytes]"
Ending: TypeAlias = "grpc.Future[bytes]"

# A call that keeps the only worker for as long as a test needs, and is cancelled in the end: its texts run one by one.
LONG_CALL = inference_pb2.GenerateRequest(texts=["abcdefgh" * 7] * 1000).SerializeToString()
ONE_WORD = inference_pb2.GenerateRequest(texts=["word"]).SerializeToString()
NO_TEXTS = inference_pb2.GenerateRequest().SerializeToString()
NO_MODEL = inference_pb2.GenerateRequest(texts=["word"], model="nobody").SerializeToString()
MOST_CALLS = 12
# Behind every call that does not say so.
LAST = (("headwaiter-priority", "16"),)


@pytest.fixture(scope="module")
def narrow(models_dir: Path) -> Iterator[ServerProcess]:
    """A server with one worker that runs one text at a time, and holds few calls."""
    with running_server(
        *("--models", str(models_dir), "--lame-duck-seconds", "0", "--workers", "1", "--batching", "none"),
        *("--max-calls", str(MOST_CALLS)),
    ) as server:
        yield server


@contextmanager
def method(server: ServerProcess, name: str = GENERATE) -> Iterator[Call]:
    """A method, on a channel that never tries twice."""
    options = [("grpc.enable_retries", 0)]
    with grpc.insecure_channel(server.grpc, options=options) as channel:
        yield channel.unary_unary(f"/{name}")


def samples(server: ServerProcess) -> dict[str, list[tuple[dict[str, str], float]]]:
    """Labels and value of every sample, by its name."""
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in read_text(server.scrape_text()):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def total(server: ServerProcess, name: str, **labels: str) -> float:
    """Sum of the series of a metric with these labels among others."""
    series = samples(server).get(f"headwaiter_{name}", [])
    return sum(value for told, value in series if labels.items() <= told.items())


def codes(server: ServerProcess) -> Counter[str]:
    """Answers by their status code."""
    counted: Counter[str] = Counter()
    for labels, value in samples(server).get("headwaiter_requests_total", []):
        counted[labels["code"]] += int(value)
    return counted


def until(condition: Callable[[], bool]) -> None:
    """Wait for what the server does by itself; the test's own time limit ends it."""
    while not condition():
        time.sleep(0.02)


def hold_worker(generate: Call, server: ServerProcess) -> Ending:
    """Keep the worker busy; returns when it is."""
    held = generate.future(LONG_CALL)
    until(lambda: total(server, "running_texts") > 0)
    return held


def code_of(call: Ending) -> str:
    """How a call ended, as its caller sees it."""
    error = None if call.cancelled() else call.exception()
    if call.cancelled():
        return "CANCELLED"
    if error is None:
        return "OK"
    assert isinstance(error, grpc.RpcError)
    return error.code().name


def test_counters_are_those_of_the_callers(narrow: ServerProcess) -> None:
    """Errors, overload, deadlines and cancels: of every code the server counts what its callers got, and none is left.

    A call that its caller gives up is made to wait behind another until the server has it for sure.
    """
    # A refusal of another test reaches its caller before it is counted.
    until(lambda: total(narrow, "requests_in_flight") == 0)
    before, started = codes(narrow), total(narrow, "requests_started_total")
    seen: Counter[str] = Counter()
    with method(narrow) as generate:
        for data, times in ((ONE_WORD, 5), (NO_TEXTS, 3), (NO_MODEL, 4)):
            calls = [generate.future(data, timeout=60) for _ in range(times)]
            seen += Counter(map(code_of, calls))
        assert seen == {"OK": 5, "INVALID_ARGUMENT": 3, "NOT_FOUND": 4}

        held = hold_worker(generate, narrow)
        expired = [generate.future(ONE_WORD, timeout=2.5, metadata=LAST) for _ in range(3)]
        seen += Counter(map(code_of, expired))
        assert seen["DEADLINE_EXCEEDED"] == 3
        until(lambda: total(narrow, "calls_held") == 1)

        crowd = [generate.future(ONE_WORD, timeout=60, metadata=LAST) for _ in range(3 * MOST_CALLS)]
        refused = len(crowd) - (MOST_CALLS - 1)
        until(lambda: sum(call.done() for call in crowd) == refused)
        until(lambda: total(narrow, "requests_in_flight") == MOST_CALLS)
        waiting = [call for call in crowd if not call.done()]
        for call in (*waiting[:6], held):
            call.cancel()
        seen += Counter(map(code_of, [*crowd, held]))
        assert seen["UNAVAILABLE"] == refused
        assert seen["CANCELLED"] == 7
    until(lambda: total(narrow, "requests_in_flight") == 0)

    assert codes(narrow) - before == seen
    assert total(narrow, "requests_started_total") - started == sum(seen.values())
    assert [total(narrow, name) for name in ("calls_held", "waiting_texts_held", "queue_depth")] == [0, 0, 0]


def test_made_up_names_make_no_series(narrow: ServerProcess) -> None:
    """A thousand names of models and methods that do not exist add no label value but `_other`."""
    with grpc.insecure_channel(narrow.grpc) as channel:
        generate: Call = channel.unary_unary(f"/{GENERATE}")
        calls = []
        for number in range(1000):
            request = inference_pb2.GenerateRequest(model=f"made-up-{number}", version=number, texts=["word"])
            calls.append(generate.future(request.SerializeToString(), timeout=60))
            unknown: Call = channel.unary_unary(f"/made.Up/Method{number}")
            calls.append(unknown.future(b"", timeout=60))
            # Never so many at one time that they would be refused for that.
            if len(calls) == MOST_CALLS or number == 999:
                assert Counter(map(code_of, calls)).keys() == {"NOT_FOUND", "UNIMPLEMENTED"}
                calls.clear()
    found = samples(narrow)
    own = [(name, labels) for name, series in found.items() if name.startswith("headwaiter") for labels, _ in series]
    assert {labels["model"] for _, labels in own if "model" in labels} == {"pronounce", "_other"}
    methods = {labels["method"] for _, labels in own if "method" in labels}
    services = [
        inference_pb2.DESCRIPTOR.services_by_name["InferenceService"],
        grpc_service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"],
    ]
    assert methods == {f"{service.full_name}/{each.name}" for service in services for each in service.methods}
    assert {labels["version"] for name, labels in own if name == "headwaiter_requests_total"} <= {"", "1"}
    assert len(own) < 1000


def test_promtool_has_nothing_to_say_of_a_server_that_worked(narrow: ServerProcess) -> None:
    """After all sorts of calls Prometheus's linter finds no fault with what a real server shows."""
    with method(narrow) as generate:
        for data in (ONE_WORD, NO_TEXTS, NO_MODEL):
            code_of(generate.future(data, timeout=60))
    until(lambda: total(narrow, "requests_in_flight") == 0)
    text = narrow.scrape_text()
    assert 'code="NOT_FOUND"' in text
    result = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_openmetrics_is_what_its_parser_takes(narrow: ServerProcess) -> None:
    """A real server's OpenMetrics is parsed by the library's own strict parser, with the units."""
    parsed = read_openmetrics(narrow.scrape_text(OPENMETRICS))  # type: ignore[no-untyped-call]
    families = {family.name: family for family in parsed}
    assert families["headwaiter_requests"].type == "counter"
    assert families["headwaiter_request_duration_seconds"].unit == "seconds"


def test_page_lists_what_a_server_shows(narrow: ServerProcess) -> None:
    """Everything that is scraped is defined, and so is on docs/metrics.md, with its type and its labels."""
    defined = {each.name: each for each in (*definitions.ALL, *definitions.PROCESS)}
    families: list[Metric] = list(read_text(narrow.scrape_text()))
    shown = {f"{each.name}_total" if each.type == "counter" else each.name: each for each in families}
    assert shown.keys() == defined.keys()
    for name, family in shown.items():
        assert family.type == defined[name].kind
        for sample in family.samples:
            assert sample.labels.keys() - {"le"} == set(defined[name].labels), name


def test_what_is_set_and_what_loading_took_is_told(narrow: ServerProcess) -> None:
    """Workers, bounds and versions are shown, and what the model cost to load."""
    assert total(narrow, "workers") == 1
    assert total(narrow, "calls_limit") == MOST_CALLS
    assert total(narrow, "waiting_texts_limit") == 32_768
    assert total(narrow, "slo_seconds") == 0.1
    assert total(narrow, "build_info", python=platform.python_version()) == 1
    assert total(narrow, "model_load_duration_seconds", model="pronounce", version="1") > 0
    assert total(narrow, "model_memory_bytes", model="pronounce") > 1 << 20
    assert 0 <= total(narrow, "event_loop_lag_seconds") < math.inf


@pytest.mark.alone
def test_saturation_and_busy_time_follow_the_worker(narrow: ServerProcess) -> None:
    """The only worker, kept busy, is so for most of the time that passes and never for more; then not at all."""
    readings = []
    with method(narrow) as generate:
        held = hold_worker(generate, narrow)
        for _ in range(2):
            before = time.monotonic()
            busy_seconds = total(narrow, "worker_busy_seconds_total")
            readings.append((before, busy_seconds, time.monotonic()))
            until(lambda: time.monotonic() > readings[0][2] + 1.0)
        until(lambda: total(narrow, "saturation_ratio") > 0.5)
        held.cancel()
    (began, first, began_latest), (ended_earliest, last, ended) = readings
    assert 0.5 * (ended_earliest - began_latest) < last - first < ended - began
    until(lambda: total(narrow, "requests_in_flight") == 0)
    # The step under way ends by itself.
    until(lambda: total(narrow, "worker_busy_seconds_total") == total(narrow, "worker_busy_seconds_total"))


async def test_scrapes_do_not_hold_up_calls(server: ServerProcess) -> None:
    """Calls are answered while scrapers ask without a pause."""
    stop = asyncio.Event()

    async def scraper() -> int:
        scrapes = 0
        while not stop.is_set():
            await asyncio.to_thread(server.scrape_text, OPENMETRICS)
            scrapes += 1
        return scrapes

    async with grpc.aio.insecure_channel(server.grpc) as channel:
        generate: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"/{GENERATE}")
        scrapers = [asyncio.create_task(scraper()) for _ in range(4)]
        for _ in range(50):
            await generate(ONE_WORD, timeout=20)
        stop.set()
        assert sum(await asyncio.gather(*scrapers)) >= 4


def test_objective_is_told_and_is_a_bound(models_dir: Path) -> None:
    """`--slo-seconds` is shown, and calls within it are counted by a bucket of its own."""
    with running_server("--models", str(models_dir), "--lame-duck-seconds", "0", "--slo-seconds", "0.15") as own:
        with method(own) as generate:
            assert code_of(generate.future(ONE_WORD, timeout=60)) == "OK"
        text = own.scrape_text()
    assert re.search(r"^headwaiter_slo_seconds 0\.15$", text, re.MULTILINE)
    assert 'headwaiter_request_duration_seconds_bucket{le="0.15",method="headwaiter.v1' in text
