"""Several results on one HTML page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from headwaiter_load import figures, markup, page
from headwaiter_load.compare import Comparison, changes_section
from headwaiter_load.comparison_plots import capacity_comparison_plots, comparison_plots, throughput_plots
from headwaiter_load.plots import Plot
from headwaiter_load.results import CapacityResult, Result, RunResult


def write_comparison(
    comparison: Comparison, results: tuple[Result, Result], names: tuple[str, str], path: Path
) -> None:
    """Write the page.

    Args:
        comparison: Of the results.
        results: Both.
        names: What to call each.
        path: The file.

    Raises:
        OSError: It cannot be written.
    """
    drawn = _plots(*results, names)
    content = [
        markup.warnings(comparison.remarks),
        markup.tables([changes_section(comparison, names)]),
        markup.frames(drawn),
        *(
            f"<h2>{markup.text(name)}</h2>{markup.tables([figures.settings_section(result.settings)])}"
            for name, result in zip(names, results, strict=True)
        ),
    ]
    begun = " · ".join(f"{name} begun {result.started_at}" for name, result in zip(names, results, strict=True))
    path.write_text(page.assemble(f"{names[1]} against {names[0]}", begun, content, drawn), encoding="utf-8")


def write_several(runs: Mapping[str, RunResult], path: Path) -> None:
    """Write a page of runs at several rates.

    Raises:
        OSError: It cannot be written.
    """
    drawn = throughput_plots(runs)
    content = [
        markup.frames(drawn),
        markup.tables([figures.several_section(runs)]),
        *(
            f"<h2>{markup.text(name)}</h2>{markup.tables([figures.settings_section(run.settings)])}"
            for name, run in runs.items()
        ),
    ]
    path.write_text(page.assemble(f"{len(runs)} load tests", ", ".join(runs), content, drawn), encoding="utf-8")


def _plots(before: Result, after: Result, names: tuple[str, str]) -> list[Plot]:
    if isinstance(before, RunResult) and isinstance(after, RunResult):
        return comparison_plots(before, after, names)
    if isinstance(before, CapacityResult) and isinstance(after, CapacityResult):
        return capacity_comparison_plots(before, after, names)
    return []
