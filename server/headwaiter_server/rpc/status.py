"""The one table from errors to gRPC statuses, with the details that clients act on."""

from __future__ import annotations

import math
import secrets
from dataclasses import dataclass

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from headwaiter_server.errors import (
    DeadlineExceededError,
    EngineError,
    InvalidRequestError,
    ModelLoadError,
    NotAllowedError,
    OverloadedError,
    QuotaExceededError,
    RegionExistsError,
    RequestError,
    TooManyRegionsError,
    UnauthenticatedError,
    UnknownModelError,
    UnknownRegionError,
    UnsupportedError,
    sendable,
)
from headwaiter_server.log import get_logger

_log = get_logger(__name__)

_CODES: dict[type[RequestError], grpc.StatusCode] = {
    InvalidRequestError: grpc.StatusCode.INVALID_ARGUMENT,
    UnknownModelError: grpc.StatusCode.NOT_FOUND,
    UnsupportedError: grpc.StatusCode.UNIMPLEMENTED,
    ModelLoadError: grpc.StatusCode.FAILED_PRECONDITION,
    UnknownRegionError: grpc.StatusCode.NOT_FOUND,
    RegionExistsError: grpc.StatusCode.ALREADY_EXISTS,
    TooManyRegionsError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    UnauthenticatedError: grpc.StatusCode.UNAUTHENTICATED,
    NotAllowedError: grpc.StatusCode.PERMISSION_DENIED,
    QuotaExceededError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    OverloadedError: grpc.StatusCode.UNAVAILABLE,
    DeadlineExceededError: grpc.StatusCode.DEADLINE_EXCEEDED,
    EngineError: grpc.StatusCode.INTERNAL,
}

# What is wrong with a field goes into the details, beside the whole message there and as the status's own: all of them
# must fit into the 8 KiB that gRPC allows for trailing metadata.
_MOST_FIELD_BYTES = 250
_MOST_DESCRIPTION_BYTES = 500

DETAILS_KEY = "grpc-status-details-bin"
PUSHBACK_KEY = "grpc-retry-pushback-ms"
# gRPC retry design (gRFC A6): a negative push-back tells the client not to retry.
DO_NOT_RETRY = "-1"

Metadata = tuple[tuple[str, str | bytes], ...]


@dataclass(frozen=True, slots=True)
class Status:
    """A gRPC status as it goes onto the wire.

    Attributes:
        code: The status code.
        message: For a person.
        trailers: Trailing metadata: google.rpc.Status with details, retry push-back.
        retry_seconds: When to try again, as the trailers say; 0 when that is no use.
    """

    code: grpc.StatusCode
    message: str
    trailers: Metadata
    retry_seconds: float = 0.0

    @property
    def number(self) -> int:
        """The code as a number."""
        number: int = self.code.value[0]
        return number


def status_of(error: Exception) -> Status:
    """The status that answers a call which ended with an error.

    What was raised on purpose keeps its message. Anything else is logged whole under an opaque id, and the caller gets
    the id.
    """
    code = next((_CODES[kind] for kind in type(error).__mro__ if kind in _CODES), None)
    if code is None or code is grpc.StatusCode.INTERNAL:
        return _masked(error)
    message = sendable(str(error))
    trailers: Metadata = ((DETAILS_KEY, _details(code, message, _explain(error))),)
    if not isinstance(error, OverloadedError):
        return Status(code, message, trailers)
    wait_seconds = error.retry_after_seconds
    trailers = (*trailers, (PUSHBACK_KEY, _pushback(wait_seconds)))
    return Status(code, message, trailers, wait_seconds if math.isfinite(wait_seconds) else 0.0)


def _pushback(wait_seconds: float) -> str:
    # A push-back of 0 makes grpcio 1.85's client wait until its deadline; 1 ms does not.
    return DO_NOT_RETRY if math.isinf(wait_seconds) else str(max(1, math.ceil(wait_seconds * 1000)))


def _masked(error: Exception) -> Status:
    error_id = secrets.token_hex(8)
    _log.error("internal_error", error_id=error_id, exc_info=error)
    code, message = grpc.StatusCode.INTERNAL, f"internal error {error_id}"
    return Status(
        code, message, ((DETAILS_KEY, _details(code, message, [error_details_pb2.RequestInfo(request_id=error_id)])),)
    )


def _explain(error: Exception) -> list[Message]:
    """What a client's program, and not only its user, can act on."""
    if isinstance(error, InvalidRequestError | UnsupportedError):
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=sendable(error.field, _MOST_FIELD_BYTES),
            description=sendable(error.description, _MOST_DESCRIPTION_BYTES),
        )
        return [error_details_pb2.BadRequest(field_violations=[violation])]
    if isinstance(error, OverloadedError) and math.isfinite(error.retry_after_seconds):
        info = error_details_pb2.RetryInfo()
        info.retry_delay.FromNanoseconds(round(error.retry_after_seconds * 1e9))
        return [info]
    return []


def _details(code: grpc.StatusCode, message: str, details: list[Message]) -> bytes:
    """A serialized google.rpc.Status."""
    number: int = code.value[0]
    status = status_pb2.Status(code=number, message=message)
    for detail in details:
        status.details.add().Pack(detail)
    serialized: bytes = status.SerializeToString()
    return serialized
