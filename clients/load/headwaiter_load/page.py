"""The report as one HTML page: style, script and data are in it, and its own policy lets it load nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Final

from headwaiter_load import capacity_figures, figures, markup, plots, units
from headwaiter_load.plots import Plot
from headwaiter_load.results import CapacityResult, GenerationFigures, Result, RunResult, Settings
from headwaiter_load.server_figures import server_sections
from headwaiter_load.server_plots import server_plots
from headwaiter_load.server_side import ServerSide, server_side

_FILES: Final = resources.files("headwaiter_load") / "page_files"
_FOOTER: Final = (
    "Latency counts from the time at which a call was due, so that a server that stalls is not spared the calls that"
    " came meanwhile. Point at a plot to read its values; drag to zoom, double-click to zoom out."
)


def write_html(result: Result, path: Path) -> None:
    """Write the report of a result.

    Raises:
        OSError: The file cannot be written.
        DecodingError: What the result holds of the server's metrics is nothing that this version has written.
    """
    path.write_text(capacity_page(result) if isinstance(result, CapacityResult) else run_page(result), encoding="utf-8")


def run_page(result: RunResult) -> str:
    """The report of one load."""
    content, drawn = _run(result)
    return assemble(_title(result.settings), _subtitle(result), content, drawn)


def capacity_page(result: CapacityResult) -> str:
    """The report of a search for capacity, and of its best run."""
    drawn = plots.capacity_plots(result) if result.steps else []
    content = [
        f"<p class=headline>{markup.text(capacity_figures.capacity_in_words(result))}</p>",
        markup.warnings([] if result.finished else ["The search did not go to its end."]),
        "<h2>The search</h2>",
        markup.frames(drawn),
        markup.tables([capacity_figures.search_section(result)]),
    ]
    if result.best is not None:
        rate = units.rate(result.capacity_per_second)
        best, best_drawn = _run(result.best)
        content += [f"<h2>The best run, {rate}</h2>", *best]
        drawn = [*drawn, *best_drawn]
    else:
        content.append(markup.tables([figures.settings_section(result.settings)]))
    return assemble(_title(result.settings, "Capacity"), _subtitle(result), content, drawn)


def _run(result: RunResult) -> tuple[list[str], list[Plot]]:
    server = None if result.server is None else server_side(result.server)
    callers, servers = plots.run_plots(result), [] if server is None else server_plots(server)
    content = [
        _tiles(result),
        markup.warnings(figures.run_warnings(result, server)),
        "<h2>As the callers saw it</h2>",
        markup.frames(callers),
        markup.tables(figures.run_sections(result)),
        "<h2>As the server saw it</h2>",
        *_server(server, servers),
        "<h2>What was asked for</h2>",
        markup.tables([figures.settings_section(result.settings)]),
    ]
    return content, [*callers, *servers]


def _server(server: ServerSide | None, drawn: list[Plot]) -> list[str]:
    if server is None:
        return ["<p>Its metrics were not read: give <code>--metrics-url http://HOST:PORT/metrics</code>.</p>"]
    if server.totals is None:
        return [f"<p>Its metrics could not be read: {markup.text(server.problem or 'there was one reading only')}.</p>"]
    of = f"of the model {server.model}" if server.model else "of all its models"
    source = f"From {server.metrics_url}, {of}, other callers' calls among them."
    parts = server.totals.stretch.parts
    return [
        f"<p class=note>{markup.text(source)}</p>",
        "" if parts is None or not parts.total else markup.parts_bar(parts),
        markup.tables(server_sections(server)),
        markup.frames(drawn),
    ]


def _tiles(result: RunResult) -> str:
    latency = result.latency
    times: dict[str, float | None] = {**latency.percentiles, "max": latency.max_seconds} if latency.count else {}
    busiest = max((process.cpu_share for process in result.tester.processes), default=None)
    failed = f"{units.count(result.failed)} of {units.count(result.scheduled)} calls"
    return markup.tiles(
        [
            markup.tile(
                "Answered", figures.rate(result.answered_per_second), f"of {units.rate(result.offered_per_second)} due"
            ),
            markup.tile("Texts", figures.rate(result.texts_per_second), f"{units.count(result.texts)} in all"),
            markup.tile("p50", figures.seconds(times.get("50")), f"p90 {units.seconds(times.get('90'))}"),
            markup.tile("p99", figures.seconds(times.get("99")), f"p99.9 {units.seconds(times.get('99.9'))}"),
            markup.tile("Longest", figures.seconds(times.get("max"))),
            *_token_tiles(result.generation),
            markup.tile("Failed", figures.share(result.error_ratio), failed, bad=result.failed > 0),
            markup.tile(
                "Tester's CPU", figures.share(busiest), "of one core, its busiest process", bad=result.tester.bottleneck
            ),
        ]
    )


def _token_tiles(generation: GenerationFigures | None) -> Iterable[str]:
    if generation is None:
        return
    in_all = f"{units.count(generation.tokens)} in all"
    yield markup.tile("Tokens", figures.rate(generation.tokens_per_second), in_all)
    for name, times in (
        ("First token, p50", generation.first_token),
        ("Between tokens, p50", generation.between_tokens),
    ):
        if times is not None:
            yield markup.tile(name, figures.seconds(times.p50_seconds), f"p99 {units.seconds(times.p99_seconds)}")


def _title(settings: Settings, what: str = "Load test") -> str:
    of = f" of {settings.model}" if settings.model else ""
    return f"{what}{of} at {settings.target}"


def _subtitle(result: Result) -> str:
    settings = result.settings
    words = (
        figures.load_in_words(settings) if isinstance(result, RunResult) else "search for the highest rate",
        settings.workload,
        f"begun {result.started_at}",
        f"headwaiter-load {result.tool_version}",
    )
    return " · ".join(filter(None, words))


def assemble(title: str, subtitle: str, content: Iterable[str], drawn: Iterable[Plot]) -> str:
    """A whole page.

    Args:
        title: Plain text.
        subtitle: Plain text.
        content: HTML.
        drawn: Plots; their frames are in the content.
    """
    data = json.dumps([asdict(plot) for plot in drawn], allow_nan=False, separators=(",", ":"))
    return _filled(
        _file("page.html"),
        {
            "title": markup.text(title),
            "subtitle": markup.text(subtitle),
            "content": "\n".join(filter(None, content)),
            "footer": markup.text(_FOOTER),
            "plots": markup.json_block(data),
            "css": _file("page.css"),
            "js": _file("page.js"),
            "uplot_css": _file("uplot/uPlot.min.css"),
            "uplot_js": _file("uplot/uPlot.iife.min.js"),
        },
    )


def _filled(template: str, values: Mapping[str, str]) -> str:
    # In one pass: what is filled in may itself look like a place to fill.
    return re.sub(r"\{\{(\w+)\}\}", lambda place: values[place[1]], template)


def _file(name: str) -> str:
    return (_FILES / name).read_text(encoding="utf-8")
