"""What traces tell: whose calls, in which trace, with which times; and that telling never holds anybody up."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import structlog
from fakes import EchoModel, FakeClock, Gate, MirrorModel
from headwaiter_server.config import ServerSettings
from headwaiter_server.errors import ConfigError
from headwaiter_server.metrics import Metrics
from headwaiter_server.metrics.statistics import ModelCounts
from headwaiter_server.scheduling.calls import Terms
from headwaiter_server.tracing import CallEnd, CallSpan, GeneratedText, TracedRun, open_tracing, otel
from headwaiter_server.wiring.recording import LaneMetrics
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from pydantic import ValidationError
from structlog.testing import LogCapture

from .encoder_scheduler import encoder_scheduler, text
from .scheduler import scheduler

METHOD = "headwaiter.v1.InferenceService/Embed"
TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = f"00-{TRACE}-{CALLER}-01"
UNSAMPLED = f"00-{TRACE}-{CALLER}-00"


@dataclass
class Traces:
    """Tracing whose spans can be read."""

    ratio: float = 0.0
    clock: FakeClock = field(default_factory=FakeClock)

    def __post_init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.tracing = otel.OtelTracing(self._exporter, self.ratio, "1.2.3", self.clock)

    def begin(self, *traceparents: str, **more: str) -> CallSpan | None:
        metadata = [("user-agent", "test"), *(("traceparent", each) for each in traceparents), *more.items()]
        return self.tracing.begin(METHOD, self.clock(), metadata)

    def call(self) -> CallSpan:
        """A traced call."""
        span = self.begin(SAMPLED)
        assert span is not None
        return span

    async def told(self) -> dict[str, list[ReadableSpan]]:
        """Everything that was told, by the names of the spans."""
        await self.tracing.close(10)
        spans: dict[str, list[ReadableSpan]] = {}
        for span in self._exporter.get_finished_spans():
            spans.setdefault(span.name, []).append(span)
        return spans


@asynccontextmanager
async def traces(ratio: float = 0.0) -> AsyncIterator[Traces]:
    it = Traces(ratio)
    try:
        yield it
    finally:
        await it.tracing.close(10)


def end(**known: Any) -> CallEnd:  # noqa: ANN401 - what a test knows of a call
    nothing: dict[str, Any] = dict.fromkeys(CallEnd.__dataclass_fields__)
    return CallEnd(**(nothing | {"code": "OK", "code_number": 0, "model": "m", "version": "1", "texts": 1} | known))


def seconds(span: ReadableSpan) -> float:
    assert span.start_time is not None
    assert span.end_time is not None
    return (span.end_time - span.start_time) / 1e9


def span_id(span: ReadableSpan) -> str:
    assert span.context is not None
    return f"{span.context.span_id:016x}"


def trace_id(span: ReadableSpan) -> str:
    assert span.context is not None
    return f"{span.context.trace_id:032x}"


def parent(span: ReadableSpan) -> str:
    return "" if span.parent is None else f"{span.parent.span_id:016x}"


def links(span: ReadableSpan) -> set[str]:
    return {f"{link.context.span_id:016x}" for link in span.links}


async def test_call_is_told_with_its_stages_at_their_true_times() -> None:
    """A call is a span under the caller's, with a child for each stage that begins where the one before ended."""
    async with traces() as it:
        now = it.clock()
        span = it.begin(SAMPLED, tracestate="vendor=1")
        assert span is not None
        run = TracedRun("m", 7, now + 0.5, now + 0.9, 3, 40, 2, "empty", abandoned=False, failures=0)
        it.tracing.run(run, [span])
        it.clock.advance(1.0)
        times = {"tokenizing": now + 0.1, "tokenized": now + 0.2, "submitted": now + 0.2, "started": now + 0.5}
        span.finish(end(ended=now + 1.0, tokens=5, batch_id=7, batch_size=3, batch_tokens=40, **times))
        told = await it.told()
        (call,) = told.pop(METHOD)
        assert (call.kind, trace_id(call), parent(call)) == (SpanKind.SERVER, TRACE, CALLER)
        assert call.context is not None
        assert call.context.trace_state.to_header() == "vendor=1"
        assert call.status.status_code is StatusCode.UNSET
        assert seconds(call) == pytest.approx(1.0, abs=1e-6)
        assert call.attributes is not None
        assert {
            "rpc.system": "grpc",
            "rpc.service": "headwaiter.v1.InferenceService",
            "rpc.method": "Embed",
            "rpc.grpc.status_code": 0,
            "headwaiter.model.name": "m",
            "headwaiter.source_tokens": 5,
            "headwaiter.batch.id": 7,
            "headwaiter.batch.size": 3,
        }.items() <= dict(call.attributes).items()
        assert set(told) == {"tokenize", "queue", "inference", "batch m"}
        offsets = {
            name: ((each.start_time or 0) - (call.start_time or 0), seconds(each)) for name, (each,) in told.items()
        }
        for name, begins, lasts in (("tokenize", 0.1, 0.1), ("queue", 0.2, 0.3), ("inference", 0.5, 0.4)):
            assert offsets[name][0] / 1e9 == pytest.approx(begins, abs=1e-6), name
            assert offsets[name][1] == pytest.approx(lasts, abs=1e-6), name
        assert {parent(each) for (each,) in told.values()} == {span_id(call)}
        assert links(told["inference"][0]) == {span_id(told["batch m"][0])}


