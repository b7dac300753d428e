"""A heat map as a drawing that needs nothing else: SVG, by itself or in an HTML page."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Final
from xml.etree import ElementTree as ET

from headwaiter.columns import shown

if TYPE_CHECKING:
    from pathlib import Path

    from headwaiter.heat_map import HeatMap

SUFFIXES: Final = (".svg", ".html")

_CELL: Final = 18
_LETTER: Final = 7.5
_GAP: Final = 6
_TITLE: Final = 26
_COLOR: Final = "#2563eb"
_PAGE: Final = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>{title}</title>
<style>:root {{ color-scheme: light dark; }} body {{ margin: 1rem; overflow-x: auto; }}</style>
{drawing}
</html>
"""


def write_plot(it: HeatMap, title: str, path: Path) -> None:
    """Writes a drawing of a heat map; its shares are told where one points at them.

    Args:
        it: What to draw.
        title: What it is of.
        path: A file that ends in one of `SUFFIXES`.

    Raises:
        OSError: It cannot be written.
    """
    drawing = ET.tostring(_drawing(it, shown(title)), encoding="unicode")
    page = _PAGE.format(title=escape(shown(title)), drawing=drawing) if path.suffix == ".html" else drawing + "\n"
    path.write_text(page, encoding="utf-8")


def _drawing(it: HeatMap, title: str) -> ET.Element:
    left = _GAP + max((len(name) for name in it.rows), default=0) * _LETTER
    top = _TITLE + _GAP + max((len(name) for name in it.columns), default=0) * _LETTER
    width = max(left + len(it.columns) * _CELL, len(title) * _LETTER) + _GAP
    height = top + len(it.rows) * _CELL + _GAP
    attributes = {"xmlns": "http://www.w3.org/2000/svg", "font-family": "ui-monospace, monospace", "font-size": "12"}
    size = {"width": f"{width:g}", "height": f"{height:g}", "viewBox": f"0 0 {width:g} {height:g}"}
    svg = ET.Element("svg", attributes | size | {"fill": "currentColor"})
    _text(svg, title, x=_GAP, y=_TITLE - _GAP)
    for column, name in enumerate(it.columns):
        x, y = left + (column + 0.7) * _CELL, top - _GAP
        _text(svg, name, x=x, y=y, transform=f"rotate(-90 {x:g} {y:g})")
    for row, (name, shares) in enumerate(zip(it.rows, it.shares, strict=True)):
        y = top + row * _CELL
        _text(svg, name, x=left - _GAP, y=y + 0.7 * _CELL, anchor="end")
        for column, share in enumerate(shares):
            cell = ET.SubElement(svg, "rect", _cell(left + column * _CELL, y, share, it.largest))
            words = f"{shown(name)} \N{RIGHTWARDS ARROW} {shown(it.columns[column])}: {share * 100:.1f} %"
            ET.SubElement(cell, "title").text = words
    return svg


def _cell(x: float, y: float, share: float, largest: float) -> dict[str, str]:
    opacity = share / largest if largest else 0.0
    return {
        "x": f"{x:g}",
        "y": f"{y:g}",
        "width": str(_CELL - 1),
        "height": str(_CELL - 1),
        "fill": _COLOR,
        # What is next to nothing can still be pointed at.
        "fill-opacity": f"{max(opacity, 0.02):.3f}",
    }


def _text(svg: ET.Element, text: str, *, x: float, y: float, anchor: str = "start", transform: str = "") -> None:
    place = {"x": f"{x:g}", "y": f"{y:g}", "text-anchor": anchor} | ({"transform": transform} if transform else {})
    ET.SubElement(svg, "text", place).text = shown(text)
