"""From errors to gRPC statuses, as a client reads them."""

from __future__ import annotations

import math
from typing import TypeVar

import grpc
import pytest
import structlog
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from headwaiter_server import errors
from headwaiter_server.rpc import status as status_module
from headwaiter_server.rpc.status import DETAILS_KEY, PUSHBACK_KEY, Status, status_of
from structlog.testing import LogCapture

Code = grpc.StatusCode
Detail = TypeVar("Detail", bound=Message)

EXPECTED: list[tuple[errors.RequestError, grpc.StatusCode]] = [
    (errors.InvalidRequestError("texts[3]", "is empty"), Code.INVALID_ARGUMENT),
    (errors.UnknownModelError("no model 'x'"), Code.NOT_FOUND),
    (errors.UnknownRegionError("no region 'x'"), Code.NOT_FOUND),
    (errors.UnsupportedError("parameters[sequence_id]", "asks for a sequence"), Code.UNIMPLEMENTED),
    (errors.ModelLoadError("model 'x' failed to load"), Code.FAILED_PRECONDITION),
    (errors.RegionExistsError("region 'x' exists"), Code.ALREADY_EXISTS),
    (errors.TooManyRegionsError("1024 regions"), Code.RESOURCE_EXHAUSTED),
    (errors.UnauthenticatedError("no token"), Code.UNAUTHENTICATED),
    (errors.NotAllowedError("takes the role control"), Code.PERMISSION_DENIED),
    (errors.QuotaExceededError("10 calls a second", 0.1), Code.RESOURCE_EXHAUSTED),
    (errors.QueueFullError("full", 0.25), Code.UNAVAILABLE),
    (errors.DeadlineUnreachableError("in 2 s", math.inf), Code.UNAVAILABLE),
    (errors.DrainingError("shutting down", 1.0), Code.UNAVAILABLE),
    (errors.ModelUnavailableError("not loaded", math.inf), Code.UNAVAILABLE),
    (errors.DeadlineExceededError("too late"), Code.DEADLINE_EXCEEDED),
]


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> LogCapture:
    """What is logged, whatever else has configured logging in this process."""
    capture = LogCapture()
    monkeypatch.setattr(status_module, "_log", structlog.wrap_logger(None, processors=[capture]))
    return capture


def details(status: Status) -> status_pb2.Status:
    serialized = dict(status.trailers)[DETAILS_KEY]
    assert isinstance(serialized, bytes)
    return status_pb2.Status.FromString(serialized)


def unpacked(status: Status, kind: type[Detail]) -> Detail:
    (packed,) = details(status).details
    message = kind()
    assert packed.Unpack(message)
    return message


@pytest.mark.parametrize(("error", "code"), EXPECTED, ids=lambda value: type(value).__name__)
def test_every_error_has_its_code_and_keeps_its_message(
    error: errors.RequestError, code: grpc.StatusCode, logged: LogCapture
) -> None:
    """What was raised on purpose reaches the caller under one code, in the status and in its details alike."""
    status = status_of(error)
    assert (status.code, status.message) == (code, str(error))
    assert (details(status).code, details(status).message) == (code.value[0], str(error))
    assert logged.entries == []


def test_every_request_error_is_covered() -> None:
    """No class of request error is without a line in the table of this test."""
    covered = {type(error) for error, _ in EXPECTED} | {errors.EngineError}
    pending, leaves = [errors.RequestError], set()
    while pending:
        kind = pending.pop()
        pending += kind.__subclasses__()
        if kind.__module__ == errors.__name__ and not kind.__subclasses__():
            leaves.add(kind)
    assert leaves == covered


def test_wrong_field_is_named_in_the_details() -> None:
    """A client finds the field and what is wrong with it without parsing the message."""
    status = status_of(errors.InvalidRequestError("texts[3]", "has 70 tokens, the limit is 64"))
    (violation,) = unpacked(status, error_details_pb2.BadRequest).field_violations
    assert (violation.field, violation.description) == ("texts[3]", "has 70 tokens, the limit is 64")
    assert PUSHBACK_KEY not in dict(status.trailers)


