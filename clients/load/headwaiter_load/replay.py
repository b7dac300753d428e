"""Recorded traces: JSON lines, each a call with the time at which it came."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from headwaiter_load.errors import BadInputError
from headwaiter_load.words import text_of

_FIELDS: Final = frozenset({"offset_seconds", "texts", "lengths", "deadline_seconds"})


@dataclass(frozen=True, slots=True)
class TracedCall:
    """One call of a trace.

    Attributes:
        offset_seconds: When it came, from the beginning of the trace.
        texts: Its texts.
        deadline_seconds: Its deadline; None if it had none.
    """

    offset_seconds: float
    texts: tuple[str, ...]
    deadline_seconds: float | None


def read_trace(path: Path, seed: int) -> list[TracedCall]:
    """Reads a trace.

    A line is an object with `offset_seconds`, ascending; `texts`, or `lengths` in words where the texts themselves were
    not recorded; and `deadline_seconds` if it had one. Blank lines are skipped.

    Args:
        path: The file.
        seed: Of the texts that are made for lengths.

    Raises:
        BadInputError: A line is no such object, or there are none; names file and line.
        OSError: The file cannot be read.
    """
    dice = random.Random(seed)  # noqa: S311 - repeatable, not secret
    calls: list[TracedCall] = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                call = _call(json.loads(line), dice)
                if calls and call.offset_seconds < calls[-1].offset_seconds:
                    raise BadInputError(f"offset_seconds {call.offset_seconds} is before the line above")  # noqa: TRY301
            except (ValueError, BadInputError) as error:
                raise BadInputError(f"{path}, line {number}: {error}") from error
            calls.append(call)
    if not calls:
        raise BadInputError(f"{path} holds no calls")
    return calls


def _call(value: object, dice: random.Random) -> TracedCall:
    if not isinstance(value, dict):
        raise BadInputError("it is no JSON object")
    if unknown := sorted(value.keys() - _FIELDS):
        raise BadInputError(f"unknown field {unknown[0]!r}; there are {', '.join(sorted(_FIELDS))}")
    if ("texts" in value) == ("lengths" in value):
        raise BadInputError("it has either texts or lengths")
    deadline = value.get("deadline_seconds")
    return TracedCall(
        offset_seconds=_number(value, "offset_seconds", least=0.0),
        texts=_texts(value, dice),
        deadline_seconds=None if deadline is None else _number(value, "deadline_seconds", least=0.001),
    )


def _texts(value: dict[str, Any], dice: random.Random) -> tuple[str, ...]:
    if "texts" in value:
        return _items(value, "texts", lambda each: isinstance(each, str), "texts")
    lengths = _items(value, "lengths", lambda each: type(each) is int and each >= 1, "whole numbers from 1")
    return tuple(text_of(length, dice) for length in lengths)


def _items(value: dict[str, Any], name: str, accept: Callable[[Any], bool], what: str) -> tuple[Any, ...]:
    items = value[name]
    if not isinstance(items, list) or not items or not all(map(accept, items)):
        raise BadInputError(f"{name} is no list of {what}")
    return tuple(items)


def _number(value: dict[str, Any], name: str, *, least: float) -> float:
    number = value.get(name)
    if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number) or number < least:
        raise BadInputError(f"{name} is {number!r}, no number from {least:g}")
    return float(number)
