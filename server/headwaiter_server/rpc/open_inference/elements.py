"""Elements of tensors: bytes to arrays that view them, and back."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
from headwaiter_proto.inference import grpc_service_pb2
from numpy.typing import NDArray

from headwaiter_server.errors import InvalidRequestError
from headwaiter_server.model.contract import Array
from headwaiter_server.model.datatypes import BYTES, Datatype
from headwaiter_server.rpc.open_inference.wire import MOST_AXES, Buffer
from headwaiter_server.rpc.wire import next_field

# Elements that are Python objects are made, or written, on a thread where there are more: these take some 3 ms.
INLINE_ELEMENTS = 16_384
# numpy takes as many only where an axis of 0 leaves none of them.
_MOST_ELEMENTS = 1 << 48
_LENGTH = struct.Struct("<I")
_LENGTH_BYTES = _LENGTH.size
_MORE = 0x80
_VALUE_BITS = 7

BOOL = "BOOL"

_CONTENTS = grpc_service_pb2.InferTensorContents
# Which field holds the elements; datatypes that are missing travel as raw bytes only.
_TYPED = {
    BOOL: "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    BYTES: "bytes_contents",
}


def read_shape(field: str, sizes: Sequence[int]) -> tuple[int, ...]:
    """The shape of a tensor.

    Args:
        field: The tensor's path in the request.
        sizes: Sizes of its axes.

    Raises:
        InvalidRequestError: No tensor has it.
    """
    if len(sizes) > MOST_AXES:
        raise InvalidRequestError(f"{field}.shape", f"has {len(sizes)} axes, the limit is {MOST_AXES}")
    shape = tuple(sizes)
    if shape and min(shape) < 0:
        raise InvalidRequestError(f"{field}.shape", f"is {list(shape)}: sizes begin at 0")
    # Also where an axis of 0 leaves none: numpy multiplies the others.
    if math.prod(size or 1 for size in shape) > _MOST_ELEMENTS:
        raise InvalidRequestError(f"{field}.shape", f"is {list(shape)}: the limit is {_MOST_ELEMENTS} elements")
    return shape


def view_numbers(
    field: str, datatype: Datatype, shape: tuple[int, ...], buffer: bytes | memoryview, start: int, end: int
) -> Array:
    """Elements of one size, where they are.

    Args:
        field: The tensor's path in the request.
        datatype: What they are; not BYTES.
        shape: The tensor's.
        buffer: Holds their bytes: little-endian, row by row.
        start: Where they begin.
        end: Where they end.

    Raises:
        InvalidRequestError: They are more or fewer bytes than the shape has, or no truth values.
    """
    count = math.prod(shape)
    if end - start != count * datatype.size_bytes:
        raise InvalidRequestError(
            field,
            f"has {end - start} bytes, {datatype.name} of shape {list(shape)} has {count * datatype.size_bytes}",
        )
    if not count:
        return np.empty(shape, datatype.dtype)
    array = np.frombuffer(buffer, datatype.dtype, count, start)
    if datatype.name == BOOL and array.view(np.uint8).max() > 1:
        raise InvalidRequestError(field, "has bytes other than 0 and 1, which are no truth values")
    return array.reshape(shape)


def split_bytes(field: str, count: int, buffer: bytes | memoryview, start: int, end: int) -> list[Any]:
    """Elements of BYTES: before each its length in 4 bytes.

    Args:
        field: The tensor's path in the request.
        count: How many there are to be.
        buffer: Holds their bytes.
        start: Where they begin.
        end: Where they end.

    Returns:
        A slice of the buffer for each.

    Raises:
        InvalidRequestError: There are not just as many, or they do not end where the bytes do.
    """
    if count > most_elements(end - start):
        raise InvalidRequestError(field, f"has {end - start} bytes, which is too few for {count} elements of BYTES")
    elements = []
    unpack, position = _LENGTH.unpack_from, start
    try:
        for _ in range(count):
            (size,) = unpack(buffer, position)
            begin = position + _LENGTH_BYTES
            position = begin + size
            elements.append(buffer[begin:position])
    except struct.error:
        position = -1
    if position != end:
        raise InvalidRequestError(
            field, f"has {end - start} bytes, in which {count} elements of BYTES with their lengths do not fit exactly"
        )
    return elements


def most_elements(size_bytes: int) -> int:
    """How many elements of BYTES so many bytes can hold: each has its length before it."""
    return size_bytes // _LENGTH_BYTES


def object_array(elements: Sequence[bytes], shape: tuple[int, ...]) -> Array:
    """Elements of BYTES as an array."""
    array = np.empty(len(elements), object)
    array[:] = elements
    return array.reshape(shape)


def join_bytes(elements: Sequence[bytes]) -> bytes:
    """The opposite of `split_bytes`."""
    lengths = np.fromiter(map(len, elements), "<u4", len(elements)).view("V4").tolist()
    return b"".join(chain.from_iterable(zip(lengths, elements, strict=True)))


def raw_contents(array: Array, datatype: Datatype) -> Buffer:
    """The elements of an output as they go onto the wire; without a copy where they lie as the wire has them."""
    if datatype.name == BYTES:
        return join_bytes(array.ravel().tolist())
    return np.ascontiguousarray(array, datatype.dtype).data


def typed_bytes(field: str, count: int, contents: grpc_service_pb2.InferTensorContents) -> list[bytes]:
    """Elements of BYTES that were sent as fields.

    Raises:
        InvalidRequestError: They are not as many as the shape has, or something else.
    """
    _check_typed(field, BYTES, count, contents)
    return list(contents.bytes_contents)


def typed_numbers(
    field: str, datatype: Datatype, shape: tuple[int, ...], contents: grpc_service_pb2.InferTensorContents
) -> Array:
    """Elements of one size that were sent as fields.

    Raises:
        InvalidRequestError: They are not as many as the shape has, or something else, or out of the datatype's range.
    """
    _check_typed(field, datatype.name, math.prod(shape), contents)
    values = _packed(datatype, contents)
    narrow = values.astype(datatype.dtype, copy=False)
    if datatype.dtype.kind in "iu" and not np.array_equal(narrow, values):
        raise InvalidRequestError(f"{field}.contents", f"has elements that are out of the range of {datatype.name}")
    return narrow.reshape(shape)


def _check_typed(field: str, datatype: str, count: int, contents: grpc_service_pb2.InferTensorContents) -> None:
    """See that the right field holds as many elements as the shape has, and no other field any."""
    name = _TYPED.get(datatype)
    if name is None:
        raise InvalidRequestError(f"{field}.contents", f"cannot hold {datatype}: send raw_input_contents")
    present = [descriptor.name for descriptor, _ in contents.ListFields()]
    if present not in ([], [name]):
        raise InvalidRequestError(f"{field}.contents", f"has {' and '.join(present)}, {datatype} goes into {name}")
    if (size := len(getattr(contents, name))) != count:
        raise InvalidRequestError(f"{field}.contents", f"has {size} elements, the shape has {count}")


def _packed(datatype: Datatype, contents: grpc_service_pb2.InferTensorContents) -> Array:
    """The elements of the only field that is set.

    Protocol buffers write it as one run of bytes, whichever way it was sent; so no element is ever a Python object.
    """
    alone = _CONTENTS()  # without fields that nobody knows
    name = _TYPED[datatype.name]
    getattr(alone, name).MergeFrom(getattr(contents, name))
    data = alone.SerializeToString()
    if not data:
        return np.empty(0, datatype.dtype)
    _, start, end = next_field(data, 0)
    payload = np.frombuffer(data, np.uint8, end - start, start)
    if datatype.dtype.kind == "f":
        return payload.view(datatype.dtype)
    values = _varints(payload)
    return values if datatype.dtype.kind in "ub" else values.view(np.int64)


def _varints(payload: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Varints, all at once: first their lowest 7 bits, then the next 7 of those that have more."""
    ends = np.flatnonzero(payload < _MORE)
    starts = np.concatenate(([0], ends[:-1] + 1))
    values = (payload[starts] & (_MORE - 1)).astype(np.uint64)
    longer = np.flatnonzero(ends > starts)
    index = 1
    while longer.size:
        bits = (payload[starts[longer] + index] & (_MORE - 1)).astype(np.uint64)
        values[longer] |= bits << np.uint64(_VALUE_BITS * index)
        longer = longer[ends[longer] > starts[longer] + index]
        index += 1
    return values
