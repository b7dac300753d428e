"""Requests of `ModelInfer` taken apart, and answers put together, byte by byte."""

from __future__ import annotations

import numpy as np
import pytest
from headwaiter_proto.inference import grpc_service_pb2
from headwaiter_server.errors import InvalidRequestError
from headwaiter_server.rpc.open_inference.form import read_form
from headwaiter_server.rpc.open_inference.wire import (
    MOST_AXES,
    MOST_FIELDS,
    MOST_NUMBER_BYTES,
    MOST_TYPED_ELEMENTS,
    check_form,
    id_field,
    open_request,
    write_response,
    write_stream_error,
)
from hypothesis import given
from hypothesis import strategies as st

Request = grpc_service_pb2.ModelInferRequest
Response = grpc_service_pb2.ModelInferResponse
StreamResponse = grpc_service_pb2.ModelStreamInferResponse

RAW_CONTENTS = st.lists(st.binary(max_size=300), max_size=5)


def request(**fields: object) -> Request:
    """A request as a client might send it."""
    message = Request(model_name="m", id="17", **fields)  # type: ignore[arg-type]
    message.inputs.add(name="a", datatype="FP32", shape=[2, 3])
    message.outputs.add(name="b")
    message.parameters["truncate"].bool_param = True
    return message


@given(RAW_CONTENTS, st.text(max_size=200))
def test_request_is_taken_apart(contents: list[bytes], sent_id: str) -> None:
    """Raw contents are found where they are in the bytes, the id beside them, and the rest is what is parsed."""
    message = request(raw_input_contents=contents)
    message.id = sent_id
    data = message.SerializeToString()
    opened = open_request(data)
    assert opened.data is data
    assert [data[start:end] for start, end in opened.raw_contents] == contents
    assert opened.id.decode() == sent_id
    del message.raw_input_contents[:]
    message.ClearField("id")
    assert Request.FromString(opened.form) == message


@given(st.lists(st.integers(0, 4), max_size=12))
def test_fields_may_come_in_any_order(order: list[int]) -> None:
    """A message is the same however its fields are mixed: of an id the last counts, raw contents keep their order."""
    pieces = [
        Request(raw_input_contents=[b"first"]).SerializeToString(),
        Request(raw_input_contents=[b""]).SerializeToString(),
        Request(id="one").SerializeToString(),
        Request(id="two").SerializeToString(),
        Request(model_name="m").SerializeToString(),
    ]
    data = b"".join(pieces[index] for index in order)
    expected, opened = Request.FromString(data), open_request(data)
    assert [data[start:end] for start, end in opened.raw_contents] == list(expected.raw_input_contents)
    assert opened.id.decode() == expected.id
    assert Request.FromString(opened.form).model_name == expected.model_name


@given(st.binary(max_size=200))
def test_any_bytes_are_a_request_or_refused(data: bytes) -> None:
    """Nothing but an `InvalidRequestError` comes of bytes that are none, and what protocol buffers take is taken."""
    try:
        opened = open_request(data)
        read_form(opened.form)
    except InvalidRequestError:
        return
    assert [data[start:end] for start, end in opened.raw_contents] == list(Request.FromString(data).raw_input_contents)


@given(st.data())
def test_any_change_of_a_request_is_a_request_or_refused(draw: st.DataObject) -> None:
    """As any bytes, but from near what is one."""
    data = bytearray(request(raw_input_contents=[b"abc", b"0123456789"]).SerializeToString())
    for _ in range(draw.draw(st.integers(1, 4))):
        data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    test_any_bytes_are_a_request_or_refused.hypothesis.inner_test(bytes(data))  # type: ignore[attr-defined]


@pytest.mark.parametrize("cut", range(1, 12))
def test_cut_request_is_refused(cut: int) -> None:
    """Raw contents that end before their length says are no contents."""
    data = Request(model_name="m", raw_input_contents=[b"0123456789"]).SerializeToString()
    with pytest.raises(InvalidRequestError, match=r"is no inference\.ModelInferRequest"):
        open_request(data[:-cut])


def test_group_is_refused() -> None:
    """Protocol buffers skip unknown groups, and what is in them; nobody sends any."""
    with pytest.raises(InvalidRequestError, match=r"is no inference\.ModelInferRequest"):
        open_request(b"\x0a\x01m\xa3\x06\x3a\x00\xa4\x06")


def test_id_that_is_no_text_is_refused() -> None:
    """It would stand in the answer, which its reader could not parse."""
    with pytest.raises(InvalidRequestError, match=r"is no inference\.ModelInferRequest"):
        open_request(b"\x1a\x02\xff\xfe")


def test_number_of_fields_is_bounded() -> None:
    """Empty raw contents cost two bytes each: more than any request needs are refused, as many as that are not."""
    empty = Request(raw_input_contents=[b""]).SerializeToString()
    assert len(open_request(empty * MOST_FIELDS).raw_contents) == MOST_FIELDS
    with pytest.raises(InvalidRequestError, match=f"^message: has more than {MOST_FIELDS} fields"):
        open_request(empty * (MOST_FIELDS + 1))


def test_parts_of_tensors_are_bounded_before_they_are_parsed() -> None:
    """Parameters and sizes of inputs and outputs count, all together."""
    for tensor in (b"\x2a", b"\x32"):  # an input, an output
        inside = b"\x22\x00" * MOST_FIELDS
        size = len(inside)
        prefix = tensor + bytes((size & 0x7F | 0x80, size >> 7))
        check_form(prefix + inside)
        with pytest.raises(
            InvalidRequestError, match=f"^message: has more than {MOST_FIELDS} fields in its tensors and parameters"
        ):
            check_form(prefix + inside + tensor + b"\x02\x22\x00")


