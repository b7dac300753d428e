"""Everything that can go wrong, in the domain's words.

    HeadwaiterError
    |-- ConfigError                 a setting is unknown or out of range
    |-- BundleError                 a bundle cannot be trusted, read or run
    `-- RequestError                one call is answered with an error
        |-- InvalidRequestError     the caller must change the request
        |-- UnknownModelError       no such model or version
        |-- UnsupportedError        the protocol has it, this server does not
        |-- ModelLoadError          a model was to be loaded, and cannot serve
        |-- UnknownRegionError      no shared memory is registered under that name
        |-- RegionExistsError       some is already
        |-- TooManyRegionsError     no more can be
        |-- UnauthenticatedError    nobody knows who calls
        |-- NotAllowedError         somebody calls who may not
        |-- OverloadedError         try again, later or elsewhere
        |   |-- QueueFullError
        |   |-- QuotaExceededError
        |   |-- DeadlineUnreachableError
        |   |-- DrainingError
        |   `-- ModelUnavailableError
        |-- DeadlineExceededError   too late
        `-- EngineError             the model failed on this input

One table, in `rpc/status.py`, maps them to gRPC status codes.
"""

from __future__ import annotations

# It travels twice, in what gRPC allows 8 KiB for; what is no ASCII takes three times its bytes there.
_MOST_MESSAGE_BYTES = 1500


class HeadwaiterError(Exception):
    """Root of every error that Headwaiter raises on purpose; its message is fit for the person it reaches."""


class ConfigError(HeadwaiterError):
    """A setting is unknown, missing or out of range: the server does not start."""


class BundleError(HeadwaiterError):
    """A bundle is incomplete, altered, from another format version, or does not compute what it certifies.

    The whole text is for whoever runs the server, and for the log.

    Attributes:
        message: Our own words, which callers who load models may read too.
        said: What a library or another process said to it, which they may not: it tells of this machine.
    """

    def __init__(self, message: str, said: object = "") -> None:
        self.message = sendable(message)
        self.said = sendable(str(said))
        super().__init__(sendable(f"{message}: {self.said}" if self.said else message))

    def within(self, place: object) -> BundleError:
        """The same, which says where it happened."""
        return BundleError(f"{place}: {self.message}", self.said)


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


class UnsupportedError(RequestError):
    """The request asks for something that its protocol knows, and this server does not do.

    Attributes:
        field: Path of the field that asks for it, `parameters[sequence_id]`.
        description: What is not done.
    """

    def __init__(self, field: str, description: str) -> None:
        super().__init__(f"{field}: {description}")
        self.field = field
        self.description = description


class UnknownRegionError(RequestError):
    """No region of shared memory is registered under that name."""


class RegionExistsError(RequestError):
    """A region of shared memory is registered under that name already."""


class TooManyRegionsError(RequestError):
    """As much shared memory is registered as the server lets be."""


class ModelLoadError(RequestError):
    """A model was to be loaded, and cannot serve; what served before goes on."""

    def __init__(self, message: str) -> None:
        super().__init__(sendable(message))


class UnauthenticatedError(RequestError):
    """The caller shows no token, or one that is not known."""


class NotAllowedError(RequestError):
    """The caller is known, and has no role that allows this."""


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


class QuotaExceededError(OverloadedError):
    """The caller has had as much as it may have in the time."""


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


def sendable(message: str, most_bytes: int = _MOST_MESSAGE_BYTES) -> str:
    """A message that quotes what others wrote, as it can be sent: no halves of surrogate pairs, and not too long.

    Args:
        message: The message.
        most_bytes: How much of it is sent, in UTF-8.
    """
    data = message.encode(errors="replace")
    if len(data) <= most_bytes:
        return data.decode()
    return data[:most_bytes].decode(errors="ignore") + " ..."
