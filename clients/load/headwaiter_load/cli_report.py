"""The commands that read results: `report` and `compare`."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console

from headwaiter_load import results
from headwaiter_load.compare import Comparison, ComparisonError, changes_section
from headwaiter_load.compare import compare as compare_results
from headwaiter_load.comparison_page import write_comparison, write_several
from headwaiter_load.decoding import DecodingError
from headwaiter_load.figures import several_section
from headwaiter_load.gates import Gate
from headwaiter_load.page import write_html
from headwaiter_load.report import print_result, print_sections, print_warnings
from headwaiter_load.results import Result, RunResult

_GATE_TRIPPED: Final = 3

_RESULT = click.Path(path_type=Path, exists=True, dir_okay=False)
_PAGE = click.Path(path_type=Path, dir_okay=False, writable=True)


@click.command()
@click.argument("paths", metavar="RESULT.json...", type=_RESULT, nargs=-1, required=True)
@click.option(
    "--html", "page", metavar="FILE", type=_PAGE, help="Write one HTML page with plots; it needs nothing else."
)
def report(paths: tuple[Path, ...], page: Path | None) -> None:
    """Shows a result that was saved before.

    Of several runs, at several rates, it shows how latency grows with throughput.
    """
    loaded = {_name(path, paths): _load(path) for path in paths}
    try:
        if len(loaded) == 1:
            (result,) = loaded.values()
            print_result(result, Console())
            if page is not None:
                write_html(result, page)
            return
        runs = {name: result for name, result in loaded.items() if isinstance(result, RunResult)}
        if len(runs) < len(loaded):
            raise click.UsageError("of several results all must be runs; a search for capacity has a report of its own")
        print_sections([several_section(runs)], Console())
        if page is not None:
            write_several(runs, page)
    except (DecodingError, OSError) as error:
        raise click.ClickException(str(error)) from error


@click.command()
@click.argument("before", metavar="A.json", type=_RESULT)
@click.argument("after", metavar="B.json", type=_RESULT)
@click.option("--html", "page", metavar="FILE", type=_PAGE, help="Write one HTML page with both in the same plots.")
@click.option("--json", "as_json", is_flag=True, help="Print the changes as JSON.")
@click.option(
    "--certainty",
    type=click.FloatRange(0.5, 1.0, max_open=True),
    default=0.95,
    show_default=True,
    help="With which all intervals are to hold together.",
)
@click.option(
    "--fail-if",
    "gates",
    metavar="FIGURE>LIMIT",
    multiple=True,
    help=f"Exit with {_GATE_TRIPPED} if the change of a figure (B by A) is beyond a limit and no chance, such as"
    ' "p99>1.1" or "rate<0.95"; of "failed" the limit is a difference, "failed>0.001". Repeatable.',
)
def compare(
    *, before: Path, after: Path, page: Path | None, as_json: bool, certainty: float, gates: tuple[str, ...]
) -> None:
    """Compares two results of the same kind: what changed from A to B, and whether that may be chance.

    The intervals tell how far the figures of these two runs may be off. What differs from one run to the next, such as
    another state of the machine, no interval of two runs can hold: take turns, several times.
    """
    loaded = _load(before), _load(after)
    names = _name(before, (before, after)), _name(after, (before, after))
    try:
        wanted = [Gate.parsed(gate) for gate in gates]
        comparison = compare_results(*loaded, certainty)
        tripped = [gate for gate in wanted if gate.tripped(comparison.changes)]
        if page is not None:
            write_comparison(comparison, loaded, names, page)
    except (ComparisonError, DecodingError, OSError) as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        click.echo(json.dumps(_plain(comparison, tripped)))
    else:
        console = Console()
        print_sections([changes_section(comparison, names)], console)
        print_warnings(comparison.remarks, console)
    for gate in tripped:
        click.echo(f"beyond the gate {gate}", err=True)
    if tripped:
        raise click.exceptions.Exit(_GATE_TRIPPED)


def _load(path: Path) -> Result:
    try:
        return results.load(path)
    except (DecodingError, OSError) as error:
        raise click.ClickException(str(error)) from error


def _name(path: Path, among: tuple[Path, ...]) -> str:
    alike = [each for each in among if each.stem == path.stem]
    return path.stem if len(alike) == 1 else str(path)


def _plain(comparison: Comparison, tripped: list[Gate]) -> dict[str, Any]:
    def finite(interval: object) -> dict[str, float | None]:
        values = dataclasses.asdict(interval)  # type: ignore[call-overload]
        return {name: value if math.isfinite(value) else None for name, value in values.items()}

    changes = {
        change.name: {
            "before": finite(change.before),
            "after": finite(change.after),
            "change": finite(change.change),
            "is_difference": change.of_shares,
            "verdict": change.verdict,
        }
        for change in comparison.changes
    }
    return {
        "certainty": comparison.certainty,
        "changes": changes,
        "remarks": list(comparison.remarks),
        "tripped": [str(gate) for gate in tripped],
    }
