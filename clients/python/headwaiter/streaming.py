"""What both clients need for a stream whose answers come in any order: numbering, bounding, putting in order."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Generic, TypeVar, cast

from headwaiter.errors import InternalServerError
from headwaiter.results import StreamedReply

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Iterator

Item = TypeVar("Item")
RequestT = TypeVar("RequestT")

# Messages sent whose results were not taken yet: as many as a server holds of one stream, so that it never waits.
MESSAGES_IN_FLIGHT = 64


class InOrder:
    """Holds back results until those before them are there."""

    def __init__(self) -> None:
        self._early: dict[int, StreamedReply] = {}
        self._next = 0

    def add(self, reply: StreamedReply) -> Iterator[StreamedReply]:
        """Takes a result, and gives those whose turn it is."""
        self._early[reply.index] = reply
        while (ready := self._early.pop(self._next, None)) is not None:
            self._next += 1
            yield ready

    def check(self, sent: int) -> None:
        """Holds what came against what was sent.

        Raises:
            InternalServerError: Not every message was answered.
        """
        if self._next < sent:
            raise InternalServerError(f"the stream ended without an answer to message {self._next} of {sent}")


class Outgoing(Generic[RequestT]):
    """The requests of a blocking stream; gRPC iterates over them in a thread of its own.

    Args:
        items: What to send.
        request: Makes a request of the number of an item and the item.
    """

    def __init__(self, items: Iterable[Item], request: Callable[[int, Item], RequestT]) -> None:
        self._items: Iterator[object] = iter(items)
        self._request = cast("Callable[[int, object], RequestT]", request)
        self._free = threading.Semaphore(MESSAGES_IN_FLIGHT)
        self._stopped = False
        self._error: Exception | None = None
        self._sent = 0

    def __iter__(self) -> Iterator[RequestT]:
        # What the input raises must not reach gRPC, which would only log it: it is for whoever takes the results.
        try:
            while True:
                self._free.acquire()
                if self._stopped:
                    return
                request = self._request(self._sent, next(self._items))
                self._sent += 1
                yield request
        except StopIteration:
            return
        except Exception as error:  # noqa: BLE001 - raised by `finish`
            self._error = error

    def taken(self) -> None:
        """Lets one more item be sent: a result was taken."""
        self._free.release()

    def stop(self) -> None:
        """Sends no more."""
        self._stopped = True
        self._free.release()

    def finish(self) -> int:
        """How many requests were sent.

        Raises:
            Exception: What the input, or making a request of it, raised.
        """
        if self._error is not None:
            raise self._error
        return self._sent


async def each(items: Iterable[Item] | AsyncIterable[Item]) -> AsyncGenerator[Item, None]:
    """The items of either kind of iterable."""
    if hasattr(items, "__aiter__"):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item
