"""A soak drawn over its time, as the load tester draws its reports: memory, tasks and p99."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from headwaiter_load import markup
from headwaiter_load.page import assemble
from headwaiter_load.plots import Plot, Series, Values
from reliability.soak_samples import MIB, Sample


def write_page(path: Path, samples: Sequence[Sample]) -> None:
    """Write the page.

    Args:
        path: Where.
        samples: What is drawn.
    """
    times = [each.seconds for each in samples]
    intervals = [each for each in samples if each.p99_seconds]

    def of(read: Callable[[Sample], float]) -> Values:
        return [read(each) for each in samples]

    plots = [
        Plot(
            "memory", "Memory of the server, MiB", "seconds", "time", times, "number",
            [
                Series("resident", 1, of(lambda each: each.resident_bytes / MIB)),
                Series("its proportional part", 2, of(lambda each: each.proportional_bytes / MIB), "dashed"),
            ],
        ),
        Plot(
            "p99", "p99 of calls of one text", "seconds", "time", [each.seconds for each in intervals], "seconds",
            [
                Series("p99", 1, [each.p99_seconds for each in intervals]),
                Series("a little work beside", 2, [each.probe_seconds for each in intervals], "dashed"),
            ],
        ),
        Plot(
            "counts", "What the server has", "seconds", "time", times, "count",
            [
                Series("descriptors", 1, of(lambda each: each.descriptors)),
                Series("threads", 2, of(lambda each: each.threads)),
                Series("tasks", 3, of(lambda each: each.tasks)),
            ],
        ),
    ]  # fmt: skip
    subtitle = f"{samples[-1].calls:,} calls in {samples[-1].seconds / 60:.0f} minutes"
    path.write_text(assemble("Soak", subtitle, [markup.frames(plots)], plots), encoding="utf-8")
