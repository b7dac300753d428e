"""Triton's load tester, unmodified, measures this server in every way, and fills the columns of the server's side."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from e2e.process import ServerProcess

from .perf_analyzer import Report, measure, perf_analyzer
from .record import COLUMNS, Measured, Record, Seen

TOOL = "perf_analyzer 2.50"
# Columns that only a server with working statistics fills.
SERVER_SIDE = ("Server Queue", "Server Compute Input", "Server Compute Infer", "Server Compute Output")
GOOD = 'headwaiter_requests_total{code="OK"'
ALL = "headwaiter_requests_total{"


@dataclass(frozen=True)
class Run:
    """One way of measuring.

    Attributes:
        options: Of perf_analyzer.
        loads: How many loads its report must have.
        shows: RPCs and extensions that this shows to work.
    """

    options: str
    loads: int = 1
    shows: tuple[str, ...] = ("ModelInfer", "ModelStatistics", "ModelConfig", "ModelMetadata")


RUNS = [
    Run("-m minilm"),
    Run("-m minilm --concurrency-range 1:4:3", loads=2),
    Run("-m minilm -b 8 --string-length 40"),
    Run("-m minilm --streaming --concurrency-range 4", shows=("ModelStreamInfer", "ModelStatistics")),
    Run("-m minilm --shared-memory system --string-length 40", shows=("SystemSharedMemoryRegister", "ModelInfer")),
    Run("-m minilm --string-length 3000 --request-parameter truncate:true:bool"),
    Run("-m pronounce --string-data waiter --streaming", shows=("ModelStreamInfer", "ModelStatistics")),
    Run(
        "-m pronounce --string-data waiter --streaming --concurrency-range 8 --request-parameter max_new_tokens:3:int",
        shows=("ModelStreamInfer", "request parameters"),
    ),
    Run("-m classify --string-length 20"),
    Run("-m rerank --string-length 20"),
    Run("-m tag --string-length 20"),
    Run("-m simple"),
    Run("-m simple -b 8 --async --concurrency-range 8"),
    Run("-m simple --request-rate-range 50:100:50", loads=2),
    Run("-m simple --streaming --concurrency-range 8", shows=("ModelStreamInfer", "ModelStatistics")),
    Run(
        "-m simple --shared-memory system --concurrency-range 4",
        shows=("SystemSharedMemoryRegister", "SystemSharedMemoryUnregister", "CudaSharedMemoryUnregister"),
    ),
    Run("-m simple --shared-memory system --streaming", shows=("SystemSharedMemoryRegister", "ModelStreamInfer")),
    Run("-m times -x 2 --shape X:8 -b 4"),
    Run("-m simple --grpc-compression-algorithm gzip", shows=("ModelInfer", "compression")),
]


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.options.replace(" ", "_"))
def test_it_measures(served: ServerProcess, record: Record, tmp_path: Path, run: Run) -> None:
    """It ends well, no call fails, and every column of every load is filled."""
    before = served.scrape()
    report = measure(served.grpc, tmp_path, *run.options.split())
    after = served.scrape()
    assert len(report.rows) == run.loads
    for row in report.rows:
        assert float(row["Inferences/Second"]) > 0
        for column in (*SERVER_SIDE, "p99 latency"):
            assert float(row[column]) > 0, (column, report.output)
    assert _count(after, ALL) - _count(before, ALL) == _count(after, GOOD) - _count(before, GOOD) > 0
    _note(record, run, report)


def test_it_finds_the_servers_metrics(served: ServerProcess, record: Record, tmp_path: Path) -> None:
    """`--collect-metrics` reads this server's metrics; those of graphics processors are not there, which it says."""
    options = "-m simple --collect-metrics --verbose-csv"
    metrics = ("--metrics-url", f"{served.metrics}/metrics", "--metrics-interval", "200")
    report = measure(served.grpc, tmp_path, *options.split(), *metrics)
    (row,) = report.rows
    assert float(row["Server Compute Infer"]) > 0
    warnings = sorted({line.strip() for line in report.output.splitlines() if "WARNING" in line or "Unable" in line})
    assert any("Unable to parse" in line for line in warnings)
    _note(record, Run(options), report)
    what = "Reads the server's metrics beside its own figures; those of graphics processors are not there"
    record.seen.append(Seen(("metrics",), TOOL, f"perf_analyzer {options}", what, " ".join(warnings)))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("-m nobody", "no model 'nobody'"),
        # Of any model whose texts come in pieces.
        ("-m pronounce", "must be run with `--async` and `--streaming`"),
        ("-m minilm --string-length 3000", "the limit is 256"),
        ("-m simple --trace-level TIMESTAMPS", "--otlp-endpoint"),
    ],
)
def test_it_tells_why_it_cannot_measure(served: ServerProcess, options: str, words: str) -> None:
    """What this server refuses ends it with this server's words."""
    done = perf_analyzer("-i", "grpc", "-u", served.grpc, *options.split())
    assert done.returncode != 0
    assert words in done.stdout


def _count(metrics: dict[str, float], name: str) -> float:
    service = 'method="inference.GRPCInferenceService/Model'
    infer = (f"{service}Infer", f"{service}StreamInfer")
    return sum(value for key, value in metrics.items() if key.startswith(name) and any(each in key for each in infer))


def _note(record: Record, run: Run, report: Report) -> None:
    for row in report.rows:
        load = next(value for key, value in row.items() if key in ("Concurrency", "Request Rate"))
        record.measured.append(Measured(run.options, load, {name: row[name] for name in COLUMNS}))
    record.seen.append(Seen(run.shows, TOOL, f"perf_analyzer {run.options}", "", said=""))
