"""The figures of the server's own metrics, as the terminal and the page show them."""

from __future__ import annotations

from collections.abc import Mapping

from headwaiter_load import units
from headwaiter_load.figures import Cell, Figure, Section, count, number, seconds, share
from headwaiter_load.server_side import Parts, ServerSide, Stretch, Totals


def server_sections(server: ServerSide) -> list[Section]:
    """What the server's own metrics say; nothing without readings."""
    totals = server.totals
    if totals is None:
        return []
    sections = [_workers(totals)]
    if totals.stretch.parts is not None:
        sections.insert(0, _times(totals.stretch, totals.stretch.parts))
    if totals.reasons:
        sections.append(_reasons(totals.reasons))
    return sections


def _times(stretch: Stretch, parts: Parts) -> Section:
    times = {
        "Tokenizing": parts.tokenize,
        "Queue": parts.queue,
        "Waiting for batch-mates": parts.batch_wait,
        "Inference": parts.inference,
        "Rest": parts.rest,
    }
    rows: list[tuple[Cell, ...]] = [
        (name, seconds(value), share(value / parts.total if parts.total else None)) for name, value in times.items()
    ]
    rows.append(("Server's latency", seconds(stretch.mean_seconds), ""))
    note = f"means of the {units.count(stretch.calls)} calls that it saw"
    return Section("Where the server's time goes", ("", "mean", "share"), tuple(rows), note)


def _workers(totals: Totals) -> Section:
    stretch = totals.stretch
    rows: tuple[tuple[str, Figure], ...] = (
        ("Saturation of the workers", share(stretch.saturation)),
        ("Processors used by the server", number(stretch.cores)),
        ("Runs", count(stretch.runs)),
        ("Texts in a run, mean", number(stretch.texts_per_run)),
        ("Tokens in a run, mean", number(stretch.tokens_per_run)),
        ("Length of a run, mean", seconds(stretch.run_seconds)),
        ("Padding, of computed tokens", share(stretch.padding_ratio)),
        ("First token after, mean", seconds(totals.first_token_seconds)),
        ("Between tokens, mean", seconds(totals.inter_token_seconds)),
        ("Processor time wasted on dead calls", share(totals.wasted_cpu_ratio)),
        ("Deadlines met", share(totals.deadlines_met_ratio)),
        ("Memory of its process at the end", Figure(stretch.resident_bytes, units.byte_count(stretch.resident_bytes))),
    )
    known = tuple(row for row in rows if row[1].value is not None)
    return Section("Batches and workers", ("", ""), known)


def _reasons(reasons: Mapping[str, int]) -> Section:
    runs = sum(reasons.values())
    rows = tuple((reason, count(closed), share(closed / runs)) for reason, closed in reasons.items())
    return Section("Why batches closed", ("", "runs", "share"), rows)
