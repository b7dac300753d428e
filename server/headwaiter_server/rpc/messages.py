"""What the messages of all tasks share: parsing, and the parts that every reply has."""

from __future__ import annotations

from typing import TypeVar

from google.protobuf.message import DecodeError, Message
from headwaiter_proto.v1 import inference_pb2

from headwaiter_server.errors import InvalidRequestError
from headwaiter_server.pipeline import Reading, Timings

MessageType = TypeVar("MessageType", bound=Message)


def parse(kind: type[MessageType], data: bytes) -> MessageType:
    """Read a message.

    Raises:
        InvalidRequestError: The bytes are none.
    """
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise InvalidRequestError("message", f"is no {kind.DESCRIPTOR.full_name}") from error


def timings_message(timings: Timings, total_seconds: float) -> inference_pb2.Timings:
    """Where a call's time went, on the wire.

    Args:
        timings: What the pipeline knows.
        total_seconds: From the server's first sight of the call.
    """
    return inference_pb2.Timings(
        total_seconds=total_seconds,
        tokenize_seconds=timings.tokenize_seconds,
        queue_seconds=timings.queue_seconds,
        inference_seconds=timings.inference_seconds,
        batch_size=timings.batch_size,
        batch_tokens=timings.batch_tokens,
        batch_id=timings.batch_id,
    )


def reading_message(reading: Reading) -> inference_pb2.Reading:
    """How the texts of a call were read, on the wire."""
    return inference_pb2.Reading(tokens=reading.tokens, truncated=reading.truncated)
