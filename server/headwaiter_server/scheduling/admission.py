"""Who may come in. Decided at once, calls and bytes before a message is parsed: admission never waits."""

from __future__ import annotations

import asyncio
import math
from types import TracebackType
from typing import Protocol, Self

from headwaiter_server.errors import DrainingError, InvalidRequestError, QueueFullError

# Long enough for a queue to move or for a client to find another server, short enough to be worth the wait.
RETRY_SECONDS = 0.1


class Kept(Protocol):
    """Something that must not go away while a call works with it."""

    def take(self) -> None:
        """Count one more call that works with it."""
        ...

    def release(self) -> None:
        """Count one off."""
        ...


class Permit:
    """A place in the server, held from before a call is parsed until its answer is out.

    Use it as a context manager. Functions that do a call's work take one, so that forgetting admission does not run.

    Attributes:
        kept: What is kept for the call.
        size_bytes: Bytes that it is counted with.
        texts: Texts that it is counted with.
    """

    __slots__ = ("_admission", "kept", "size_bytes", "texts")

    def __init__(self, admission: Admission, size_bytes: int) -> None:
        self._admission = admission
        self.kept: tuple[Kept, ...] = ()
        self.size_bytes = size_bytes
        self.texts = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._admission.release(self)
        for each in self.kept:
            each.release()
        self.kept = ()

    def keep(self, thing: Kept) -> None:
        """Have something kept until the call is over."""
        thing.take()
        self.kept += (thing,)

    def hold_texts(self, count: int) -> None:
        """Count the call's texts, once they are known and before any of them waits; all of them or none.

        Raises:
            QueueFullError: As many as the server is set to hold are held already.
        """
        self._admission.hold_texts(self, count)

    def hold_bytes(self, count: int, field: str, remedy: str = "") -> None:
        """Count bytes that the call takes beside its message, before they are there.

        Args:
            count: How many.
            field: What in the request asks for them.
            remedy: What a caller who is refused may do; "" where that is plain.

        Raises:
            InvalidRequestError: They are more than the server is ever set to hold.
            QueueFullError: They are more than there is room for now.
        """
        self._admission.hold_bytes(self, count, field, remedy)


class Admission:
    """Counts calls, their bytes and their texts, and knows whether the server still takes any.

    Attributes:
        max_calls: Most calls held at once.
        max_texts: Most of their texts.
        calls: Calls held.
        texts: Of these calls.
    """

    def __init__(self, max_calls: int, max_bytes: int, max_texts: float = math.inf) -> None:
        """Set the bounds.

        Args:
            max_calls: Most calls held at once.
            max_bytes: Most bytes of their messages.
            max_texts: Most of their texts.
        """
        self.max_calls = max_calls
        self.max_texts = max_texts
        self._max_bytes = max_bytes
        self._bytes = 0
        self._draining = False
        self._empty = asyncio.Event()
        self._empty.set()
        self.calls = 0
        self.texts = 0

    def admit(self, size_bytes: int) -> Permit:
        """Take a call in.

        Args:
            size_bytes: Size of its message.

        Raises:
            DrainingError: The server is shutting down.
            QueueFullError: A bound is reached.
        """
        if self._draining:
            raise DrainingError("the server is shutting down", RETRY_SECONDS)
        if self.calls >= self.max_calls:
            raise QueueFullError(f"{self.max_calls} calls are waiting already", RETRY_SECONDS)
        if self._bytes + size_bytes > self._max_bytes and self.calls:
            raise QueueFullError(f"{self._max_bytes} bytes of calls are waiting already", RETRY_SECONDS)
        return self.let_in(size_bytes)

    def let_in(self, size_bytes: int) -> Permit:
        """Take in a call that is answered also when nothing else is: one that asks how the server is, and costs little.

        Args:
            size_bytes: Size of its message.
        """
        self.calls += 1
        self._bytes += size_bytes
        self._empty.clear()
        return Permit(self, size_bytes)

    def hold_texts(self, permit: Permit, count: int) -> None:
        """Count a call's texts; see `Permit.hold_texts`."""
        if self.texts + count > self.max_texts and self.texts:
            raise QueueFullError(
                f"{self.texts} texts are waiting already, the limit is {self.max_texts}", RETRY_SECONDS
            )
        self.texts += count
        permit.texts += count

    def hold_bytes(self, permit: Permit, count: int, field: str, remedy: str = "") -> None:
        """Count bytes that a call takes; see `Permit.hold_bytes`."""
        if permit.size_bytes + count > self._max_bytes:
            what = f"takes {count} bytes, the limit is {self._max_bytes} for all calls together (--max-call-bytes)"
            raise InvalidRequestError(field, f"{what}; {remedy}" if remedy else what)
        if self._bytes + count > self._max_bytes:
            raise QueueFullError(f"{self._max_bytes} bytes of calls are waiting already", RETRY_SECONDS)
        self._bytes += count
        permit.size_bytes += count

    def release(self, permit: Permit) -> None:
        """Give a permit back; `Permit` does that itself."""
        self.calls -= 1
        self._bytes -= permit.size_bytes
        self.texts -= permit.texts
        if not self.calls:
            self._empty.set()

    def close(self) -> None:
        """Refuse every further call."""
        self._draining = True

    async def drained(self) -> None:
        """Wait until no call is held."""
        await self._empty.wait()