@pytest.mark.parametrize("kind", [errors.QueueFullError, errors.QuotaExceededError])
@pytest.mark.parametrize(("seconds", "pushback"), [(0.25, "250"), (1.0, "1000"), (0.0, "1"), (0.0011, "2")])
def test_overload_tells_when_to_retry(kind: type[errors.OverloadedError], seconds: float, pushback: str) -> None:
    """The trailer gives gRPC's own retries whole milliseconds, never 0; the details give others the exact time."""
    status = status_of(kind("full", seconds))
    assert dict(status.trailers)[PUSHBACK_KEY] == pushback
    delay = unpacked(status, error_details_pb2.RetryInfo).retry_delay
    assert delay.seconds + delay.nanos / 1e9 == pytest.approx(seconds)


def test_infinite_wait_forbids_retries() -> None:
    """An infinite wait is a negative push-back, which gRPC takes as a ban on retries, and no RetryInfo."""
    status = status_of(errors.ModelUnavailableError("gone", math.inf))
    assert dict(status.trailers)[PUSHBACK_KEY] == "-1"
    assert not details(status).details


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("secret /path"),
        errors.EngineError("secret tensor"),
        errors.BundleError("secret folder"),
        errors.RequestError("secret class without a code"),
        KeyError("secret"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_unexpected_errors_are_masked_and_logged_under_an_id(error: Exception, logged: LogCapture) -> None:
    """The caller gets an id and nothing of the text; the log gets the id and the error itself."""
    status = status_of(error)
    assert status.code is Code.INTERNAL
    assert "secret" not in status.message
    assert b"secret" not in details(status).SerializeToString()
    assert PUSHBACK_KEY not in dict(status.trailers)
    (entry,) = logged.entries
    assert entry["log_level"] == "error"
    assert entry["exc_info"] is error
    assert status.message == details(status).message == f"internal error {entry['error_id']}"
    assert unpacked(status, error_details_pb2.RequestInfo).request_id == entry["error_id"]


def test_every_masked_error_has_its_own_id(logged: LogCapture) -> None:
    """Two failures can be told apart in the log."""
    first, second = status_of(RuntimeError("x")), status_of(RuntimeError("x"))
    assert first.message != second.message
    assert len(logged.entries) == 2


# What gRPC allows for trailing metadata, with room for the times of a call.
MOST_TRAILER_BYTES = 8192 - 500


@pytest.mark.parametrize("character", ["x", "é", "語", "\0", "\ud800"])
@pytest.mark.parametrize("kind", [errors.InvalidRequestError, errors.UnsupportedError])
def test_long_quotes_fit_into_the_trailers(
    kind: type[errors.InvalidRequestError | errors.UnsupportedError], character: str
) -> None:
    """An error that quotes a request of 60,000 characters, of whatever kind, can be sent with its details."""
    status = status_of(kind(f"parameters[{character * 60_000}]", character * 60_000))
    percent_encoded = 3 * len(status.message.encode())
    base64 = sum(4 * len(value) // 3 for _, value in status.trailers)
    assert percent_encoded + base64 < MOST_TRAILER_BYTES
    details = status_pb2.Status.FromString(dict(status.trailers)[DETAILS_KEY])
    bad_request = error_details_pb2.BadRequest()
    assert details.details[0].Unpack(bad_request)
    assert bad_request.field_violations[0].field.startswith("parameters[")
    assert bad_request.field_violations[0].description


def test_long_names_fit_into_the_trailers() -> None:
    """So does an error without a field."""
    status = status_of(errors.UnknownModelError("é" * 60_000))
    assert 3 * len(status.message.encode()) + sum(4 * len(value) // 3 for _, value in status.trailers) < (
        MOST_TRAILER_BYTES
    )
