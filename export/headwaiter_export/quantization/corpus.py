"""Texts to choose and to certify on: the user's own, or a set that every installation has.

The default ones are English in two very different tones: documentation of Python's standard library (first
sentences of docstrings, paragraphs of `pydoc_data.topics`) and licences (sentences of the notices that come with
onnxruntime). Both come out the same wherever Python and onnxruntime are the same.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import re
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics
from typing import Final

import onnxruntime

from headwaiter_export.errors import TextsError

# Of each set. More tells little more, and takes longer.
TEXTS: Final = 600
# Half of a user's own texts must still show what a share of them is.
FEWEST_TEXTS: Final = 32
_NOTICES: Final = "ThirdPartyNotices.txt"
_PARAGRAPHS_EVERY: Final = 4
_LONGEST_CHARACTERS: Final = 1000
_FEWEST_WORDS: Final = 5
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"(])")


@dataclass(frozen=True)
class Corpus:
    """Texts in sets that do not meet.

    Attributes:
        choosing: What scales, layers and roundings are chosen on.
        certifying: The sets that only the certificate sees, by name.
    """

    choosing: list[str]
    certifying: dict[str, list[str]]


def default_corpus() -> Corpus:
    """Documentation, halved, and licences."""
    choosing, held_out = halves([*_documentation()])
    return Corpus(
        choosing[:TEXTS],
        {"held-out texts": held_out[:TEXTS], "another domain": ordered(_licences())[:TEXTS]},
    )


def corpus_of(path: Path) -> Corpus:
    """A user's own texts, one a line, halved; licences are still the other domain.

    Raises:
        TextsError: The file cannot be read, or a half of it is too small.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise TextsError(f"{path}: cannot be read as texts: {error}") from error
    choosing, held_out = halves([line.strip() for line in lines if line.strip()])
    if min(len(choosing), len(held_out)) < FEWEST_TEXTS:
        raise TextsError(
            f"{path}: {len(choosing)} different texts to choose on and {len(held_out)} to certify on;"
            f" at least {FEWEST_TEXTS} of each are needed"
        )
    # What is in the user's texts must not decide about them from another set.
    known = {*choosing, *held_out}
    other = [text for text in ordered(_licences()) if text not in known]
    return Corpus(choosing[:TEXTS], {"held-out texts": held_out[:TEXTS], "another domain": other[:TEXTS]})


def halves(texts: Iterable[str]) -> tuple[list[str], list[str]]:
    """Split by a hash of the text itself, so that a text is in the same half whatever stands beside it."""
    parts: tuple[list[str], list[str]] = ([], [])
    for text in ordered(texts):
        parts[_digest(text)[-1] & 1].append(text)
    return parts


def ordered(texts: Iterable[str]) -> list[str]:
    """Each text once, in an order that has nothing to do with where it stood."""
    return sorted(set(texts), key=_digest)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _documentation() -> Iterator[str]:
    """Short texts, and a quarter as many long ones."""
    short = ordered(_docstrings())
    long = [paragraph for _, body in sorted(topics.items()) for paragraph in _paragraphs(body)]
    yield from short
    yield from ordered(long)[: len(short) // _PARAGRAPHS_EVERY]


def _docstrings() -> Iterator[str]:
    """First sentences, read from the source: importing modules would run them."""
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):  # a file that is no module of this Python
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                text = ast.get_docstring(node)
                first = _sentences(inspect.cleandoc(text).split("\n\n")[0])[:1] if text else []
                yield from filter(_is_prose, first)


def _licences() -> Iterator[str]:
    notices = Path(onnxruntime.__file__).with_name(_NOTICES)
    try:
        text = notices.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise TextsError(f"{notices}: cannot be read as texts of another domain: {error}") from error
    for paragraph in _paragraphs(text):
        yield from filter(_is_prose, _sentences(paragraph))


def _paragraphs(text: str) -> Iterator[str]:
    for paragraph in re.split(r"\n\s*\n", text):
        joined = " ".join(paragraph.split())
        if _is_prose(joined):
            yield joined


def _sentences(paragraph: str) -> list[str]:
    return _SENTENCE_END.split(" ".join(paragraph.split()))


def _is_prose(text: str) -> bool:
    """Neither a signature nor a rule of dashes, nor a page in one piece."""
    words = re.findall(r"[A-Za-z]{2,}", text)
    letters = sum(map(len, words))
    return len(words) >= _FEWEST_WORDS and len(text) <= _LONGEST_CHARACTERS and 2 * letters > len(text)
