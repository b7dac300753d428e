"""Everything that can go wrong, in the domain's words.

    HeadwaiterError
    |-- ConfigError                 a setting is unknown or out of range
    |-- BundleError                 a bundle cannot be trusted, read or run
    `-- RequestError                one call is answered with an error
        |-- InvalidRequestError     the caller must change the request
        |-- UnknownModelError       no such model or version
        |-- OverloadedError         try again, later or elsewhere
        |   |-- QueueFullError
        |   |-- DeadlineUnreachableError
        |   |-- DrainingError
        |   `-- ModelUnavailableError
        |-- DeadlineExceededError   too late
        `-- EngineError             the model failed on this input

One table, in `rpc/status.py`, maps them to gRPC status codes.
"""

from __future__ import annotations


class HeadwaiterError(Exception):
    """Root of every error that Headwaiter raises on purpose; its message is fit for the person it reaches."""


class ConfigError(HeadwaiterError):
    """A setting is unknown, missing or out of range: the server does not start."""


class BundleError(HeadwaiterError):
    """A bundle is incomplete, altered, from another format version, or does not compute what it certifies."""


class RequestError(HeadwaiterError):
    """A call is answered with an error; the message goes to the caller."""


class InvalidRequestError(RequestError):
    """The request itself is wrong.

    Attributes:
        field: Path of the field in the request, `texts[3]`.
        description: What is wrong with it, with the value and the limit.
    """

    def __init__(self, field: str, description: str) -> None:
        super().__init__(f"{field}: {description}")
        self.field = field
        self.description = description


class UnknownModelError(RequestError):
    """No model, or no version of it, goes by that name."""


class OverloadedError(RequestError):
    """Not now.

    Attributes:
        retry_after_seconds: When to try again; infinite tells the caller's retry policy not to.
    """

    def __init__(self, message: str, retry_after_seconds: float) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class QueueFullError(OverloadedError):
    """As much is waiting as the server is set to hold."""


class DeadlineUnreachableError(OverloadedError):
    """By the prediction the answer would come after the caller's deadline."""


class DrainingError(OverloadedError):
    """The server is shutting down."""


class ModelUnavailableError(OverloadedError):
    """The model exists but cannot answer now."""


class DeadlineExceededError(RequestError):
    """The caller's deadline passed before the answer was there."""


class EngineError(RequestError):
    """The model failed on this input; the cause goes to the log, never to the caller."""