def test_elements_that_are_fields_are_bounded_before_they_are_parsed() -> None:
    """BYTES as fields are objects each; packed numbers are not, and so not counted."""
    message = Request()
    tensor = message.inputs.add(name="a")
    tensor.contents.bytes_contents.extend([b""] * MOST_TYPED_ELEMENTS)
    tensor.contents.fp32_contents.extend([0.0] * 3)
    del tensor.contents.bytes_contents[-1]
    check_form(message.SerializeToString())
    tensor.contents.bytes_contents.extend([b""] * 2)
    with pytest.raises(InvalidRequestError, match=f"^inputs: have more than {MOST_TYPED_ELEMENTS} elements"):
        check_form(message.SerializeToString())


class Watched(bytes):
    """Bytes that know how often they were looked at."""

    looks = 0

    def __getitem__(self, index: int) -> int:  # type: ignore[override]
        self.looks += 1
        return super().__getitem__(index)


def within(tag: int, data: bytes) -> bytes:
    """A field that is a message."""
    return bytes((tag << 3 | 2,)) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value >= 0x80:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*parts, value))


PARTS = b"\x12\x00" * 1_000_000  # a value of an entry of a map, or a datatype, or unknown: what it is in each place
HIDDEN = {
    "an entry of parameters": within(4, PARTS),
    "a value of an entry": within(4, within(2, b"\x08\x01" * 1_000_000)),
    "an input": within(5, PARTS),
    "an entry of an input": within(5, within(4, PARTS)),
    "a value of an entry of an input": within(5, within(4, within(2, PARTS))),
    "an output": within(6, PARTS),
    "an entry of an output": within(6, within(2, PARTS)),
    "contents": within(5, within(5, PARTS)),
    "groups": within(5, b"\x7b" * 1_000_000),
}


@pytest.mark.parametrize("form", HIDDEN.values(), ids=HIDDEN)
def test_parts_are_found_wherever_they_hide(form: bytes) -> None:
    """A million of them cost what the limit of them costs: so many bytes are looked at before the refusal."""
    watched = Watched(form)
    with pytest.raises(InvalidRequestError, match=r"has more than|have more than"):
        check_form(watched)
    assert watched.looks <= 3 * max(MOST_FIELDS, MOST_TYPED_ELEMENTS) + 100


@pytest.mark.parametrize("number", range(1, 6))
def test_whole_numbers_are_bounded_by_their_bytes(number: int) -> None:
    """A parser makes eight bytes of each, and reading them takes long; the limit holds for all parts together."""
    half = b"\x01" * (MOST_NUMBER_BYTES // 2)
    parts = within(number, half) * 2
    check_form(within(5, within(5, parts)))
    for form in (within(5, within(5, parts + within(number, b"\x01"))), within(5, within(5, parts)) * 2):
        with pytest.raises(InvalidRequestError, match=f"^inputs: have more than {MOST_NUMBER_BYTES} bytes of whole"):
            check_form(form)


def test_floats_are_not_bounded_but_by_the_message() -> None:
    """They are copied as they are."""
    check_form(within(5, within(5, within(6, bytes(4 << 20)) + within(7, bytes(4 << 20)))))


def test_shapes_are_bounded_before_they_are_parsed() -> None:
    """Longer ones than any tensor has, with what that makes of memory."""
    padding = within(1, b"m" * 10_000)
    check_form(padding + within(5, within(3, b"\xff" * 9 * MOST_AXES + b"\x01" * MOST_AXES)))
    with pytest.raises(InvalidRequestError, match=f"^inputs: have a shape of more than {MOST_AXES} axes"):
        check_form(padding + within(5, within(3, b"\x01" * 1000)))


@given(RAW_CONTENTS, st.text(max_size=200))
def test_answer_is_one_message(contents: list[bytes], sent_id: str) -> None:
    """What is put together by hand is what protocol buffers would write, alone and on a stream."""
    expected = Response(model_name="m", id=sent_id, raw_output_contents=contents)
    header = [Response(model_name="m").SerializeToString(), id_field(sent_id.encode())]
    views = [memoryview(content) for content in contents]
    for raw_contents in (contents, views):
        assert Response.FromString(write_response(header, raw_contents, streamed=False)) == expected
        streamed = StreamResponse.FromString(write_response(header, raw_contents, streamed=True))
        assert streamed == StreamResponse(infer_response=expected)


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,), (2, 3, 4), (40_000,)])
@pytest.mark.parametrize("dtype", ["float16", "float32", "bool", "uint16", "int64"])
def test_arrays_of_any_shape_are_answered(shape: tuple[int, ...], dtype: str) -> None:
    """A view on an array is as good as its bytes, also without axes or elements."""
    array = np.ones(shape, dtype)
    response = Response.FromString(write_response([], [array.data, b"x"], streamed=False))
    assert list(response.raw_output_contents) == [array.tobytes(), b"x"]


def test_error_on_a_stream_has_the_id_of_its_request() -> None:
    """Clients look for it where it stands in good answers."""
    answer = StreamResponse.FromString(write_stream_error("no", b"17"))
    assert answer == StreamResponse(error_message="no", infer_response=Response(id="17"))
    assert StreamResponse.FromString(write_stream_error("no", b"")).error_message == "no"