@pytest.mark.parametrize(
    ("code", "number", "failed"),
    [("INTERNAL", 13, True), ("DEADLINE_EXCEEDED", 4, True), ("INVALID_ARGUMENT", 3, False), ("CANCELLED", 1, False)],
)
async def test_failed_call_is_told_with_its_status(code: str, number: int, *, failed: bool) -> None:
    """A call that fails has its status, an error only where it is the server's; what never ran waited to the end."""
    async with traces() as it:
        now = it.clock()
        times = {"tokenizing": now, "tokenized": now + 1, "submitted": now + 1}
        it.call().finish(end(code=code, code_number=number, ended=now + 3, **times))
        told = await it.told()
        (call,) = told[METHOD]
        assert (call.attributes or {})["rpc.grpc.status_code"] == number
        assert (call.status.status_code is StatusCode.ERROR) is failed
        assert set(told) == {METHOD, "tokenize", "queue"}
        assert seconds(told["queue"][0]) == pytest.approx(2.0, abs=1e-6)


async def test_unsampled_caller_is_never_traced() -> None:
    """A caller whose trace is not sampled is not traced, even where every other call is."""
    async with traces(ratio=1.0) as it:
        assert it.begin(UNSAMPLED) is None
        assert await it.told() == {}


@pytest.mark.parametrize("ratio", [0.0, 1.0])
@pytest.mark.parametrize(
    "traceparent",
    [
        "",
        "nonsense",
        SAMPLED[:-1],
        f"{SAMPLED}-extra",
        SAMPLED.upper().replace("B7AD", "B7AX"),
        f"ff-{TRACE}-{CALLER}-01",
        f"00-{'0' * 32}-{CALLER}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        "00-" + "1" * 4000,
    ],
)
async def test_malformed_traceparent_counts_as_none(traceparent: str, ratio: float) -> None:
    """What is no traceparent is ignored: the call is traced as one without, in a trace of its own."""
    async with traces(ratio) as it:
        span = it.begin(traceparent)
        assert (span is not None) == bool(ratio)
        if span is not None:
            assert span.trace_id != TRACE
            span.finish(end(ended=it.clock()))
            (call,) = (await it.told())[METHOD]
            assert call.parent is None


async def test_of_several_traceparents_none_holds() -> None:
    """Nobody can say which one is meant."""
    async with traces() as it:
        assert it.begin(SAMPLED, SAMPLED) is None


async def test_later_version_of_traceparent_is_understood() -> None:
    """As W3C asks: by its first four fields."""
    async with traces() as it:
        span = it.begin(f"cc-{TRACE}-{CALLER}-01-what-the-future-holds")
        assert span is not None
        assert span.trace_id == TRACE


