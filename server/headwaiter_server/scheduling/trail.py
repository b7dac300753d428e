"""How far a call has come, so that it can be told however the call ends."""

from __future__ import annotations

from headwaiter_server.tracing import CallSpan


class Trail:
    """What those note who take a call a step further. Times are those of the scheduler's clock, None before.

    Attributes:
        span: What is told of the call, if it is traced.
        tokenizing: When tokenizing its texts began.
        tokenized: When that was done.
        tokens: Of its texts.
        submitted: When they began to wait.
        started: When the first run began that held one of them.
        batch_id: Number of that run.
        first_token: When something was generated first, of a call that is told of it at once.
        answered: When the last of their answers was there.
        cache_hits: Rows whose answer was remembered, or was on its way for somebody else.
        cache_misses: Rows that were looked for in the cache, and not found.
    """

    __slots__ = (
        "answered",
        "batch_id",
        "cache_hits",
        "cache_misses",
        "first_token",
        "span",
        "started",
        "submitted",
        "tokenized",
        "tokenizing",
        "tokens",
    )

    def __init__(self) -> None:
        self.span: CallSpan | None = None
        self.tokenizing: float | None = None
        self.tokenized: float | None = None
        self.tokens: int | None = None
        self.submitted: float | None = None
        self.started: float | None = None
        self.batch_id: int | None = None
        self.first_token: float | None = None
        self.answered: float | None = None
        self.cache_hits = 0
        self.cache_misses = 0

    def read(self, began: float, ended: float, tokens: int) -> None:
        """Its texts are tokens now."""
        self.tokenizing, self.tokenized, self.tokens = began, ended, tokens

    def began(self, now: float, batch_id: int) -> None:
        """A run begins that holds one of its texts. Called on the worker."""
        if self.started is None:
            self.started, self.batch_id = now, batch_id
