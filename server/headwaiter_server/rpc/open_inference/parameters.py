"""Parameters of requests: their values, and those that the protocol reserves."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeVar

from headwaiter_proto.inference import grpc_service_pb2

from headwaiter_server.errors import InvalidRequestError, UnsupportedError
from headwaiter_server.rpc.crossing import MAX_PRIORITY

Value = bool | int | float | str
Kind = TypeVar("Kind", bool, int, float, str)
Parameters = Mapping[str, grpc_service_pb2.InferParameter]

# Told of every answer on a stream: whether it is its request's last.
FINAL_RESPONSE: Final = "triton_final_response"
# Of tensors that do not travel; `shared_memory` reads them.
SHARED_MEMORY: Final = frozenset({"shared_memory_region", "shared_memory_byte_size", "shared_memory_offset"})

_RESERVED_PREFIX = "triton_"
_KINDS: dict[type, str] = {bool: "a bool", int: "an integer", float: "a double", str: "a string"}
MOST_SHOWN = 100
_LONGEST_VERSION = 18
_MICROSECONDS = 1_000_000


def path(name: str) -> str:
    """Where a parameter stands in a request."""
    return f"parameters[{name[:MOST_SHOWN]}]"


def read_version(text: str, field: str = "model_version") -> int:
    """The version that a request asks for; 0 where it leaves the choice to the server.

    Args:
        text: What it says.
        field: Where it says so.

    Raises:
        InvalidRequestError: It is no whole number from 1.
    """
    if not text:
        return 0
    if len(text) > _LONGEST_VERSION or not (text.isascii() and text.isdecimal()) or not int(text):
        raise InvalidRequestError(field, f"is {text[:MOST_SHOWN]!r}, expected a whole number from 1")
    return int(text)


def read_value(where: str, parameter: grpc_service_pb2.InferParameter) -> Value:
    """The value of a parameter.

    Raises:
        InvalidRequestError: It has none.
    """
    choice = parameter.WhichOneof("parameter_choice")
    if choice is None:
        raise InvalidRequestError(where, "has no value")
    value: Value = getattr(parameter, choice)
    return value


def expect(where: str, value: Value, kind: type[Kind]) -> Kind:
    """A value of the kind that is expected.

    Raises:
        InvalidRequestError: It is of another.
    """
    if type(value) is not kind:  # a bool is an int, too
        raise InvalidRequestError(where, f"is {_KINDS[type(value)]}, expected {_KINDS[kind]}")
    return value


def check_known(field: str, parameters: Parameters, known: Collection[str]) -> None:
    """Refuse parameters of a tensor that would be without effect.

    Args:
        field: The tensor's path in the request.
        parameters: Its parameters.
        known: Those that have one.

    Raises:
        InvalidRequestError: There are others.
    """
    for name in parameters:
        if name not in known:
            raise InvalidRequestError(f"{field}.{path(name)}", f"is not known; known are {', '.join(sorted(known))}")


@dataclass(slots=True)
class Asked:
    """What the parameters of a request say.

    Attributes:
        timeout_seconds: For how long the answer is wanted; None without a limit.
        priority: 1 is served first; 0 for the default.
        options: What else they say, to the task.
    """

    timeout_seconds: float | None = None
    priority: int = 0
    options: dict[str, Value] = field(default_factory=dict)


def read_parameters(parameters: Parameters) -> Asked:
    """What the parameters of a request say.

    Raises:
        InvalidRequestError: One that the protocol reserves is out of range, or of another kind.
        UnsupportedError: One asks for what this server does not do.
    """
    asked = Asked()
    for name, parameter in parameters.items():
        where = path(name)
        value = read_value(where, parameter)
        read = _RESERVED.get(name)
        if read is not None:
            read(asked, where, value)
        elif name.startswith(_RESERVED_PREFIX):
            raise InvalidRequestError(where, f"is not known: names that begin with {_RESERVED_PREFIX} are reserved")
        else:
            asked.options[name] = value
    return asked


def _read_priority(asked: Asked, where: str, value: Value) -> None:
    priority = expect(where, value, int)
    if not 0 <= priority <= MAX_PRIORITY:
        raise InvalidRequestError(
            where, f"is {priority}, expected 1 (first) to {MAX_PRIORITY}, or 0 for the server's default"
        )
    asked.priority = priority


def _read_timeout(asked: Asked, where: str, value: Value) -> None:
    microseconds = expect(where, value, int)
    if microseconds < 0:
        raise InvalidRequestError(where, f"is {microseconds}, expected microseconds from 0, which is no limit")
    asked.timeout_seconds = microseconds / _MICROSECONDS if microseconds else None


def _read_sequence(_asked: Asked, where: str, value: Value) -> None:
    # False, 0 and "" are what requests that are part of none say.
    if value:
        raise UnsupportedError(where, "asks for a sequence of requests, which no model here has")


def _read_binary_output(_asked: Asked, where: str, value: Value) -> None:
    if not expect(where, value, bool):
        raise UnsupportedError(where, "is false, but the elements of outputs always travel as raw_output_contents")


def _read_headers(_asked: Asked, where: str, _value: Value) -> None:
    raise UnsupportedError(where, "is kept for what servers forward to models, and this one forwards nothing")


def _read_final_response(_asked: Asked, where: str, value: Value) -> None:
    # The last answer to a request has contents, and on streams says that it is the last: an empty one never follows.
    expect(where, value, bool)


_RESERVED: dict[str, Callable[[Asked, str, Value], None]] = {
    "priority": _read_priority,
    "timeout": _read_timeout,
    "sequence_id": _read_sequence,
    "sequence_start": _read_sequence,
    "sequence_end": _read_sequence,
    "binary_data_output": _read_binary_output,
    "headers": _read_headers,
    "triton_enable_empty_final_response": _read_final_response,
}
