"""A look at a protobuf message before it is parsed, so that what is too much is refused for the price of the limit.

Protocol buffers' wire format: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from headwaiter_server.errors import InvalidRequestError

# Fields of a request beside its texts; unknown ones of later versions among them.
_MOST_OTHER_FIELDS = 64
# A tag and a length, or a tag and a value; the tags of groups, which have neither, are never sent.
_SMALLEST_FIELD_BYTES = 2

_VARINT, _FIXED64, _LENGTH_DELIMITED, _START_GROUP, _END_GROUP, _FIXED32 = range(6)
_VALUE_BYTES = {_FIXED64: 8, _START_GROUP: 0, _END_GROUP: 0, _FIXED32: 4}
_OTHERS = ""  # no field has this name
_LONGEST_VARINT_BYTES = 10
_MORE = 0x80  # the bit of a varint's byte that says that another follows


@dataclass(frozen=True)
class Few:
    """A repeated field that has a limit of its own; it counts among the other fields as well.

    Attributes:
        name: Its name.
        most: Most entries.
        packed: Whether its entries are varints, one behind the other in one field.
    """

    name: str
    most: int
    packed: bool = False


@dataclass(frozen=True)
class Counted:
    """What is counted in a message; nothing has to be, where all its fields stand once.

    Attributes:
        entries: Its repeated fields, whose entries are length-delimited: number to name.
        inside: Its fields that are messages in which is counted as well. To protocol buffers such a field that is sent
            several times is one message, so its parts count together.
        few: Its repeated fields with limits of their own.
    """

    entries: Mapping[int, str] = field(default_factory=dict)
    inside: Mapping[int, Counted] = field(default_factory=dict)
    few: Mapping[int, Few] = field(default_factory=dict)


def check_field_counts(data: bytes, counted: Counted, limit: int = 0) -> None:
    """Refuse a message with too many entries of a repeated field, or too many fields besides.

    Stops at the first field over a limit. Where the bytes are no message it stops, too: the parser says so better.

    Args:
        data: The message.
        counted: What to count.
        limit: Most entries of each repeated field that is counted.

    Raises:
        InvalidRequestError: There are more.
    """
    if len(data) <= limit * _SMALLEST_FIELD_BYTES:
        return
    try:
        _count(data, 0, len(data), counted, limit, Counter())
    except (IndexError, KeyError):
        return


def read_number(data: bytes, number: int) -> int:
    """The value of a varint field, from a message that may be too much to parse.

    Args:
        data: The message.
        number: Number of the field.

    Returns:
        Its value; 0 where it is missing or the bytes are no message.
    """
    value = position = groups = 0
    try:
        for _ in range(_MOST_OTHER_FIELDS):
            if position >= len(data):
                break
            tag, start, position = next_field(data, position)
            groups += (tag & 7 == _START_GROUP) - (tag & 7 == _END_GROUP)
            # What stands in a group, of which we have none, is no field of the message.
            if tag == number << 3 | _VARINT and not groups:
                value, _ = read_varint(data, start)
    except (IndexError, KeyError):
        return 0
    return value % (1 << 64)


def _count(data: bytes, position: int, end: int, counted: Counted, limit: int, counts: Counter[str]) -> None:
    """Count the fields between two positions, on top of what was counted before."""
    while position < end:
        tag, start, position = next_field(data, position)
        number = tag >> 3 if tag & 7 == _LENGTH_DELIMITED else 0  # no field has this number
        name = counted.entries.get(number)
        if name is not None:
            counts[name] += 1
            if counts[name] > limit:
                raise InvalidRequestError(name, f"has more than {limit} entries")
            continue
        counts[_OTHERS] += 1
        if counts[_OTHERS] > _MOST_OTHER_FIELDS:
            besides = f" beside {' and '.join(counted.entries.values())}" if counted.entries else ""
            raise InvalidRequestError("message", f"has more than {_MOST_OTHER_FIELDS} fields{besides}")
        if (few := counted.few.get(number)) is not None:
            counts[few.name] += -(-(position - start) // _LONGEST_VARINT_BYTES) if few.packed else 1
            if counts[few.name] > few.most:
                raise InvalidRequestError(few.name, f"has more than {few.most} entries")
        if number in counted.inside:
            _count(data, start, min(position, end), counted.inside[number], limit, counts)


def next_field(data: bytes, position: int) -> tuple[int, int, int]:
    """The tag of the field at a position, where its value begins, and where the next field does.

    Raises:
        IndexError, KeyError: There is none.
    """
    tag = data[position]
    position += 1
    if tag >= _MORE:
        tag, position = read_varint(data, position - 1)
    kind = tag & 7
    if kind == _LENGTH_DELIMITED:
        size = data[position]
        position += 1
        if size >= _MORE:
            size, position = read_varint(data, position - 1)
        return tag, position, position + size
    if kind == _VARINT:
        return tag, position, read_varint(data, position)[1]
    return tag, position, position + _VALUE_BYTES[kind]


def read_varint(data: bytes, position: int) -> tuple[int, int]:
    """The number at a position, and the position behind it.

    Raises:
        IndexError: There is none.
    """
    value = shift = 0
    # Ten bytes hold 64 bits; longer ones are no varint.
    while shift < 70:  # noqa: PLR2004
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < _MORE:
            return value, position
        shift += 7
    raise IndexError
