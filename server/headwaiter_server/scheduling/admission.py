"""Who may come in. Decided at once, calls and bytes before a message is parsed: admission never waits.

Callers that are told apart, by their fairness keys, share the places: none may hold more than a few times as many as
are still free. So one caller alone never takes the last place, a second one that floods takes from the first, and what
is left for newcomers shrinks slowly with every further one. (Dynamic thresholds: Choudhury and Hahne 1998.)
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from headwaiter_server.errors import DrainingError, InvalidRequestError, QueueFullError

# Long enough for a queue to move or for a client to find another server, short enough to be worth the wait.
RETRY_SECONDS = 0.1

# A caller alone holds up to seven of eight places: enough to lose nothing, and the last is found free by others.
_MOST_OF_FREE = 7.0
# Of whatever weight, a caller leaves one place of 64.
_MOST_OF_FREE_BY_WEIGHT = 63.0


class Kept(Protocol):
    """Something that must not go away while a call works with it."""

    def take(self) -> None:
        """Count one more call that works with it."""
        ...

    def release(self) -> None:
        """Count one off."""
        ...


@dataclass(slots=True)
class _Held:
    """What one caller holds.

    Attributes:
        key: Its fairness key.
        most_of_free: How many times what is free it may hold.
        calls: Its calls.
        size_bytes: Of these calls.
        texts: Likewise.
    """

    key: str
    most_of_free: float = _MOST_OF_FREE
    calls: int = 0
    size_bytes: int = 0
    texts: int = 0


class Permit:
    """A place in the server, held from before a call is parsed until its answer is out.

    Use it as a context manager. Functions that do a call's work take one, so that forgetting admission does not run.

    Attributes:
        held: What its caller holds.
        kept: What is kept for the call.
        quota: Told of the call's texts, to count them; raises if they are too many. None counts nothing.
        size_bytes: Bytes that it is counted with.
        texts: Texts that it is counted with.
    """

    __slots__ = ("_admission", "held", "kept", "quota", "size_bytes", "texts")

    def __init__(self, admission: Admission, held: _Held, size_bytes: int) -> None:
        self._admission = admission
        self.held = held
        self.kept: tuple[Kept, ...] = ()
        self.quota: Callable[[int], None] | None = None
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
            QuotaExceededError: The caller has had as many as it may have.
        """
        self._admission.hold_texts(self, count)
        if self.quota is not None:
            self.quota(count)

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

    def __init__(self, max_calls: int, max_bytes: int, max_texts: float = math.inf, *, shared: bool = False) -> None:
        """Set the bounds.

        Args:
            max_calls: Most calls held at once.
            max_bytes: Most bytes of their messages.
            max_texts: Most of their texts.
            shared: Whether places are kept free for further callers from the start, rather than from when a second one
                has come: it may find none.
        """
        self.max_calls = max_calls
        self.max_texts = max_texts
        self._max_bytes = max_bytes
        self._bytes = 0
        self._draining = False
        # Of everybody who holds something, by fairness key; and of all without one.
        self._held: dict[str, _Held] = {}
        # Whether several callers are told apart; until then, the one that was seen.
        self._shared = shared
        self._only: str | None = None
        self._empty = asyncio.Event()
        self._empty.set()
        self.calls = 0
        self.texts = 0

    def admit(self, size_bytes: int, key: str = "", weight: float = 1.0) -> Permit:
        """Take a call in.

        Args:
            size_bytes: Size of its message.
            key: Its caller's fairness key.
            weight: Its caller's weight.

        Raises:
            DrainingError: The server is shutting down.
            QueueFullError: A bound is reached, or what the caller may hold while so little is free.
        """
        if self._draining:
            raise DrainingError("the server is shutting down", RETRY_SECONDS)
        if not self._shared and key != self._only:
            # Places are kept free from the second caller on that is seen.
            self._shared, self._only = self._only is not None, key
        if self.calls >= self.max_calls:
            raise QueueFullError(f"{self.max_calls} calls are waiting already", RETRY_SECONDS)
        if self._bytes + size_bytes > self._max_bytes and self.calls:
            raise QueueFullError(f"{self._max_bytes} bytes of calls are waiting already", RETRY_SECONDS)
        if self._shared and (held := self._held.get(key)) is not None and held.calls:
            if held.calls >= held.most_of_free * (self.max_calls - self.calls):
                raise _over_share(f"{held.calls} calls", self.max_calls)
            self._share_bytes(held, size_bytes)
        return self.let_in(size_bytes, key, weight)

    def let_in(self, size_bytes: int, key: str = "", weight: float = 1.0) -> Permit:
        """Take in a call that is answered also when nothing else is: one that asks how the server is, and costs little.

        Args:
            size_bytes: Size of its message.
            key: Its caller's fairness key.
            weight: Its caller's weight.
        """
        held = self._held.get(key)
        if held is None:
            held = self._held[key] = _Held(key)
        # Anew each time: the access file may change, and a caller under load always holds something.
        held.most_of_free = min(_MOST_OF_FREE * weight, _MOST_OF_FREE_BY_WEIGHT)
        held.calls += 1
        held.size_bytes += size_bytes
        self.calls += 1
        self._bytes += size_bytes
        self._empty.clear()
        return Permit(self, held, size_bytes)

    def hold_texts(self, permit: Permit, count: int) -> None:
        """Count a call's texts; see `Permit.hold_texts`."""
        if self.texts + count > self.max_texts and self.texts:
            raise QueueFullError(
                f"{self.texts} texts are waiting already, the limit is {self.max_texts}", RETRY_SECONDS
            )
        held = permit.held
        room = held.most_of_free * (self.max_texts - self.texts - count)
        if self._shared and held.texts and held.texts + count > room:
            raise _over_share(f"{held.texts} texts", self.max_texts)
        held.texts += count
        self.texts += count
        permit.texts += count

    def hold_bytes(self, permit: Permit, count: int, field: str, remedy: str = "") -> None:
        """Count bytes that a call takes; see `Permit.hold_bytes`."""
        if permit.size_bytes + count > self._max_bytes:
            what = f"takes {count} bytes, the limit is {self._max_bytes} for all calls together (--max-call-bytes)"
            raise InvalidRequestError(field, f"{what}; {remedy}" if remedy else what)
        if self._bytes + count > self._max_bytes:
            raise QueueFullError(f"{self._max_bytes} bytes of calls are waiting already", RETRY_SECONDS)
        if self._shared and permit.held.calls > 1:
            self._share_bytes(permit.held, count)
        permit.held.size_bytes += count
        self._bytes += count
        permit.size_bytes += count

    def release(self, permit: Permit) -> None:
        """Give a permit back; `Permit` does that itself."""
        held = permit.held
        held.calls -= 1
        held.size_bytes -= permit.size_bytes
        held.texts -= permit.texts
        if not held.calls and held.key:
            del self._held[held.key]
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

    def _share_bytes(self, held: _Held, size_bytes: int) -> None:
        if held.size_bytes + size_bytes > held.most_of_free * (self._max_bytes - self._bytes - size_bytes):
            raise _over_share(f"{held.size_bytes} bytes of calls", self._max_bytes)


def _over_share(what: str, limit: float) -> QueueFullError:
    return QueueFullError(
        f"{what} of this caller are waiting already; what is left of {limit:.0f} is for others", RETRY_SECONDS
    )
