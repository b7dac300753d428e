"""Elements of every datatype, as bytes and as fields, there and back."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import numpy as np
import pytest
from headwaiter_proto.inference import grpc_service_pb2
from headwaiter_server.errors import InvalidRequestError
from headwaiter_server.model.contract import Array
from headwaiter_server.model.datatypes import BY_NAME, BYTES, DATATYPES
from headwaiter_server.rpc.open_inference.elements import (
    join_bytes,
    object_array,
    raw_contents,
    read_shape,
    split_bytes,
    typed_bytes,
    typed_numbers,
    view_numbers,
)
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

Contents = grpc_service_pb2.InferTensorContents

NUMBERS = [each for each in DATATYPES if each.name != BYTES]
TYPED = {
    "BOOL": "bool_contents",
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
}
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)


def bytes_of(array: Array) -> bytes:
    """Bit patterns, so that every NaN counts."""
    return array.tobytes()


@given(st.data(), st.sampled_from(NUMBERS), SHAPES, st.binary(max_size=9))
def test_numbers_are_views(draw: st.DataObject, datatype: Any, shape: tuple[int, ...], before: bytes) -> None:  # noqa: ANN401 - mypy knows it from the table
    """Every datatype in every shape comes out as it went in, and is not copied, however it lies in the message."""
    sent = draw.draw(hnp.arrays(datatype.dtype, shape))
    data = before + bytes_of(sent) + b"behind"
    array = view_numbers("x", datatype, shape, data, len(before), len(before) + sent.nbytes)
    assert (array.dtype, array.shape, bytes_of(array)) == (sent.dtype, sent.shape, bytes_of(sent))
    if sent.size:
        address = np.frombuffer(data, np.uint8).__array_interface__["data"][0]
        assert array.__array_interface__["data"][0] == address + len(before)
        assert not array.flags.writeable
    assert bytes(raw_contents(array, datatype)) == bytes_of(sent)


@pytest.mark.parametrize("name", ["FP32", "BF16", "BOOL"])
def test_outputs_are_not_copied(name: str) -> None:
    """What lies as the wire has it goes out from where it is; what does not is copied once."""
    array = np.zeros((3, 5), BY_NAME[name].dtype)
    content = raw_contents(array, BY_NAME[name])
    assert np.shares_memory(np.frombuffer(content, np.uint8), array)
    assert bytes(raw_contents(array[:, 1:3], BY_NAME[name])) == array[:, 1:3].tobytes()


@pytest.mark.parametrize("datatype", NUMBERS)
@pytest.mark.parametrize("wrong", [-1, 1])
def test_wrong_number_of_bytes_is_refused(datatype: Any, wrong: int) -> None:  # noqa: ANN401 - see above
    """One byte too few and one too many."""
    data = bytes(6 * datatype.size_bytes + 1)
    with pytest.raises(InvalidRequestError, match=rf"^x: has {len(data) - 1 + wrong} bytes, .* has {len(data) - 1}$"):
        view_numbers("x", datatype, (2, 3), data, 0, len(data) - 1 + wrong)


def test_truth_values_are_0_and_1() -> None:
    """A byte of 2 would be neither true nor false to what computes with it."""
    assert view_numbers("x", BY_NAME["BOOL"], (2,), b"\x00\x01", 0, 2).tolist() == [False, True]
    with pytest.raises(InvalidRequestError, match="are no truth values"):
        view_numbers("x", BY_NAME["BOOL"], (2,), b"\x00\x02", 0, 2)


@given(st.lists(st.binary(max_size=20), max_size=30), st.binary(max_size=5), st.booleans())
def test_bytes_there_and_back(elements: list[bytes], before: bytes, viewed: bool) -> None:  # noqa: FBT001 - hypothesis
    """Of a message, and of a view as shared memory gives it."""
    data: bytes | memoryview = before + join_bytes(elements) + b"behind"
    end = len(data) - len(b"behind")
    found = split_bytes("x", len(elements), memoryview(data) if viewed else data, len(before), end)
    assert [bytes(element) for element in found] == elements
    array = object_array(elements, (len(elements), 1))
    assert bytes(raw_contents(array, BY_NAME[BYTES])) == join_bytes(elements)


def test_bytes_on_the_wire() -> None:
    """The length in four bytes, little end first, before each element."""
    assert join_bytes([b"ab", b"", b"c" * 258]) == b"\x02\0\0\0ab" + b"\0\0\0\0" + b"\x02\x01\0\0" + b"c" * 258


@given(st.binary(max_size=60), st.integers(0, 20), st.data())
def test_any_bytes_are_elements_or_refused(data: bytes, count: int, draw: st.DataObject) -> None:
    """Lengths that lie never lead out of the contents, nor to another error."""
    start = draw.draw(st.integers(0, len(data)))
    end = draw.draw(st.integers(start, len(data)))
    try:
        elements = split_bytes("x", count, data, start, end)
    except InvalidRequestError:
        return
    assert join_bytes([bytes(element) for element in elements]) == data[start:end]
    assert len(elements) == count


@pytest.mark.parametrize(
    ("contents", "count"),
    [
        (b"\x02\0\0\0ab", 2),
        (b"\x02\0\0\0ab" * 2, 1),
        (b"\x03\0\0\0ab", 1),
        (b"\x01\0\0\0ab", 1),
        (b"\xff\xff\xff\xffab", 1),
        (b"\x02\0\0\0ab\x02\0\0", 2),
        (b"", 1),
        (b"\0\0\0\0", 0),
    ],
)
def test_bytes_that_do_not_fit_are_refused(contents: bytes, count: int) -> None:
    """Too few elements, too many, a length that is too long, too short, or cut; what lies behind helps nobody."""
    data = contents + b"\0\0\0\0" * 9
    with pytest.raises(InvalidRequestError, match=r"^x: has \d+ bytes"):
        split_bytes("x", count, data, 0, len(contents))


def test_count_beyond_the_bytes_costs_nothing() -> None:
    """A shape may promise what it likes."""
    with pytest.raises(InvalidRequestError, match="too few for 281474976710656 elements"):
        split_bytes("x", 1 << 48, b"1234", 0, 4)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ([1] * 33, "has 33 axes, the limit is 32"),
        ([2, -1], r"is \[2, -1\]: sizes begin at 0"),
        ([1 << 32, 1 << 32], "the limit is 281474976710656 elements"),
        ([1 << 62, 0, 1 << 62], "the limit is 281474976710656 elements"),
        ([(1 << 63) - 1] * 32, "the limit is 281474976710656 elements"),
    ],
)
def test_shapes_of_no_tensor_are_refused(sizes: list[int], message: str) -> None:
    """Also those whose product would overflow, or not be seen for an axis of 0."""
    with pytest.raises(InvalidRequestError, match=rf"^inputs\[a\]\.shape: .*{message}"):
        read_shape("inputs[a]", sizes)


def test_shapes_of_nothing_are_shapes() -> None:
    """No axes is one element, an axis of 0 is none."""
    assert read_shape("x", []) == ()
    assert read_shape("x", [1 << 20, 0, 1 << 20]) == (1 << 20, 0, 1 << 20)
    array = view_numbers("x", BY_NAME["FP64"], (1 << 20, 0, 1 << 20), b"", 0, 0)
    assert array.shape == (1 << 20, 0, 1 << 20)


@given(st.data(), st.sampled_from(sorted(TYPED)), SHAPES)
def test_numbers_as_fields(draw: st.DataObject, name: str, shape: tuple[int, ...]) -> None:
    """They are what protocol buffers say they are, to the last bit, in whichever of its two ways they were sent."""
    datatype = BY_NAME[name]
    sent = draw.draw(hnp.arrays(datatype.dtype, shape))
    contents = Contents(**{TYPED[name]: sent.ravel().tolist()})
    apart = Contents.FromString(
        b"".join(Contents(**{TYPED[name]: [value]}).SerializeToString() for value in sent.ravel().tolist())
    )
    for message in (contents, apart):
        array = typed_numbers("x", datatype, shape, message)
        assert (array.dtype, array.shape) == (datatype.dtype, sent.shape)
        np.testing.assert_array_equal(array, sent)


@pytest.mark.parametrize(
    ("name", "field", "values"),
    [
        ("INT8", "int_contents", [128]),
        ("INT8", "int_contents", [-129]),
        ("INT16", "int_contents", [1 << 15]),
        ("UINT8", "uint_contents", [256]),
        ("UINT16", "uint_contents", [1 << 16]),
    ],
)
def test_fields_out_of_range_are_refused(name: str, field: str, values: list[int]) -> None:
    """Small datatypes travel in larger fields, and are not wrapped around."""
    with pytest.raises(InvalidRequestError, match=f"out of the range of {name}"):
        typed_numbers("x", BY_NAME[name], (1,), Contents(**{field: values}))  # type: ignore[arg-type]


def test_fields_of_another_datatype_are_refused() -> None:
    """Alone, and beside the right ones; and for BYTES."""
    wrong = Contents(int_contents=[1])
    both = Contents(fp32_contents=[1.0], int_contents=[1])
    for contents, found in ((wrong, "int_contents"), (both, "int_contents and fp32_contents")):
        with pytest.raises(InvalidRequestError, match=rf"^x\.contents: has {found}, FP32 goes into fp32_contents$"):
            typed_numbers("x", BY_NAME["FP32"], (1,), contents)
    with pytest.raises(InvalidRequestError, match=r"^x\.contents: has int_contents, BYTES goes into bytes_contents$"):
        typed_bytes("x", 1, wrong)


@pytest.mark.parametrize("name", ["FP16", "BF16"])
def test_fields_cannot_hold_half_precision(name: str) -> None:
    """The protocol has no field for them."""
    with pytest.raises(InvalidRequestError, match=f"cannot hold {name}: send raw_input_contents"):
        typed_numbers("x", BY_NAME[name], (1,), Contents(fp32_contents=[1.0]))


def test_wrong_number_of_fields_is_refused() -> None:
    """As many as the shape has, neither more nor fewer; none at all are few."""
    for values in ([], [1.0] * 5, [1.0] * 7):
        with pytest.raises(InvalidRequestError, match=f"has {len(values)} elements, the shape has 6"):
            typed_numbers("x", BY_NAME["FP32"], (2, 3), Contents(fp32_contents=values))
    assert typed_bytes("x", 2, Contents(bytes_contents=[b"a", b""])) == [b"a", b""]
    with pytest.raises(InvalidRequestError, match="has 2 elements, the shape has 1"):
        typed_bytes("x", 1, Contents(bytes_contents=[b"a", b""]))


def test_fields_that_nobody_knows_are_left_out() -> None:
    """Later versions of the protocol may have more."""
    contents = Contents.FromString(
        b"\xa2\x06\x03abc" + Contents(fp32_contents=[1.5]).SerializeToString() + b"\xa0\x06\x01"
    )
    assert typed_numbers("x", BY_NAME["FP32"], (1,), contents).tolist() == [1.5]


def steps_of(act: Callable[[], object]) -> int:
    """Bytecodes that Python executes in the functions that an act calls: a loop over elements has some for each."""
    steps = 0

    def trace(frame: FrameType, event: str, _: object) -> Any:  # noqa: ANN401 - itself
        nonlocal steps
        frame.f_trace_opcodes = True
        steps += event == "opcode"
        return trace

    act()  # what is done once only is done
    before = sys.gettrace()
    # Whoever wants to know of collections, as hypothesis does, would be counted as well.
    gc.collect()
    gc.disable()
    sys.settrace(trace)
    try:
        act()
    finally:
        sys.settrace(before)
        gc.enable()
    return steps


def read_as_bytes(numbers: Array) -> Callable[[], object]:
    data = numbers.tobytes()
    return lambda: view_numbers("x", BY_NAME["INT64"], numbers.shape, data, 0, len(data))


def read_as_fields(numbers: Array) -> Callable[[], object]:
    contents = Contents(int64_contents=numbers)
    return lambda: typed_numbers("x", BY_NAME["INT64"], numbers.shape, contents)


def write_as_bytes(numbers: Array) -> Callable[[], object]:
    return lambda: raw_contents(numbers, BY_NAME["INT64"])


@pytest.mark.parametrize("way", [read_as_bytes, read_as_fields, write_as_bytes])
def test_twenty_times_the_numbers_take_no_step_of_python_more(way: Callable[[Array], Callable[[], object]]) -> None:
    """No number is ever looked at by Python, not even where each is a field of up to ten bytes."""
    # Of either, the field's own length is a varint of three bytes.
    few, many = (steps_of(way(np.arange(-count, count))) for count in (5_000, 100_000))
    assert few > 0
    assert many == few


def test_many_numbers_as_fields_come_out_as_they_went_in() -> None:
    """A million, each of up to ten bytes."""
    values = np.arange(-500_000, 500_000)
    array = typed_numbers("x", BY_NAME["INT64"], (1_000_000,), Contents(int64_contents=values))
    assert np.array_equal(array, values)
