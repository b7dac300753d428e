"""Options of tasks: parameters of requests by their names in `headwaiter.v1`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from ctypes import c_float

from headwaiter_server.errors import InvalidRequestError
from headwaiter_server.rpc.open_inference.parameters import MOST_SHOWN, Kind, Value, expect, path

_LISTED: dict[type, str] = {int: "whole numbers", str: "strings"}
_LONGEST_NUMBER = 24
# Room for 16 strings of 256 characters, each written as an escape of a pair of surrogates.
_LONGEST_LIST = 65_536


class Options:
    """What a request asks of its task. Every option that is given must be known to the task."""

    __slots__ = ("_known", "_left")

    def __init__(self, given: Mapping[str, Value]) -> None:
        self._left = dict(given)
        self._known: list[str] = []

    def get(self, name: str, kind: type[Kind]) -> Kind | None:
        """The value of an option; None where it is not given.

        Raises:
            InvalidRequestError: It is of another kind.
        """
        value = self._value(name)
        return None if value is None else expect(path(name), value, kind)

    def flag(self, name: str) -> bool:
        """Whether an option is given and true; see `get`."""
        return self.get(name, bool) or False

    def count(self, name: str) -> int:
        """The value of an option that counts something, 0 where it is not given; see `get`."""
        value = self.get(name, int) or 0
        if value < 0:
            raise InvalidRequestError(path(name), f"is {value}, expected a whole number from 0")
        return value

    def whole(self, name: str) -> int | None:
        """The value of an option that is a whole number, also as a string; None where it is not given.

        Raises:
            InvalidRequestError: It is none.
        """
        value = self._value(name)
        if isinstance(value, str):
            if len(value) > _LONGEST_NUMBER or not value.removeprefix("-").isdecimal():
                raise InvalidRequestError(path(name), f"is {value[:MOST_SHOWN]!r}, expected a whole number")
            return int(value)
        return None if value is None else expect(path(name), value, int)

    def number(self, name: str) -> float | None:
        """The value of an option that is a number, also as a string, to the precision that `headwaiter.v1` has.

        So the same options give the same answer, whichever protocol they came by; None where it is not given.

        Raises:
            InvalidRequestError: It is none.
        """
        value = self._value(name)
        if isinstance(value, str):
            value = _read_number(name, value)
        if type(value) is int:  # a bool is an int, too
            value = float(value)
        return None if value is None else c_float(expect(path(name), value, float)).value

    def strings(self, name: str) -> tuple[str, ...]:
        """The value of an option that is a string, or a JSON list of strings where it begins with `[`.

        Raises:
            InvalidRequestError: It is neither.
        """
        value = self.get(name, str)
        if value is None:
            return ()
        return tuple(_json_list(name, value, str)) if value.startswith("[") else (value,)

    def numbers(self, name: str) -> frozenset[int]:
        """The value of an option that is a whole number, or a JSON list of them.

        Raises:
            InvalidRequestError: It is neither.
        """
        value = self._value(name)
        if isinstance(value, str):
            return frozenset(_json_list(name, value, int))
        return frozenset() if value is None else frozenset((expect(path(name), value, int),))

    def _value(self, name: str) -> Value | None:
        """The value of an option of any kind; None where it is not given."""
        if not self._left and not self._known:
            return None
        self._known.append(name)
        return self._left.pop(name, None)

    def end(self) -> None:
        """See that nothing was asked in vain; once the task has got all that it knows.

        Raises:
            InvalidRequestError: An option is not known.
        """
        for name in self._left:
            known = f"knows {', '.join(sorted(self._known))}" if self._known else "knows none"
            raise InvalidRequestError(path(name), f"is not known: this model {known}, beside those of the protocol")


def _read_number(name: str, text: str) -> float:
    """The number that a text is.

    Raises:
        InvalidRequestError: It is none.
    """
    if len(text) <= _LONGEST_NUMBER:
        with suppress(ValueError):
            return float(text)
    raise InvalidRequestError(path(name), f"is {text[:MOST_SHOWN]!r}, expected a number")


def _json_list(name: str, text: str, kind: type[Kind]) -> list[Kind]:
    """The entries of a list, all of one kind.

    Raises:
        InvalidRequestError: The text is no such list.
    """
    if len(text) > _LONGEST_LIST:
        raise InvalidRequestError(path(name), f"has {len(text)} characters, the limit is {_LONGEST_LIST}")
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError):
        entries = None
    if not isinstance(entries, list) or any(type(entry) is not kind for entry in entries):
        raise InvalidRequestError(path(name), f"is {text[:MOST_SHOWN]!r}, expected a JSON list of {_LISTED[kind]}")
    return entries
