"""Requests and answers of `ModelInfer` as bytes: the elements of tensors pass by protocol buffers, uncopied.

`raw_input_contents` stay where they are in the message that came. What is left of it, its form, is parsed; once, where
request after request says the same. `raw_output_contents` are put behind the rest of the answer, which by the wire
format is the same message.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from headwaiter_proto.inference import grpc_service_pb2

from headwaiter_server.errors import InvalidRequestError
from headwaiter_server.rpc.wire import next_field

# Fields of a request, and again of all its tensors and parameters together, at any depth.
MOST_FIELDS = 4096
# Sizes of one shape; numpy takes a few more.
MOST_AXES = 32
# Elements that are fields of their own, as BYTES are: there are better ways to send more.
MOST_TYPED_ELEMENTS = 16_384
# Of whole numbers that are sent as varints, which a parser makes up to eight times as long, and are slow to read.
MOST_NUMBER_BYTES = 1 << 18

Buffer = bytes | memoryview

_MOST_SHAPE_BYTES = MOST_AXES * 10  # a varint has so many at most
_LENGTH_DELIMITED = 2
# Nobody sends any; in one, what looks like raw contents would be none.
_GROUPS = (3, 4)
_SMALLEST_FIELD_BYTES = 2
_MORE = 0x80
_LENGTH_BITS = 7


def _tag(number: int) -> int:
    return number << 3 | _LENGTH_DELIMITED


_REQUEST = grpc_service_pb2.ModelInferRequest
_ID = _tag(_REQUEST.ID_FIELD_NUMBER)
_RAW_INPUT = _tag(_REQUEST.RAW_INPUT_CONTENTS_FIELD_NUMBER)
_SHAPE = _tag(_REQUEST.InferInputTensor.SHAPE_FIELD_NUMBER)
_CONTENTS = _tag(_REQUEST.InferInputTensor.CONTENTS_FIELD_NUMBER)
_ELEMENTS = grpc_service_pb2.InferTensorContents
# Floats are not among them: they are copied as they are.
_PACKED_VARINTS = frozenset(
    _tag(number)
    for number in (
        _ELEMENTS.BOOL_CONTENTS_FIELD_NUMBER,
        _ELEMENTS.INT_CONTENTS_FIELD_NUMBER,
        _ELEMENTS.INT64_CONTENTS_FIELD_NUMBER,
        _ELEMENTS.UINT_CONTENTS_FIELD_NUMBER,
        _ELEMENTS.UINT64_CONTENTS_FIELD_NUMBER,
    )
)

# What is looked into: tags of fields that are messages, and of those within them.
_Inside = Mapping[int, "_Inside"]
_VALUE_OF_ENTRY = _tag(2)  # of any map
_ENTRY: _Inside = {_VALUE_OF_ENTRY: {}}
_INSIDE_INPUT: _Inside = {_tag(_REQUEST.InferInputTensor.PARAMETERS_FIELD_NUMBER): _ENTRY}
_INSIDE_REQUEST: _Inside = {
    _tag(_REQUEST.PARAMETERS_FIELD_NUMBER): _ENTRY,
    _tag(_REQUEST.INPUTS_FIELD_NUMBER): _INSIDE_INPUT,
    _tag(_REQUEST.OUTPUTS_FIELD_NUMBER): {_tag(_REQUEST.InferRequestedOutputTensor.PARAMETERS_FIELD_NUMBER): _ENTRY},
}
_ANSWERED_ID = _tag(grpc_service_pb2.ModelInferResponse.ID_FIELD_NUMBER)
_RAW_OUTPUT = _tag(grpc_service_pb2.ModelInferResponse.RAW_OUTPUT_CONTENTS_FIELD_NUMBER)
_STREAMED = _tag(grpc_service_pb2.ModelStreamInferResponse.INFER_RESPONSE_FIELD_NUMBER)


@dataclass(frozen=True, slots=True)
class InferRequest:
    """A request taken apart, but for its form, which nobody has looked at.

    Attributes:
        form: The rest of the message.
        id: Chosen by the sender.
        data: The bytes that came.
        raw_contents: Where in them each of the raw contents begins and ends.
    """

    form: bytes
    id: bytes
    data: bytes
    raw_contents: list[tuple[int, int]]


def open_request(data: bytes) -> InferRequest:
    """Take a request apart.

    Raises:
        InvalidRequestError: The bytes are none, or have more fields than any request needs.
    """
    raw_contents: list[tuple[int, int]] = []
    parts: list[bytes] = []
    sent_id = b""
    position = part_from = fields = 0
    end = len(data)
    try:
        while position < end:
            began = position
            tag, start, position = next_field(data, position)
            fields += 1
            if fields > MOST_FIELDS:
                raise InvalidRequestError("message", f"has more than {MOST_FIELDS} fields")
            if tag == _RAW_INPUT:
                raw_contents.append((start, position))
            elif tag == _ID:
                sent_id = data[start:position]
                sent_id.decode()
            elif tag & 7 in _GROUPS:
                break
            else:
                continue
            if part_from < began:
                parts.append(data[part_from:began])
            part_from = position
    except (IndexError, KeyError, UnicodeDecodeError):
        position = end + 1
    if position != end:
        raise InvalidRequestError("message", "is no inference.ModelInferRequest")
    if part_from < end:
        parts.append(data[part_from:])
    return InferRequest(b"".join(parts), sent_id, data, raw_contents)


def check_form(form: bytes) -> None:
    """Refuse tensors and parameters with more parts than a parser should have to make.

    What is no message is left to the parser, which says so better.

    Raises:
        InvalidRequestError: They have more.
    """
    if len(form) <= MOST_FIELDS * _SMALLEST_FIELD_BYTES:
        return
    counts = _Counts()
    position = 0
    try:
        while position < len(form):
            tag, start, position = next_field(form, position)
            inside = _INSIDE_REQUEST.get(tag)
            if inside is not None:
                _count(form, start, position, inside, counts)
    except (IndexError, KeyError):
        return


@dataclass(slots=True)
class _Counts:
    """What was counted so far.

    Attributes:
        fields: Of tensors and parameters, at any depth.
        elements: Elements that are fields of their own.
        number_bytes: Bytes of elements that are varints one behind the other.
    """

    fields: int = 0
    elements: int = 0
    number_bytes: int = 0


def _count(form: bytes, position: int, end: int, inside: _Inside, counts: _Counts) -> None:
    """Count the fields of one message, and of those within it."""
    while position < end:
        tag, start, position = next_field(form, position)
        counts.fields += 1
        if counts.fields > MOST_FIELDS:
            raise InvalidRequestError("message", f"has more than {MOST_FIELDS} fields in its tensors and parameters")
        if tag == _SHAPE and inside is _INSIDE_INPUT:
            if position - start > _MOST_SHAPE_BYTES:
                raise InvalidRequestError("inputs", f"have a shape of more than {MOST_AXES} axes")
        elif tag == _CONTENTS and inside is _INSIDE_INPUT:
            _count_elements(form, start, position, counts)
        elif (deeper := inside.get(tag)) is not None:
            _count(form, start, position, deeper, counts)


def _count_elements(form: bytes, position: int, end: int, counts: _Counts) -> None:
    while position < end:
        tag, start, position = next_field(form, position)
        counts.elements += 1
        if counts.elements > MOST_TYPED_ELEMENTS:
            raise InvalidRequestError(
                "inputs", f"have more than {MOST_TYPED_ELEMENTS} elements in their contents: send raw_input_contents"
            )
        if tag in _PACKED_VARINTS:
            counts.number_bytes += position - start
            if counts.number_bytes > MOST_NUMBER_BYTES:
                raise InvalidRequestError(
                    "inputs",
                    f"have more than {MOST_NUMBER_BYTES} bytes of whole numbers in their contents: "
                    "send raw_input_contents",
                )


def write_response(header: Sequence[bytes], raw_contents: Sequence[Buffer], *, streamed: bool) -> bytes:
    """An answer as bytes; the elements of its outputs are copied once, into it.

    Args:
        header: All but the elements, in parts.
        raw_contents: The elements of each output, contiguous.
        streamed: Whether it goes onto a stream, as a `ModelStreamInferResponse`.
    """
    parts: list[Buffer] = [*header]
    for content in raw_contents:
        parts.append(_length_prefix(_RAW_OUTPUT, len(content) if isinstance(content, bytes) else content.nbytes))
        parts.append(content)
    if streamed:
        size = sum(len(part) if isinstance(part, bytes) else part.nbytes for part in parts)
        parts.insert(0, _length_prefix(_STREAMED, size))
    return b"".join(parts)


@lru_cache(1024)
def _length_prefix(tag: int, size: int) -> bytes:
    """A tag, and the length of what follows."""
    prefix = bytearray((tag,))
    while size >= _MORE:
        prefix.append(size & (_MORE - 1) | _MORE)
        size >>= _LENGTH_BITS
    prefix.append(size)
    return bytes(prefix)


def id_field(sent_id: bytes) -> bytes:
    """A request's id, for its answer."""
    return _length_prefix(_ANSWERED_ID, len(sent_id)) + sent_id if sent_id else b""


def write_stream_error(message: str, sent_id: bytes) -> bytes:
    """What says on a stream that a request has no answer; its id stands where it would in that."""
    header = grpc_service_pb2.ModelStreamInferResponse(error_message=message).SerializeToString()
    answer = id_field(sent_id)
    return header + _length_prefix(_STREAMED, len(answer)) + answer
