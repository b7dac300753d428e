"""The one place where a gRPC status becomes an exception.

Details follow gRPC's richer error model: a serialized `google.rpc.Status` in the trailing metadata
`grpc-status-details-bin`, which holds `BadRequest`, `RetryInfo` or `RequestInfo`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

from headwaiter.errors import (
    CallCancelledError,
    DeadlineExceededError,
    HeadwaiterError,
    InternalServerError,
    InvalidRequestError,
    NotFoundError,
    NotSupportedError,
    OverloadedError,
    PermissionDeniedError,
    ResourceExhaustedError,
    ServerUnreachableError,
    UnauthenticatedError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

MessageT = TypeVar("MessageT", bound=Message)

_DETAILS_KEY = "grpc-status-details-bin"
_PUSHBACK_KEY = "grpc-retry-pushback-ms"
# All that gRPC has to say where no connection came about, as the other side ended it.
_NOT_CONNECTED, _CLOSED = "last error: ", "Socket closed"
# What grpc.aio makes up when a message could not be sent. The server's own status, which tells why, is about to come.
_UNSENT = (grpc.StatusCode.INTERNAL, "Internal error from Core")
_STATUS_WAIT_SECONDS, _STATUS_TRIES = 0.01, 100


class _Failure:
    """What a failed call left behind, unpacked."""

    def __init__(self, error: grpc.RpcError, target: str) -> None:
        self.target = target
        self.code = error.code()
        self.message = error.details() or _words(self.code)
        # Pairs from grpc, a multi-valued mapping that iterates as pairs from grpc.aio. The stubs know only
        # one of them.
        metadata: Any = error.trailing_metadata() or ()
        self._metadata: dict[str, str | bytes] = dict(tuple(metadata))

    @property
    def pushed_back(self) -> bool:
        return _PUSHBACK_KEY in self._metadata

    @property
    def retry_after_seconds(self) -> float | None:
        """When the server wants to be tried again; None when it does not say."""
        retry_info = self.detail(error_details_pb2.RetryInfo)
        if retry_info is None or not retry_info.HasField("retry_delay"):
            return None
        seconds: float = retry_info.retry_delay.ToTimedelta().total_seconds()
        return seconds

    def detail(self, kind: type[MessageT]) -> MessageT | None:
        """The first detail of this kind; None when there is none, or when the bytes are not a status."""
        raw = self._metadata.get(_DETAILS_KEY)
        if not isinstance(raw, bytes):
            return None
        found = kind()
        try:
            for packed in status_pb2.Status.FromString(raw).details:
                if packed.Unpack(found):
                    return found
        except DecodeError:
            # The status itself still tells the caller what happened: never lose it over its decoration.
            return None
        return None


class _StreamFailure(_Failure):
    """What one message of a stream was answered with: a status without details."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        self.target = ""
        self.code = code
        self.message = message or _words(code)
        self._metadata = {}


def _words(code: grpc.StatusCode) -> str:
    return code.name.lower().replace("_", " ")


def _invalid(failure: _Failure) -> HeadwaiterError:
    bad_request = failure.detail(error_details_pb2.BadRequest)
    if bad_request is None or not bad_request.field_violations:
        return InvalidRequestError(failure.message)
    first = bad_request.field_violations[0]
    return InvalidRequestError(failure.message, first.field, first.description)


def _exhausted(failure: _Failure) -> HeadwaiterError:
    return ResourceExhaustedError(failure.message, failure.retry_after_seconds)


def _unavailable(failure: _Failure) -> HeadwaiterError:
    # A server that refuses under load says when to come back; a transport that finds no server cannot.
    if failure.detail(error_details_pb2.RetryInfo) is not None or failure.pushed_back:
        return OverloadedError(failure.message, failure.retry_after_seconds)
    message = f"no server that is ready answers at {failure.target}: {failure.message}"
    if _NOT_CONNECTED in failure.message and failure.message.endswith(_CLOSED):
        message += " (does one of the two speak TLS and the other not, or does the server ask for a certificate?)"
    return ServerUnreachableError(message, failure.target, failure.message)


def _internal(failure: _Failure) -> HeadwaiterError:
    request_info = failure.detail(error_details_pb2.RequestInfo)
    return InternalServerError(failure.message, request_info.request_id if request_info else None)


def _plain(kind: type[HeadwaiterError]) -> Callable[[_Failure], HeadwaiterError]:
    return lambda failure: kind(failure.message)


_BY_CODE: dict[grpc.StatusCode, Callable[[_Failure], HeadwaiterError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: _invalid,
    grpc.StatusCode.OUT_OF_RANGE: _invalid,
    grpc.StatusCode.NOT_FOUND: _plain(NotFoundError),
    grpc.StatusCode.UNAUTHENTICATED: _plain(UnauthenticatedError),
    grpc.StatusCode.PERMISSION_DENIED: _plain(PermissionDeniedError),
    grpc.StatusCode.RESOURCE_EXHAUSTED: _exhausted,
    grpc.StatusCode.UNAVAILABLE: _unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: _plain(DeadlineExceededError),
    grpc.StatusCode.CANCELLED: _plain(CallCancelledError),
    grpc.StatusCode.UNIMPLEMENTED: _plain(NotSupportedError),
    grpc.StatusCode.INTERNAL: _internal,
    grpc.StatusCode.UNKNOWN: _internal,
    grpc.StatusCode.DATA_LOSS: _internal,
}


_BY_NUMBER = {status.value[0]: status for status in grpc.StatusCode}


def error_from_rpc(error: grpc.RpcError, target: str) -> HeadwaiterError:
    """Builds the exception for a failed call; raise it `from error`.

    Args:
        error: What grpc or grpc.aio raised: both carry code, details and trailing metadata.
        target: Where the call went, for messages.

    Returns:
        An instance of the class that the status maps to, with the fields its details carry.
    """
    failure = _Failure(error, target)
    build = _BY_CODE.get(failure.code)
    return build(failure) if build else HeadwaiterError(f"{failure.code.name}: {failure.message}")


async def told_by_server(
    call: grpc.aio.StreamStreamCall[Any, Any],
    error: grpc.RpcError,
) -> grpc.RpcError:
    """What the server ended a stream with.

    A message that is sent in the moment in which the server ends the stream fails with an error of grpc.aio's own. It
    is replaced by the server's status as soon as that is read.

    Args:
        call: The stream.
        error: What its reading or writing raised.
    """
    for _ in range(_STATUS_TRIES):
        if (error.code(), error.details()) != _UNSENT:
            break
        await asyncio.sleep(_STATUS_WAIT_SECONDS)
        try:
            await call.read()
        except grpc.RpcError as again:
            error = again
    return error


def error_from_stream(code: int, message: str, retry_seconds: float) -> HeadwaiterError:
    """Builds the exception for one message of a stream that was refused; the stream itself goes on.

    Args:
        code: Number of the gRPC status that a call would have ended with.
        message: What happened. Of a request that is refused it begins with the field.
        retry_seconds: When to try again; 0 when that is no use.

    Returns:
        An instance of the class that the status maps to.
    """
    status = _BY_NUMBER.get(code)
    if status is None:
        return HeadwaiterError(f"status {code}: {message}")
    if status is grpc.StatusCode.UNAVAILABLE:
        return OverloadedError(message, retry_seconds or None)
    if status is grpc.StatusCode.INVALID_ARGUMENT:
        field, colon, description = message.partition(": ")
        return InvalidRequestError(message, field, description) if colon else InvalidRequestError(message)
    build = _BY_CODE.get(status)
    return build(_StreamFailure(status, message)) if build else HeadwaiterError(f"{status.name}: {message}")
