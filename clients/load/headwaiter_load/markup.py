"""HTML text from figures: tables, tiles and frames for plots. Everything that came from outside is escaped here."""

from __future__ import annotations

import html
from collections.abc import Iterable

from headwaiter_load import units
from headwaiter_load.figures import Cell, Figure, Section
from headwaiter_load.plots import Plot
from headwaiter_load.server_side import Parts

# Field of `Parts`, its name, and its colour in the plots.
_PARTS = (
    ("tokenize", "tokenizing", 6),
    ("queue", "queue", 2),
    ("batch_wait", "waiting for batch-mates", 4),
    ("inference", "inference", 1),
    ("rest", "rest", 5),
)
# Words that are good or bad news.
_TONES = {"better": "good", "met": "good", "worse": "bad"}
_ENCLOSED = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"})


def text(value: str) -> str:
    """Text as it is, for HTML."""
    return html.escape(value)


def json_block(value: str) -> str:
    """JSON that may stand inside a script element: no text in it can end the element."""
    return value.translate(_ENCLOSED)


def cell(value: Cell) -> str:
    """A figure, with its number for programs, or words."""
    if not isinstance(value, Figure):
        return text(value)
    return text(value.text) if value.value is None else f'<data value="{value.value!r}">{text(value.text)}</data>'


def table(section: Section) -> str:
    """A section as a card with a table."""
    head = ""
    if any(section.columns):
        cells = zip(section.columns, section.rows[0] if section.rows else section.columns, strict=True)
        head = f"<thead><tr>{''.join(f'<th{_kind(below)}>{text(column)}</th>' for column, below in cells)}</tr></thead>"
    body = "".join(
        f"<tr><th scope=row>{cell(row[0])}</th>{''.join(map(_column, row[1:]))}</tr>" for row in section.rows
    )
    note = f"<p class=note>{text(section.note)}</p>" if section.note else ""
    return (
        f'<section class="card{" wide" if section.wide else ""}"><h3>{text(section.title)}</h3><div class=scroll>'
        f"<table>{head}<tbody>{body}</tbody></table></div>{note}</section>"
    )


def _column(value: Cell) -> str:
    return f"<td{_kind(value)}>{cell(value)}</td>"


def _kind(value: Cell) -> str:
    if isinstance(value, Figure) or not value:
        return ""
    return f' class="words {_TONES[value]}"' if value in _TONES else " class=words"


def tables(sections: Iterable[Section]) -> str:
    """Several, side by side."""
    return f"<div class=tables>{''.join(map(table, sections))}</div>"


def tile(name: str, figure: Figure, more: str = "", *, bad: bool = False) -> str:
    """One figure, large."""
    return (
        f'<div class="tile{" bad" if bad else ""}"><div class=name>{text(name)}</div>'
        f"<div class=value>{cell(figure)}</div><div class=more>{text(more)}</div></div>"
    )


def tiles(each: Iterable[str]) -> str:
    """Several, side by side."""
    return f"<div class=tiles>{''.join(each)}</div>"


def warnings(each: Iterable[str]) -> str:
    """What makes figures doubtful; nothing without any."""
    items = "".join(f"<li>{text(warning)}</li>" for warning in each)
    return f"<ul class=warnings>{items}</ul>" if items else ""


def frames(plots: Iterable[Plot]) -> str:
    """Where the script draws the plots."""
    figures = "".join(
        f'<figure class=card><figcaption>{text(plot.title)}</figcaption><div id="plot-{text(plot.name)}" role=img'
        f' aria-label="{text(plot.title)}"></div>{f"<p class=note>{text(plot.note)}</p>" if plot.note else ""}</figure>'
        for plot in plots
    )
    return f"<div class=grid>{figures}</div>" if figures else ""


def parts_bar(parts: Parts) -> str:
    """Where the server's time went, as one bar."""
    each = [(name, color, getattr(parts, field)) for field, name, color in _PARTS]
    bar = "".join(
        f"<span class=c{color} style='flex-grow:{seconds / parts.total:.6f}'></span>" for _, color, seconds in each
    )
    key = "".join(
        f"<span><i class='key c{color}'></i>{text(name)} {text(units.seconds(seconds))}</span>"
        for name, color, seconds in each
    )
    return (
        "<section class=card><h3>Where the server's time goes, mean of its calls</h3>"
        f"<div class=bar role=img aria-label='as in the table below'>{bar}</div><div class=keys>{key}</div></section>"
    )
