"""Write the pages of docs/ that are generated from the code, or check that they are fresh.

    python docs/build_reference.py            write them
    python docs/build_reference.py --check    exit with 1 and name those that are stale

A page is one function in `PAGES`: it returns the page's whole text.
"""

# ruff: noqa: INP001 - docs/ is no package

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from headwaiter_server.config import describe_settings
from headwaiter_server.metrics.answered import MOST_GONE
from headwaiter_server.metrics.definitions import GROUPS, LOAD_SECONDS, PROCESS, SECONDS, Definition

DOCS = Path(__file__).parent

_CONFIGURATION_INTRO = """\
# Configuration of the server

Every setting of `headwaiter-server` can be given in three places. Where it stands in several, the first of these wins:

1. a flag on the command line,
2. an environment variable,
3. the TOML file that `--config` (or `HEADWAITER_CONFIG`) names,
4. the default.

A setting nobody knows is refused wherever it stands, by name, and the server does not start. Variables that begin with
`HEADWAITER_CLIENT_`, `HEADWAITER_EXPORT_` or `HEADWAITER_LOAD_` belong to the other commands and are left alone.

`headwaiter-server --print-config` prints the settings in force as such a file and ends.
"""

_CONFIGURATION_EXAMPLE = """\
## A settings file

Names are those of the flags, with underscores. Settings that take several values take a list, or a table:

```toml
models = "/srv/models"
listen = ["0.0.0.0:8001", "unix:/run/headwaiter.sock"]
metrics_listen = "0.0.0.0:8002"
variant = {pronounce = "fp32"}
max_batch_rows = 64
drain_seconds = 30.0
log_format = "json"
```

The same, partly from elsewhere:

```console
$ export HEADWAITER_LISTEN=0.0.0.0:8001,unix:/run/headwaiter.sock
$ headwaiter-server --config headwaiter.toml --max-batch-rows 128
```
"""

_METRICS_INTRO = """\
# Metrics

`GET /metrics` on the address of `--metrics-listen`, by default `http://127.0.0.1:8002/metrics`. Every name is below:
those that begin with `headwaiter_`, and what the Python library tells of the process.

## Scraping

```yaml
scrape_configs:
  - job_name: headwaiter
    scrape_interval: 5s
    static_configs:
      - targets: ["127.0.0.1:8002"]
```

- **Formats.** Prometheus's text format or, to who asks for `application/openmetrics-text` in `Accept`, OpenMetrics
  1.0, which has the exemplars and the units. Compressed with gzip to who accepts that. Prometheus asks for both by
  itself.
- **Cost.** One rendering serves everybody who asks within 250 ms, in one format; it is made on a thread of its own,
  and the event loop that serves calls has no part in it. An answer may be that old: the header
  `Headwaiter-Age-Seconds` says how old.
- **Bounds.** A connection carries one request of at most 16 KiB, has 5 seconds to send it and 30 seconds in all;
  beyond 64 connections the oldest is cut.
- **From the start.** The port opens before the models are loaded. Every method, and of every loaded model every
  counter, is there with 0 before it counts, so that `rate()` and `increase()` see the first one. Series of
  histograms, and of status codes, begin with the first observation.

## Exemplars

With tracing on, the buckets of `headwaiter_request_duration_seconds`, `headwaiter_queue_duration_seconds` and
`headwaiter_inference_duration_seconds` each name the last call that fell into them and was part of a sampled trace,
by its `trace_id`. Prometheus keeps them when it is started with `--enable-feature=exemplar-storage`; Grafana then
leads from a slow bucket to the trace.

## The objective

`--slo-seconds` (0.1 by default) is the time within which calls should be answered. It is a bound of the buckets of
every duration, so that calls that were slower are counted, not estimated:

```promql
sum(rate(headwaiter_request_duration_seconds_count[5m]))
  - sum(rate(headwaiter_request_duration_seconds_bucket{le="0.1"}[5m]))
```

Refused calls are quick: as a share, take it of those that the server has worked on, by the code of
`headwaiter_requests_total`, as the recording rules do.

`headwaiter_slo_seconds` tells dashboards and alerts which bound that is. All durations have the same buckets, in
seconds: {bounds}. Only those of swaps are longer: {load_bounds}.

## Cardinality

Labels have few values, whatever callers send. `method` is a method of the services, `package.Service/Method`; calls
of any other are answered by gRPC itself and leave no series. `model` is a model that is loaded, or `_other` where it
is not known: for a made-up name, and for calls that were refused before they were read. `version` is then empty.
Of versions that were unloaded, the calls of the last {unloaded} are still told of, so that a scrape sees their end; of
a model that was unloaded, everything is that does not say how it is now.
`code` is the name of one of gRPC's 17 status codes. A histogram of durations has {series} series for each model, that
of calls for each of its methods, too.

## Reading them together

- A call's time is `request` = reading and admission + `tokenize` + `queue` + `inference` + writing the answer. With
  several texts in a call, queue and inference are the longest of each.
- `headwaiter_saturation_ratio` at 1 means that there is always a run for every worker. More callers then only wait
  longer. `rate(headwaiter_worker_busy_seconds_total[5m]) / headwaiter_workers` is the same over another time.
- Padding is `headwaiter_padding_tokens_total / headwaiter_computed_tokens_total`, by `rate()`: 0 for packed models.
- Wasted work is `headwaiter_wasted_cpu_seconds_total / headwaiter_cpu_seconds_total`, by `rate()`; with tokenizing in
  the first only, it may exceed 1 where nothing else was done. The wasted part is
  known when the call ends, which may be a little after its runs were counted.
- A high `headwaiter_event_loop_lag_seconds` with workers that are not saturated means that calls are many and small:
  the one thread that reads, tokenizes and answers is full, not the workers.
- Calls in flight are `headwaiter_requests_started_total` less `headwaiter_requests_total`, by method: it comes back
  to 0 whatever becomes of the calls.

## Memory

`process_resident_memory_bytes` is what counts against a container's limit; `headwaiter_model_memory_bytes` is by how
much it grew while a model was loaded, calibration runs included. What onnxruntime's arenas and the C library hold but
do not use is not told apart: onnxruntime has no statistics of its arenas for Python, and those of glibc (`mallinfo2`)
hold up every thread that allocates while they walk the free blocks, 18 ms for a hundred thousand of them.
"""


