"""The report for the terminal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from headwaiter_load import capacity_figures, figures
from headwaiter_load.figures import Cell, Figure, Section
from headwaiter_load.results import CapacityResult, Result, RunResult
from headwaiter_load.server_figures import server_sections
from headwaiter_load.server_side import server_side

if TYPE_CHECKING:
    from rich.console import Console


def print_result(result: Result, console: Console) -> None:
    """Print everything that was found out.

    Raises:
        DecodingError: What the result holds of the server's metrics is nothing that this version has written.
    """
    if isinstance(result, CapacityResult):
        print_sections([capacity_figures.search_section(result)] if result.steps else [], console)
        if result.best is not None:
            _print_run(result.best, console)
        console.print(f"\n[bold]{escape(capacity_figures.capacity_in_words(result))}[/bold]")
    else:
        _print_run(result, console)


def _print_run(result: RunResult, console: Console) -> None:
    server = None if result.server is None else server_side(result.server)
    console.print(f"\n[bold]{escape(result.settings.target)}[/bold]: {escape(figures.load_in_words(result.settings))}")
    print_sections(figures.run_sections(result), console)
    if server is not None:
        print_sections(server_sections(server), console)
    print_warnings(figures.run_warnings(result, server), console)


def print_sections(sections: Iterable[Section], console: Console) -> None:
    """Print tables."""
    for section in sections:
        table = Table(
            title=escape(section.title), title_justify="left", title_style="bold", caption=escape(section.note) or None,
            caption_justify="left", box=None, show_header=any(section.columns), pad_edge=False, padding=(0, 2, 0, 0),
        )  # fmt: skip
        for number, column in enumerate(section.columns):
            words = number == 0 or any(isinstance(row[number], str) and row[number] != "" for row in section.rows)
            # Narrow terminals break lines, but no words.
            texts = [column, *(_text(row[number]) for row in section.rows)]
            longest_word = max((len(word) for text in texts for word in text.split()), default=0)
            table.add_column(
                escape(column), justify="left" if words else "right", overflow="fold", min_width=longest_word
            )
        for row in section.rows:
            table.add_row(*map(_cell, row))
        console.print()
        console.print(table)


def print_warnings(warnings: Iterable[str], console: Console) -> None:
    """Print what makes figures doubtful."""
    for number, warning in enumerate(warnings):
        if not number:
            console.print()
        console.print(f"[yellow]warning:[/yellow] {escape(warning)}", soft_wrap=True)


def _cell(cell: Cell) -> str:
    return escape(_text(cell))


def _text(cell: Cell) -> str:
    return cell.text if isinstance(cell, Figure) else cell
