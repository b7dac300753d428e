"""JSON values to dataclasses, strictly: an unknown, missing or mistyped field is an error that names it."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any, Literal, TypeVar, cast

T = TypeVar("T")


class DecodingError(ValueError):
    """A file does not hold what it should; the message says where."""


def decode(kind: type[T], value: object, where: str = "it") -> T:
    """A value of a type made of dataclasses, tuples, dictionaries by text, unions, literals and plain values.

    Args:
        kind: The type.
        value: What `json.loads` gave.
        where: Path of the value, for messages.

    Raises:
        DecodingError: The value is no such thing.
    """
    return cast("T", _decoded(kind, value, where))


def _decoded(kind: Any, value: object, where: str) -> object:  # noqa: ANN401, PLR0911 - a type, or a form of typing's
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if dataclasses.is_dataclass(kind):
        return _dataclass(cast("type[object]", kind), value, where)
    if origin is Literal:
        if value not in arguments:
            raise DecodingError(f"{where} is {value!r}, none of {', '.join(map(repr, arguments))}")
        return value
    if origin is types.UnionType:
        return _member(arguments, value, where)
    if origin is tuple:
        _check(list, value, where)
        return tuple(
            _decoded(arguments[0], each, f"{where}[{n}]") for n, each in enumerate(cast("list[object]", value))
        )
    if origin is dict:
        _check(dict, value, where)
        items = cast("dict[str, object]", value).items()
        return {key: _decoded(arguments[1], each, f"{where}.{key}") for key, each in items}
    if kind is float and type(value) is int:
        return float(value)
    _check(kind, value, where)
    return value


def _dataclass(kind: type[object], value: object, where: str) -> object:
    _check(dict, value, where)
    fields = cast("dict[str, object]", value)
    hints = typing.get_type_hints(kind)
    known = {field.name: field for field in dataclasses.fields(cast("Any", kind))}
    if unknown := sorted(fields.keys() - known.keys()):
        raise DecodingError(f"{where} has the unknown field {unknown[0]!r}")
    missing = [name for name, field in known.items() if name not in fields and field.default is dataclasses.MISSING]
    if missing:
        raise DecodingError(f"{where} lacks the field {missing[0]!r}")
    return kind(**{name: _decoded(hints[name], each, f"{where}.{name}") for name, each in fields.items()})


def _member(kinds: tuple[Any, ...], value: object, where: str) -> object:
    """Of unions there are only those with None."""
    if value is None and types.NoneType in kinds:
        return None
    (kind,) = (each for each in kinds if each is not types.NoneType)
    return _decoded(kind, value, where)


def _check(kind: type, value: object, where: str) -> None:
    # A boolean is an int to Python, never to these files.
    if type(value) is not kind:
        raise DecodingError(f"{where} is {value!r}, no {kind.__name__}")