def configuration() -> str:
    """The page on the server's settings."""
    headings = ("Flag", "Environment variable", "Default", "Meaning")
    rows = [
        (_code(flag), _code(variable), default if default == "required" else _code(default), meaning)
        for flag, variable, default, meaning in describe_settings()
    ]
    sections = [_CONFIGURATION_INTRO, f"## Settings\n\n{_table(headings, rows)}", _CONFIGURATION_EXAMPLE]
    return "\n".join(sections)


def metrics() -> str:
    """The page on the server's metrics."""
    bounds = [f"{bound:g}" for bound in SECONDS]
    intro = _METRICS_INTRO.replace("{bounds}", ", ".join(bounds))
    # One more bucket without a bound, the sum and the count.
    intro = intro.replace("{series}", str(len(bounds) + 3))
    intro = intro.replace("{load_bounds}", ", ".join(f"{bound:g}" for bound in LOAD_SECONDS))
    intro = intro.replace("{unloaded}", str(MOST_GONE))
    headings = ("Name", "Type", "Labels", "Unit", "Meaning")
    groups = {**GROUPS, "The process": PROCESS}
    sections = [f"### {name}\n\n{_table(headings, map(_metric_row, group))}" for name, group in groups.items()]
    return "\n".join([intro, "## All of them\n", *sections])


def _metric_row(definition: Definition) -> tuple[str, str, str, str, str]:
    labels = [
        f"`{label}` ({', '.join(definition.values[label])})" if label in definition.values else f"`{label}`"
        for label in definition.labels
    ]
    return f"`{definition.name}`", definition.kind, ", ".join(labels), definition.unit, definition.text


PAGES: Mapping[str, Callable[[], str]] = {
    "configuration.md": configuration,
    "metrics.md": metrics,
}


def stale_pages(folder: Path = DOCS) -> list[str]:
    """Names of the pages in a folder that are missing or say something else than the code."""
    return [name for name, build in PAGES.items() if _read(folder / name) != build()]


def write_pages(folder: Path = DOCS) -> None:
    """Write every page into a folder."""
    for name, build in PAGES.items():
        (folder / name).write_text(build(), encoding="utf-8")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Write the generated pages of docs/.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 when a page is stale")
    if not parser.parse_args().check:
        write_pages()
    elif stale := stale_pages():
        sys.exit(f"stale: {', '.join(stale)}; run python docs/build_reference.py")


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [headings, tuple("---" for _ in headings), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


if __name__ == "__main__":
    main()