async def test_share_of_the_other_calls_is_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the calls without a traceparent, the share that the ratio says."""
    drawn = iter([0.09, 0.1, 0.5, 0.0])
    monkeypatch.setattr("headwaiter_server.tracing.otel.random.random", lambda: next(drawn))
    async with traces(ratio=0.1) as it:
        assert [it.begin() is not None for _ in range(4)] == [True, False, False, True]


async def test_run_links_the_calls_that_shared_it() -> None:
    """One span for a run, linked to each traced call that had texts in it, in the trace of the one that came first."""
    gate = Gate()
    async with traces() as it, encoder_scheduler(MirrorModel(on_run=gate)) as parts:
        terms = [Terms(it.clock()) for _ in range(4)]
        for index in (1, 2):
            it.clock.advance(1)
            terms[index].trail.span = it.begin(f"00-{index:032x}-{CALLER}-01")
        held = parts.submit(text(1), terms=terms[0])
        await gate.entered()
        # These share the next run; one has two texts in it, one is not traced, one has given up.
        calls = [parts.submit(text(2), text(3), terms=terms[2]), parts.submit(text(4), terms=terms[1])]
        calls += [parts.submit(text(5), terms=terms[3]), parts.submit(text(6))]
        calls[3].future.cancel()
        gate.open()
        for call in [held, *calls[:3]]:
            await call.future
        await parts.quiet()
        recorder = LaneMetrics(Metrics(), it.tracing, "m", ModelCounts())
        for facts in parts.runs:
            recorder.run_finished(facts)
        traced = [each.trail.span for each in terms[1:3]]
        for span, each in zip(traced, terms[1:3], strict=True):
            assert isinstance(span, otel.OtelCall)
            trail = each.trail
            assert trail.batch_id == 2
            now = it.clock()
            span.finish(end(ended=now, submitted=now, started=now))
        told = await it.told()
        (run,) = told["batch m"]
        assert links(run) == {span_id(call) for call in told[METHOD]}
        assert len(run.links) == 2
        first = next(call for call in told[METHOD] if trace_id(call) == f"{1:032x}")
        assert (trace_id(run), parent(run)) == (trace_id(first), span_id(first))
        assert (run.attributes or {})["headwaiter.batch.size"] == 4
        assert [links(each) for each in told["inference"]] == [{span_id(run)}] * 2


async def test_each_generated_text_is_one_span() -> None:
    """However many steps a text takes, its generation is one span of its call."""
    async with traces() as it, scheduler(EchoModel()) as parts:
        terms = Terms(it.clock())
        terms.trail.span = it.call()
        await parts.submit([5, 6, 7], [8], terms=terms).future
        terms.trail.span.finish(end(ended=it.clock(), submitted=it.clock(), started=terms.trail.started))
        told = await it.told()
        assert set(told) == {METHOD, "queue", "generate"}
        generated = [dict(each.attributes or {}) for each in told["generate"]]
        assert sorted((each["headwaiter.text.index"], each["headwaiter.generated_tokens"]) for each in generated) == [
            (0, 3),
            (1, 1),
        ]
        assert (told[METHOD][0].attributes or {})["headwaiter.generated_tokens"] == 4
        assert {parent(each) for each in told["generate"]} == {span_id(told[METHOD][0])}


async def test_generated_text_tells_when_it_was_read_and_when_it_began() -> None:
    """As moments of its span, at their true times, and as durations: of reading, and since the call arrived."""
    async with traces() as it:
        span = it.call()
        now = it.clock()
        text = GeneratedText(0, now + 1.0, now + 4.0, 100, 7, "stop", 3, 8, now + 2.0, now + 2.5, rows=4)
        span.generated(text)
        span.generated(GeneratedText(1, now + 1.0, now + 2.0, 100, 0, "end_of_sequence", 3, 8))
        told = await it.told()
        first, second = told["generate"]
        attributes = dict(first.attributes or {})
        assert attributes["headwaiter.finish_reason"] == "stop"
        assert attributes["headwaiter.rows"] == 4
        assert attributes["headwaiter.prefill_seconds"] == pytest.approx(1.0)
        assert attributes["headwaiter.first_token_seconds"] == pytest.approx(2.5)
        moments = {event.name: (event.timestamp - (first.start_time or 0)) / 1e9 for event in first.events}
        assert moments == {"prefilled": pytest.approx(1.0), "first token": pytest.approx(1.5)}
        assert not second.events
        assert not {"headwaiter.prefill_seconds", "headwaiter.first_token_seconds"} & set(second.attributes or {})


async def test_fault_in_telling_fails_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where making a span raises, the call goes on untraced, and the log says so."""

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("no span today")

    async with traces() as it:
        span = it.call()
        log = LogCapture()
        monkeypatch.setattr(otel, "_log", structlog.wrap_logger(None, processors=[log]))
        monkeypatch.setattr(it.tracing.tracer, "start_span", broken)
        assert it.begin(SAMPLED) is None
        it.tracing.run(TracedRun("m", 1, 0, 0, 1, 1, 0, "empty", abandoned=False, failures=0), [span])
        span.finish(end(ended=it.clock(), submitted=it.clock()))
        assert [entry["event"] for entry in log.entries] == ["tracing_failed"] * 3


