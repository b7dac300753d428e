"""Real texts that anyone has: the sentences of the standard library's own documentation.

`pydoc_data.topics` (the language reference, as `help()` shows it) and the docstrings of the library's modules, read
from their sources without importing them.
"""

from __future__ import annotations

import ast
import inspect
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics

# Packages whose docstrings are prose for people; tests and generated code are not among them.
_PACKAGES = (
    "asyncio", "collections", "concurrent", "email", "http", "importlib", "json", "logging", "multiprocessing",
    "unittest", "urllib", "xml",
)  # fmt: skip
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"'(])")
# A sentence, not a heading, a signature or a line of code.
_PROSE = re.compile(r"[A-Z\"'(].*[a-z)\"'][.!?]")
_LEAST_WORDS = 3
_LEAST_LETTERS = 0.75


def documents() -> list[list[str]]:
    """The sentences of each topic and docstring, in the order of the text; no sentence stands twice."""
    seen: set[str] = set()
    found = []
    for text in (*(topics[name] for name in sorted(topics)), *_docstrings()):
        sentences = [sentence for sentence in split_sentences(text) if sentence not in seen]
        seen.update(sentences)
        if sentences:
            found.append(sentences)
    return found


def split_sentences(text: str) -> list[str]:
    """The sentences of a text's paragraphs, each on one line; what is not prose is left out."""
    paragraphs = (" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", text))
    sentences = (sentence for paragraph in paragraphs for sentence in _SENTENCE_END.split(paragraph))
    return list(dict.fromkeys(filter(_is_prose, sentences)))


def _is_prose(sentence: str) -> bool:
    letters = sum(character.isalpha() or character == " " for character in sentence)
    return (
        _PROSE.fullmatch(sentence) is not None
        and len(sentence.split()) >= _LEAST_WORDS
        and letters >= _LEAST_LETTERS * len(sentence)
    )


def _docstrings() -> Iterator[str]:
    library = Path(sysconfig.get_path("stdlib"))
    sources = [*library.glob("*.py"), *(path for name in _PACKAGES for path in (library / name).rglob("*.py"))]
    for source in sorted(sources):
        for node in ast.walk(ast.parse(source.read_bytes())):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                yield inspect.cleandoc(ast.get_docstring(node) or "")
