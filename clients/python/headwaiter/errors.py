"""Everything that a call can end with, in the caller's words.

    HeadwaiterError
    |-- InvalidRequestError       change the request; names the field
    |-- NotFoundError             no such model or version
    |-- UnauthenticatedError      no credentials, or wrong ones
    |-- PermissionDeniedError     good credentials that do not allow this
    |-- ResourceExhaustedError    the message is too large, or a quota is used up
    |-- OverloadedError           try again later; says when
    |-- ServerUnreachableError    no server that is ready answers at the target
    |-- DeadlineExceededError     the time given to the call is over
    |-- CallCancelledError        the server or `close()` ended the call
    |-- NotSupportedError         this server does not offer the method
    `-- InternalServerError       a fault of the server; carries the id to look for in its log

The gRPC error that a call ended with is the exception's `__cause__`. One table, in `status.py`, maps status
codes to these classes; a status outside that table raises `HeadwaiterError` itself.
"""

from __future__ import annotations


class HeadwaiterError(Exception):
    """Root of every error that this package raises for a call."""


class InvalidRequestError(HeadwaiterError):
    """The server, or this package before it, refuses what the request says.

    Attributes:
        field: Path of the field, as the `.proto` names it: `texts[3]`. Empty when the server names none.
        description: What is wrong with the field, with the value and the limit.
    """

    def __init__(self, message: str, field: str = "", description: str = "") -> None:
        super().__init__(message)
        self.field = field
        self.description = description or message


class NotFoundError(HeadwaiterError):
    """The server holds no model, or no version of it, by that name."""


class UnauthenticatedError(HeadwaiterError):
    """The server asks for credentials, or does not accept those it was given."""


class PermissionDeniedError(HeadwaiterError):
    """The credentials are good, yet do not allow this call."""


class ResourceExhaustedError(HeadwaiterError):
    """The message has more bytes than one side takes, or this caller's quota is used up.

    Attributes:
        retry_after_seconds: When the quota has room again; None where it is the message that is too large.
    """

    def __init__(self, message: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class OverloadedError(HeadwaiterError):
    """The server has more work than it can finish in time, and the retries are used up.

    Attributes:
        retry_after_seconds: When the server expects to have room; None when it asks not to be tried again.
    """

    def __init__(self, message: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class ServerUnreachableError(HeadwaiterError):
    """No server that is ready answers: nothing listens, a name is unknown, TLS fails, health says no.

    Attributes:
        target: Where the client looked.
        reason: What the transport says of it.
    """

    def __init__(self, message: str, target: str = "", reason: str = "") -> None:
        super().__init__(message)
        self.target = target
        self.reason = reason


class DeadlineExceededError(HeadwaiterError):
    """The time given to the call was over before the answer was there."""


class CallCancelledError(HeadwaiterError):
    """The call was ended from outside: by the server as it stopped, or by `close()` of the client.

    A cancelled asyncio task raises `asyncio.CancelledError` as always, never this.
    """


class NotSupportedError(HeadwaiterError):
    """The server does not offer this method: an older Headwaiter, or not a Headwaiter at all."""


class InternalServerError(HeadwaiterError):
    """The server failed; it keeps the reason in its log.

    Attributes:
        error_id: What to look for in the server's log; None when the server sent none.
    """

    def __init__(self, message: str, error_id: str | None = None) -> None:
        super().__init__(message)
        self.error_id = error_id
