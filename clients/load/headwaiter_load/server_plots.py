"""The plots of the server's own figures: over time, and its batches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from headwaiter_load.plots import Plot, Series, Values
from headwaiter_load.server_side import ServerSide


def server_plots(server: ServerSide) -> list[Plot]:
    """The server's own figures over time, and its batches."""
    stretches = server.stretches
    if server.totals is None or not stretches:
        return []
    middle = [(stretch.begin_seconds + stretch.end_seconds) / 2 for stretch in stretches]

    def part(name: str) -> Values:
        return [None if stretch.parts is None else getattr(stretch.parts, name) for stretch in stretches]

    def figure(name: str) -> Values:
        return [getattr(stretch, name) for stretch in stretches]

    def plot(name: str, title: str, unit: Literal["seconds", "share", "number"], *series: Series) -> Plot:
        return Plot(name, title, "time, s", "time", middle, unit, series)

    plots = [
        plot(
            "server-parts",
            "Where the server's time goes, mean of its calls",
            "seconds",
            Series("inference", 1, part("inference"), "area"),
            Series("queue", 2, part("queue"), "area"),
            Series("waiting for batch-mates", 4, part("batch_wait"), "area"),
            Series("tokenizing", 6, part("tokenize"), "area"),
            Series("rest", 5, part("rest"), "area"),
        ),
        plot(
            "server-shares",
            "Saturation and padding",
            "share",
            Series("saturation of the workers", 1, figure("saturation")),
            Series("padding, of computed tokens", 2, figure("padding_ratio")),
        ),
        plot(
            "server-texts",
            "Texts waiting and running",
            "number",
            Series("waiting", 2, figure("queue_depth")),
            Series("running", 1, figure("running_texts")),
        ),
        plot(
            "server-batches",
            "Batches, mean",
            "number",
            Series("tokens in a run", 1, figure("tokens_per_run")),
            Series("texts in a run", 2, figure("texts_per_run")),
        ),
    ]
    if server.totals.batch_tokens:
        plots.append(_histogram("server-batch-tokens", "Runs by their tokens", "tokens", server.totals.batch_tokens))
    if server.totals.batch_size:
        plots.append(_histogram("server-batch-size", "Runs by their texts", "texts", server.totals.batch_size))
    return [each for each in plots if any(value is not None for series in each.series for value in series.values)]


def _histogram(name: str, title: str, of: str, buckets: Sequence[tuple[float, int]]) -> Plot:
    filled = [number for number, (_, runs) in enumerate(buckets) if runs]
    shown = range(filled[0], filled[-1] + 1) if filled else range(0)
    runs = sum(count for _, count in buckets)
    return Plot(
        name=name,
        title=title,
        x_label=of,
        x_kind="bucket",
        x=list(range(len(shown))),
        y_unit="share",
        series=[Series("of all runs", 1, [buckets[number][1] / runs for number in shown], "bars")],
        buckets=[_bucket_label(buckets, number) for number in shown],
    )


def _bucket_label(buckets: Sequence[tuple[float, int]], number: int) -> str:
    low = buckets[number - 1][0] + 1 if number else 1
    high = buckets[number][0]
    if math.isinf(high):
        return f"{low:g}+"
    return f"{low:g}" if low == high else f"{low:g}-{high:g}"
