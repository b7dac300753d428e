"""What is too much is refused before it is parsed; everything else is left to the parser."""

from __future__ import annotations

import pytest
from google.protobuf.message import DecodeError
from headwaiter_proto.v1 import inference_pb2
from headwaiter_server.errors import InvalidRequestError
from headwaiter_server.rpc.wire import Counted, Few, check_field_counts, read_number
from hypothesis import given
from hypothesis import strategies as st

LIMIT = 10
TEXTS = Counted({inference_pb2.GenerateRequest.TEXTS_FIELD_NUMBER: "texts"})


def check(data: bytes, limit: int = LIMIT) -> None:
    check_field_counts(data, TEXTS, limit)


class Watched(bytes):
    """Bytes that know how far they were read."""

    furthest = 0

    def __getitem__(self, index: int) -> int:  # type: ignore[override]
        self.furthest = max(self.furthest, index)
        return super().__getitem__(index)


@given(st.lists(st.text(max_size=200), max_size=2 * LIMIT), st.text(max_size=20), st.integers(0, 1 << 31))
def test_real_requests_are_refused_exactly_over_the_limit(texts: list[str], model: str, version: int) -> None:
    """Whatever stands around them, texts are counted rightly."""
    data = inference_pb2.GenerateRequest(
        texts=texts, model=model, version=version, max_new_tokens=7
    ).SerializeToString()
    if len(texts) <= LIMIT:
        check(data)
    else:
        with pytest.raises(InvalidRequestError, match=f"texts: has more than {LIMIT} entries"):
            check(data)


def test_reading_stops_at_the_limit() -> None:
    """Eight megabytes of empty texts cost no more than the limit of them."""
    data = Watched(b"\x1a\x00" * (4 << 20))
    with pytest.raises(InvalidRequestError):
        check(data)
    assert data.furthest <= 2 * (LIMIT + 1)


@pytest.mark.parametrize("field", [b"\x10\x01", b"\x0a\x00", b"\xd3\x3e\xd4\x3e", b"\xfa\x3e\x00"])
def test_fields_beside_the_texts_are_bounded(field: bytes) -> None:
    """No other field, known or unknown, hides texts or keeps the reader busy; some of each are let through."""
    check(field * 20)
    with pytest.raises(InvalidRequestError, match="message: has more than 64 fields beside texts"):
        check(field * 1000 + b"\x1a\x00" * 1000)


@given(st.binary(min_size=2 * LIMIT, max_size=300))
def test_what_is_no_message_is_left_to_the_parser(data: bytes) -> None:
    """Any bytes are passed or refused, never failed on; what the parser takes within the limits is passed."""
    try:
        message = inference_pb2.GenerateRequest.FromString(data)
    except DecodeError:
        message = None
    try:
        check(data)
    except InvalidRequestError:
        return
    assert message is None or len(message.texts) <= LIMIT


@pytest.mark.parametrize("data", [b"\xff" * 100, b"\x1a\xff\xff" * 8, b"\x0f" * 50, b"\x1a\x05" * 11 + b"\x80"])
def test_malformed_bytes_raise_nothing(data: bytes) -> None:
    """Varints without an end, lengths beyond the message and unknown wire types are not this check's business."""
    check(data, 7)


STREAMED = Counted(inside={inference_pb2.EmbedStreamRequest.REQUEST_FIELD_NUMBER: TEXTS})


def streamed(count: int, number: int = 7) -> bytes:
    request = inference_pb2.EmbedRequest(texts=["text"] * count)
    return inference_pb2.EmbedStreamRequest(id=number, request=request).SerializeToString()


def test_texts_inside_a_message_are_counted() -> None:
    """A message within a message hides nothing, also when it comes in parts, which the parser puts together."""
    check_field_counts(streamed(LIMIT), STREAMED, LIMIT)
    with pytest.raises(InvalidRequestError, match=f"texts: has more than {LIMIT} entries"):
        check_field_counts(streamed(LIMIT + 1), STREAMED, LIMIT)
    parts = streamed(LIMIT) + streamed(1)
    assert len(inference_pb2.EmbedStreamRequest.FromString(parts).request.texts) == LIMIT + 1
    with pytest.raises(InvalidRequestError, match="texts"):
        check_field_counts(parts, STREAMED, LIMIT)


