"""What comes of one message."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import grpc

OK: Final = "OK"


@dataclass(frozen=True, slots=True)
class Generated:
    """What a call has generated, and when it came.

    Attributes:
        tokens: All tokens of its texts.
        first_times: Of a stream: when the first token of each text was there, by `time.monotonic`.
        gaps_seconds: Of a stream: between a piece of a text that brings tokens and the next such piece of it.
    """

    tokens: int
    first_times: tuple[float, ...] = ()
    gaps_seconds: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one message.

    Attributes:
        code: Name of a gRPC status code.
        message: What the server said of it, if it is not OK.
        received_bytes: Length of the answer.
        generated: What was generated; None of other tasks.
    """

    code: str
    message: str = ""
    received_bytes: int = 0
    generated: Generated | None = None


def failure(error: grpc.aio.AioRpcError) -> Outcome:
    """What came of a call that has failed."""
    return Outcome(error.code().name, error.details() or "")
