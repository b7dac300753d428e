"""Reads a report's page as a browser would: its elements, tables, figures, and the data of its plots."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from typing import Any

# They have no end tag.
_VOID = {"meta", "br", "img", "link", "input", "hr"}
# Attributes that make a browser fetch something.
_FETCHING = {"src", "href", "srcset", "data", "action", "poster", "background"}


class Page(HTMLParser):
    """A page.

    Attributes:
        tables: Rows of texts by the title of their section, heads included.
        values: All numbers of `data` elements, by the title of their section.
        fetched: What it would load from elsewhere.
        ids: Ids of its elements.
        words: All text but scripts and styles.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.values: dict[str, list[float]] = {}
        self.fetched: list[str] = []
        self.ids: list[str] = []
        self.words = ""
        self.policy = ""
        self._open: list[str] = []
        self._title = ""
        self._data = ""
        self.feed(text)
        self.close()
        assert self._open == []

    @property
    def plots(self) -> dict[str, dict[str, Any]]:
        """The plots, by name."""
        return {plot["name"]: plot for plot in json.loads(self._data)}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.fetched += [f"{tag} {name}" for name in attributes if name in _FETCHING]
        self.ids += [attributes["id"] or ""] if "id" in attributes else []
        if attributes.get("http-equiv") == "Content-Security-Policy":
            self.policy = attributes["content"] or ""
        if tag not in _VOID:
            self._open.append(tag if attributes.get("id") != "plots" else "plots")
        if tag == "h3":
            self._title = ""
        elif tag == "tr":
            self.tables.setdefault(self._title, []).append([])
        elif tag in {"td", "th"}:
            self.tables[self._title][-1].append("")
        elif tag == "data":
            self.values.setdefault(self._title, []).append(float(attributes["value"] or "nan"))

    def handle_endtag(self, tag: str) -> None:
        opened = self._open.pop()
        assert tag == ("script" if opened == "plots" else opened)

    def handle_data(self, data: str) -> None:
        within = self._open[-1] if self._open else ""
        if within == "plots":
            self._data += data
        if within in {"plots", "script", "style"}:
            return
        self.words += data
        if within == "h3":
            self._title += data
        elif {"td", "th"} & set(self._open):
            self.tables[self._title][-1][-1] += data