class StuckExporter(SpanExporter):
    """Holds every export until it is shut down, as a collector that does not answer would."""

    def __init__(self) -> None:
        self.ended = threading.Event()
        self.exporting = threading.Event()
        self.taken = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.taken += len(spans)
        self.exporting.set()
        self.ended.wait()
        return SpanExportResult.FAILURE

    def shutdown(self) -> None:
        self.ended.set()


async def test_collector_that_never_answers_holds_nobody_up() -> None:
    """While it is stuck spans are made and dropped, a bounded number is kept; the end of the server does not wait."""
    exporter = StuckExporter()
    tracing = otel.OtelTracing(exporter, 1.0, "1", FakeClock())
    for _ in range(3 * otel._MOST_SPANS):
        span = tracing.begin(METHOD, 1.0, ())
        assert span is not None
        span.finish(end(ended=2.0))
    assert exporter.exporting.wait(10)
    await tracing.close(0.01)  # ends at all: the exporter was given up
    assert exporter.ended.wait(30)
    # What it was given before the rest waited, and what waited.
    assert exporter.taken <= otel._EXPORT_SPANS + otel._MOST_SPANS


async def test_exporter_that_does_not_give_up_holds_nobody_up() -> None:
    """Nor does the end of the server wait for an exporter that waits for its collector when it is told to end."""
    server_ended, in_time = threading.Event(), list[bool]()

    class Stubborn(StuckExporter):
        def shutdown(self) -> None:
            in_time.append(server_ended.wait(30))
            super().shutdown()

    exporter = Stubborn()
    tracing = otel.OtelTracing(exporter, 1.0, "1.2.3", FakeClock())
    span = tracing.begin(METHOD, 0.0, ())
    assert span is not None
    span.finish(end(ended=1.0))
    await tracing.close(0.01)
    server_ended.set()
    assert exporter.ended.wait(30)
    assert all(in_time)


def test_failing_collector_takes_one_line_of_the_log_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenTelemetry says every second that it fails; our log says it now and then, and how often it was."""
    log = LogCapture()
    monkeypatch.setattr(otel, "_log", structlog.wrap_logger(None, processors=[log]))
    otel._limit_log(60.0)

    def say(part: str, message: str, when: float) -> None:
        record = logging.makeLogRecord({"name": part, "levelno": 40, "msg": message, "created": when})
        logging.getLogger(part).handle(record)

    exporter, propagator = "opentelemetry.exporter.otlp", "opentelemetry.trace.propagation"
    for second in range(5):
        say(exporter, "collector is down", 1000.0 + second)
    say(propagator, "what a traceparent", 1005.0)
    say(exporter, "collector is still down", 1061.0)
    assert [(entry["source"], entry["reason"], entry["lines_left_out"]) for entry in log.entries] == [
        (exporter, "collector is down", 0),
        (propagator, "what a traceparent", 0),
        (exporter, "collector is still down", 4),
    ]


def test_server_that_does_not_trace_never_loads_opentelemetry() -> None:
    """Without an endpoint nothing of it is imported by all that the server imports."""
    assert open_tracing("", 1.0, "1", FakeClock()) is None
    check = "import sys, headwaiter_server.app; print([name for name in sys.modules if 'opentelemetry' in name])"
    done = subprocess.run([sys.executable, "-c", check], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """With an endpoint and without OpenTelemetry the server does not start, and says what to install."""
    monkeypatch.delitem(sys.modules, "headwaiter_server.tracing.otel")
    monkeypatch.delattr("headwaiter_server.tracing.otel")
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(ConfigError, match=r"--otlp-endpoint: no module opentelemetry.* its extra otel"):
        open_tracing("http://127.0.0.1:4317", 1.0, "1", FakeClock())


@pytest.mark.parametrize("endpoint", ["collector:4317", "grpc://collector:4317", "http://collector", "http://a:b"])
def test_endpoint_is_a_url(endpoint: str) -> None:
    """Scheme, host and port, so that nobody guesses whether it is TLS."""
    with pytest.raises(ValidationError, match=r"http://HOST:PORT or https://HOST:PORT"):
        ServerSettings(models="models", otlp_endpoint=endpoint)
