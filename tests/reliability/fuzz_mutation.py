"""Mutations of messages: of their fields, by their descriptors, and of their bytes, by the wire format."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from reliability.fuzz_values import binary, integer, number, text, with_surrogates

_MOST_SITES = 400
_DEEP = 5000
_BOMB_BYTES = 1 << 20
_LENGTH_DELIMITED = 2
_MORE = 0x80
# A field that no message here has.
_UNKNOWN = 1234

# A message, and one of its fields.
Site = tuple[Any, Any]


def mutate(message: Message, chance: random.Random) -> bytes:
    """A message with one to a few of its fields changed, as bytes."""
    changed = type(message)()
    changed.CopyFrom(message)
    for _ in range(1 + min(int(chance.expovariate(1.6)), 5)):
        sites = list(_sites(changed))
        if not sites:
            break
        owner, field = chance.choice(sites[:_MOST_SITES])
        _change(owner, field, chance)
    data = with_surrogates(changed.SerializeToString())
    draw = chance.random()
    if draw < 0.004:
        return many(data, chance, 100_000)
    if draw < 0.02:
        return many(data, chance, chance.choice((17, 1025, 5000)))
    return data


def _sites(message: Message) -> Iterator[Site]:
    """Every field of a message and of those within it, those that are set twice: changes to them tell more."""
    for field in message.DESCRIPTOR.fields:
        yield message, field
    for field, value in message.ListFields():
        yield message, field
        if field.type != FieldDescriptor.TYPE_MESSAGE:
            continue
        if _is_map(field):
            if _value_field(field).type == FieldDescriptor.TYPE_MESSAGE:
                for each in value.values():
                    yield from _sites(each)
        elif field.is_repeated:
            for each in value[:20]:
                yield from _sites(each)
        else:
            yield from _sites(value)


def _change(owner: Any, field: FieldDescriptor, chance: random.Random) -> None:  # noqa: ANN401 - any message
    if _is_map(field):
        _change_map(getattr(owner, field.name), field, chance)
    elif field.is_repeated:
        _change_repeated(getattr(owner, field.name), field, chance)
    elif field.type == FieldDescriptor.TYPE_MESSAGE:
        if chance.random() < 0.3:
            owner.ClearField(field.name)
        else:
            getattr(owner, field.name).SetInParent()
    elif chance.random() < 0.15:
        owner.ClearField(field.name)
    else:
        setattr(owner, field.name, _scalar(field, chance, getattr(owner, field.name)))


def _change_map(entries: Any, field: FieldDescriptor, chance: random.Random) -> None:  # noqa: ANN401 - any map
    if len(entries) and chance.random() < 0.3:
        del entries[chance.choice(sorted(entries))]
        return
    key, value = text(chance, "key"), _value_field(field)
    if value.type != FieldDescriptor.TYPE_MESSAGE:
        entries[key] = _scalar(value, chance, b"")
        return
    entry = entries[key]
    _change(entry, chance.choice(entry.DESCRIPTOR.fields), chance)


def _change_repeated(entries: Any, field: FieldDescriptor, chance: random.Random) -> None:  # noqa: ANN401 - any field
    count, choice = len(entries), chance.randrange(7)
    if count and choice == 0:
        del entries[chance.randrange(count)]
    elif count and choice == 1:
        del entries[:]
    elif count and choice == 2:
        entries.extend([entries[chance.randrange(count)] for _ in range(chance.choice((1, 2, 8)))])
    elif field.type == FieldDescriptor.TYPE_MESSAGE:
        added = entries.add()
        for each in added.DESCRIPTOR.fields:
            _change(added, each, chance)
    elif count and choice < 6:
        index = chance.randrange(count)
        entries[index] = _scalar(field, chance, entries[index])
    else:
        entries.append(_scalar(field, chance, b""))


def _scalar(field: FieldDescriptor, chance: random.Random, before: Any) -> Any:  # noqa: ANN401 - any value
    kind = field.cpp_type
    if kind == FieldDescriptor.CPPTYPE_STRING:
        return binary(chance, before) if field.type == FieldDescriptor.TYPE_BYTES else text(chance, field.name)
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return chance.random() < 0.5
    if kind in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE):
        return number(chance)
    return integer(chance, kind)


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _value_field(field: FieldDescriptor) -> FieldDescriptor:
    described: Any = field.message_type
    value: FieldDescriptor = described.fields_by_name["value"]
    return value


def damage(data: bytes, other: bytes, chance: random.Random) -> bytes:
    """A message whose bytes were changed without regard to what they mean.

    Args:
        data: The message.
        other: Another message, of which parts are put into this one.
        chance: Decides.
    """
    for _ in range(1 + min(int(chance.expovariate(1.0)), 6)):
        data = _damaged(data, other, chance)
    return data


def _damaged(data: bytes, other: bytes, chance: random.Random) -> bytes:
    ways = (_flipped, _flipped, _changed, _cut, _spliced, _widened, _reordered, _repeated, _shortened, _lying, _nested)
    return chance.choice(ways)(data, other, chance)


def _flipped(data: bytes, _other: bytes, chance: random.Random) -> bytes:
    """One bit the other way."""
    at = chance.randrange(len(data) or 1)
    return data[:at] + bytes([byte ^ 1 << chance.randrange(8) for byte in data[at : at + 1]]) + data[at + 1 :]


def _changed(data: bytes, _other: bytes, chance: random.Random) -> bytes:
    """One byte another."""
    at = chance.randrange(len(data) or 1)
    return data[:at] + chance.randbytes(1) + data[at + 1 :]


def _cut(data: bytes, _other: bytes, chance: random.Random) -> bytes:
    return data[: chance.randint(0, len(data))]


def _spliced(data: bytes, other: bytes, chance: random.Random) -> bytes:
    return data[: chance.randint(0, len(data))] + other[chance.randint(0, len(other)) :]


def _widened(data: bytes, _other: bytes, chance: random.Random) -> bytes:
    at = chance.randint(0, len(data))
    return data[:at] + chance.randbytes(chance.randint(1, 8)) + data[at:]


def _reordered(data: bytes, _other: bytes, chance: random.Random) -> bytes:
    parts = fields(data)
    chance.shuffle(parts)
    return b"".join(parts)


def _repeated(data: bytes, other: bytes, chance: random.Random) -> bytes:
    """A field of this one or the other once more."""
    return data + chance.choice([*fields(data), *fields(other), b""])


def _shortened(data: bytes, _other: bytes, chance: random.Random) -> bytes:
    """Without one of its fields."""
    parts = fields(data)
    return b"".join([part for index, part in enumerate(parts) if index != chance.randrange(len(parts))])


def _lying(data: bytes, _other: bytes, chance: random.Random) -> bytes:
    """A varint that is huge or never ends, or the length of more than there is."""
    number = chance.randint(1, 16)
    if chance.random() < 0.5:
        return data + _tag(number, 0) + b"\xff" * chance.choice((4, 9, 10, 20)) + b"\x01"
    return data + _tag(number, _LENGTH_DELIMITED) + _varint(chance.choice((1, 127, 1 << 20, 1 << 31, 1 << 63)))


def _nested(data: bytes, _other: bytes, chance: random.Random) -> bytes:
    """Behind it groups within groups, or messages within messages."""
    deep = chance.choice((3, 100, _DEEP))
    number = chance.choice((1, 4, 5, 6, _UNKNOWN))
    if chance.random() < 0.5:
        return data + _tag(number, 3) * deep + _tag(number, 4) * chance.choice((0, deep))
    inner = b""
    for _ in range(min(deep, 200)):
        inner = _tag(number, _LENGTH_DELIMITED) + _varint(len(inner)) + inner
    return data + inner


def many(data: bytes, chance: random.Random, count: int) -> bytes:
    """A message with one of its fields so many times, or as often as fits into a message that is let in."""
    parts = [each for each in fields(data) if each[0] & 7 == _LENGTH_DELIMITED] or [_tag(3, 2) + b"\0"]
    part = chance.choice(parts)
    return data + part * min(count, max(2, _BOMB_BYTES // len(part)))


def fields(data: bytes) -> list[bytes]:
    """The fields of a message, as far as it is one; what is left is one more."""
    found, position = [], 0
    while position < len(data):
        began = position
        tag, position = _number(data, position)
        kind = tag & 7
        if kind == _LENGTH_DELIMITED:
            size, position = _number(data, position)
            position += size
        elif kind == 0:
            _, position = _number(data, position)
        else:
            position += {1: 8, 5: 4}.get(kind, 0)
        found.append(data[began:position])
    return found


def _number(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while position < len(data):
        value |= (data[position] & (_MORE - 1)) << shift
        position += 1
        if data[position - 1] < _MORE:
            break
        shift += 7
    return value, position


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value >= _MORE:
        encoded.append(value & (_MORE - 1) | _MORE)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _tag(number: int, kind: int) -> bytes:
    return _varint(number << 3 | kind)
