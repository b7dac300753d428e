"""A look at a protobuf message before it is parsed, so that what is too much is refused for the price of the limit."""

from __future__ import annotations

from headwaiter_server.errors import InvalidRequestError

# Fields of a request beside its texts; unknown ones of later versions among them.
_MOST_OTHER_FIELDS = 64
# A tag and a length, or a tag and a value; the tags of groups, which have neither, are never sent.
_SMALLEST_FIELD_BYTES = 2

_VARINT, _FIXED64, _LENGTH_DELIMITED, _START_GROUP, _END_GROUP, _FIXED32 = range(6)
_VALUE_BYTES = {_FIXED64: 8, _START_GROUP: 0, _END_GROUP: 0, _FIXED32: 4}


def check_field_counts(data: bytes, number: int, name: str, limit: int) -> None:
    """Refuse a message with too many entries of a repeated field, or too many fields besides.

    Stops at the first field over a limit. Where the bytes are no message it stops, too: the parser says so better.
    (Protocol buffers' wire format: https://protobuf.dev/programming-guides/encoding/)

    Args:
        data: The message.
        number: Number of the repeated field, whose entries are length-delimited.
        name: Its name.
        limit: Most entries.

    Raises:
        InvalidRequestError: There are more.
    """
    if len(data) <= limit * _SMALLEST_FIELD_BYTES:
        return
    entries = others = position = 0
    entry_tag = number << 3 | _LENGTH_DELIMITED
    try:
        while position < len(data):
            tag, position = _varint(data, position)
            kind = tag & 7
            if kind == _LENGTH_DELIMITED:
                size, position = _varint(data, position)
                position += size
            elif kind == _VARINT:
                _, position = _varint(data, position)
            else:
                position += _VALUE_BYTES[kind]
            if tag == entry_tag:
                entries += 1
            else:
                others += 1
            if entries > limit:
                raise InvalidRequestError(name, f"has more than {limit} entries")
            if others > _MOST_OTHER_FIELDS:
                raise InvalidRequestError("message", f"has more than {_MOST_OTHER_FIELDS} fields beside {name}")
    except (IndexError, KeyError):
        return


def _varint(data: bytes, position: int) -> tuple[int, int]:
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
        if byte < 0x80:  # noqa: PLR2004 - the bit that says that more follows
            return value, position
        shift += 7
    raise IndexError