def test_fields_inside_a_message_are_bounded() -> None:
    """Fields that are neither texts nor known are bounded over all levels."""
    with pytest.raises(InvalidRequestError, match="message: has more than 64 fields"):
        check_field_counts(b"\x12\x02\x10\x01" * 40, STREAMED, LIMIT)


@pytest.mark.parametrize("field", [b"\x0a\x00", b"\x78\x01", b"\x7b\x7c", b"\x7b"])
def test_messages_of_single_fields_are_bounded(field: bytes) -> None:
    """Where nothing stands more than once, nothing has to be counted for that."""
    check_field_counts(field * 32, Counted())  # a group has two tags
    data = Watched(field * 1_000_000)
    with pytest.raises(InvalidRequestError, match=r"message: has more than 64 fields$"):
        check_field_counts(data, Counted())
    assert data.furthest < 200


def test_each_list_of_texts_has_the_limit() -> None:
    """Two repeated fields of one message are counted by themselves."""
    counted = Counted({3: "texts", 4: "second_texts"})
    request = inference_pb2.ClassifyRequest(texts=["a"] * LIMIT, second_texts=["b"] * LIMIT)
    check_field_counts(request.SerializeToString(), counted, LIMIT)
    request.second_texts.append("b")
    with pytest.raises(InvalidRequestError, match="second_texts: has more than"):
        check_field_counts(request.SerializeToString(), counted, LIMIT)


@given(st.integers(0, 2**64 - 1), st.integers(0, 50))
def test_number_is_read_without_parsing(number: int, count: int) -> None:
    """The id of a message is known, however much else there is in it."""
    assert read_number(streamed(count, number), inference_pb2.EmbedStreamRequest.ID_FIELD_NUMBER) == number


@given(st.binary(max_size=100))
def test_number_of_what_is_no_message_is_some_number(data: bytes) -> None:
    """Any bytes give a number; those that the parser takes give its number."""
    number = read_number(data, 1)
    try:
        message = inference_pb2.EmbedStreamRequest.FromString(data)
    except DecodeError:
        return
    assert number == message.id


@pytest.mark.parametrize("begin", [b"", b"\x08\x07"])
def test_number_in_a_group_is_another(begin: bytes) -> None:
    """What stands in a group is no field of the message, however deep."""
    data = begin + b"\x7b\x08\x09\x7b\x7c\x08\x0a\x7c"
    assert read_number(data, 1) == inference_pb2.EmbedStreamRequest.FromString(data).id == bool(begin) * 7


def test_number_is_looked_for_only_so_far() -> None:
    """A message of many fields is not read to its end."""
    data = Watched(b"\x10\x01" * 100_000)
    assert read_number(data, 1) == 0
    assert data.furthest < 1000


FEW = Counted(
    {inference_pb2.GenerateRequest.TEXTS_FIELD_NUMBER: "texts"},
    few={
        inference_pb2.GenerateRequest.STOP_FIELD_NUMBER: Few("stop", 2),
        inference_pb2.GenerateRequest.STOP_TOKEN_IDS_FIELD_NUMBER: Few("stop_token_ids", 3, packed=True),
    },
)


@given(st.lists(st.text(min_size=20, max_size=30), max_size=4))
def test_few_strings_are_refused_exactly_over_their_own_limit(stops: list[str]) -> None:
    """However many texts there may be beside them."""
    data = inference_pb2.GenerateRequest(texts=["a text"] * LIMIT, stop=stops).SerializeToString()
    if len(stops) <= 2:
        check_field_counts(data, FEW, LIMIT)
    else:
        with pytest.raises(InvalidRequestError, match="stop: has more than 2 entries"):
            check_field_counts(data, FEW, LIMIT)


@given(st.lists(st.integers(0, 2**32 - 1), max_size=40), st.booleans())
def test_packed_numbers_are_refused_when_they_are_surely_too_many(numbers: list[int], twice: bool) -> None:  # noqa: FBT001 - drawn
    """None that are within the limit are, and never more are parsed than ten times the limit of them."""
    data = inference_pb2.GenerateRequest(texts=["a text"] * LIMIT, stop_token_ids=numbers).SerializeToString()
    data += inference_pb2.GenerateRequest(stop_token_ids=numbers).SerializeToString() if twice else b""
    count = len(numbers) * (1 + twice)
    if count <= 3:
        check_field_counts(data, FEW, LIMIT)
    elif count > 30:
        with pytest.raises(InvalidRequestError, match="stop_token_ids: has more than 3 entries"):
            check_field_counts(data, FEW, LIMIT)
