"""Answers that are remembered, so that what is asked again, or by several at once, is computed once.

Batch-mates never change an answer, so that one computed for another call is the one that the model would give again.
What is asked is known by what the model reads: texts that are cut, or prompted, to the same tokens are the same.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import OrderedDict
from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from headwaiter_server.metrics import Metrics
from headwaiter_server.pipeline.flights import Flight
from headwaiter_server.pipeline.remembering import Kind, Measured
from headwaiter_server.scheduling.calls import Call, Pending, Terms

# Of a model that has gone, answers that are let go of in one turn of the event loop: some 0.2 ms.
_LET_GO_AT_ONCE = 512


class Sourced(Protocol):
    """What is asked for one text."""

    @property
    def source(self) -> Sized:
        """The text; its length is its price."""
        ...


Task = TypeVar("Task", bound=Sourced)
Result = TypeVar("Result", bound=Measured)


@dataclass(slots=True)
class _Kept(Generic[Result]):
    """An answer that is remembered.

    Attributes:
        result: The answer, sealed; with no times, as it takes none to give it again.
        size_bytes: Memory that it takes.
        used: When it was last given, as a number that only grows.
    """

    result: Result
    size_bytes: int
    used: int


class ResponseCache:
    """The answers of all models; the least recently used ones are forgotten first. For the event loop.

    Attributes:
        max_bytes: Most memory that they may take.
        size_bytes: Memory that they take.
        entries: How many there are.
        evicted: How many had to go for newer ones.
    """

    def __init__(self, max_bytes: int, metrics: Metrics) -> None:
        """Remember nothing yet.

        Args:
            max_bytes: Most memory that answers may take.
            metrics: Told what was found.
        """
        self.max_bytes = max_bytes
        self.size_bytes = 0
        self.entries = 0
        self.evicted = 0
        self.metrics = metrics
        self._uses = itertools.count()
        self._shelves: dict[object, Shelf[Any]] = {}

    def open(self, lane: object, model: str) -> None:
        """Remember the answers of one more model.

        Args:
            lane: Its lane, which no other model has, nor the same one when it is loaded again.
            model: Its name, for metrics.
        """
        self._shelves[lane] = Shelf(self, model)

    def shelf(self, lane: object) -> Shelf[Any] | None:
        """The answers of a model; None if they are not remembered."""
        return self._shelves.get(lane)

    def forget(self, lane: object) -> None:
        """Let go of all answers of a model that nobody works with any more."""
        shelf = self._shelves.pop(lane, None)
        if shelf is not None:
            self.size_bytes -= shelf.size_bytes
            self.entries -= len(shelf.answers)
            shelf.close()

    def now(self) -> int:
        """A number for each use of an answer, larger than all before."""
        return next(self._uses)

    def make_room(self, size_bytes: int) -> bool:
        """Forget what was not used for longest, until there is room.

        Args:
            size_bytes: For how much.

        Returns:
            Whether there is room now; not for what is larger than all that may be kept.
        """
        if size_bytes > self.max_bytes:
            return False
        while self.size_bytes + size_bytes > self.max_bytes:
            oldest = min(filter(None, self._shelves.values()), key=Shelf.last_use)
            oldest.drop_oldest()
            self.evicted += 1
        return True


class Shelf(Generic[Result]):
    """The answers of one model, and those on their way; implements `Landing`.

    Attributes:
        answers: By digest, the least recently used first.
        size_bytes: Memory that they take.
    """

    def __init__(self, cache: ResponseCache, model: str) -> None:
        self.answers: OrderedDict[bytes, _Kept[Result]] = OrderedDict()
        self.size_bytes = 0
        self._cache = cache
        self._model = model
        self._flights: dict[bytes, list[Flight[Result]]] = {}
        # How answers are kept, once the first was asked for.
        self._kind: Kind[Any, Result] | None = None
        self._closed = False

    def __bool__(self) -> bool:
        """Whether anything is remembered."""
        return bool(self.answers)

    def ask(
        self,
        call: Call[Result],
        tasks: Sequence[Task],
        digests: Sequence[bytes],
        kind: Kind[Task, Result],
        submit: Callable[[list[Pending[Task, Result]]], None],
    ) -> None:
        """Have a call answered with what is remembered, what is on its way, and what it has computed itself.

        Args:
            call: The call.
            tasks: Its texts.
            digests: Of each.
            kind: Of all of them.
            submit: Queues those that have to be computed, all or none.

        Raises:
            OverloadedError: They cannot be; nothing has happened then.
        """
        self._kind = kind
        given: list[tuple[int, Result]] = []
        waited: list[tuple[int, Flight[Result]]] = []
        begun: list[tuple[bytes, Flight[Result]]] = []
        joined: dict[bytes, Flight[Result]] = {}
        entries: list[Pending[Task, Result]] = []
        hits = rows_hit = rows_missed = 0
        for index, (task, digest) in enumerate(zip(tasks, digests, strict=True)):
            if (kept := self._find(digest)) is not None:
                given.append((index, kind.given(kept)))
            else:
                shared = kind.shared(task)
                flight = (joined.get(digest) or self._flight(digest, call.terms)) if shared else None
                if flight is None:
                    joined[digest] = flight = Flight(call, digest, self)
                    begun.append((digest, flight))
                    entries.append(Pending(flight, index, task, len(task.source)))
                    rows_missed += kind.rows(task)
                    waited.append((index, flight))
                    continue
                waited.append((index, flight))
            hits += 1
            rows_hit += kind.rows(task)
        if entries:
            submit(entries)
        for digest, flight in begun:
            self._flights.setdefault(digest, []).append(flight)
        for index, flight in waited:
            flight.join(call, index)
        if waited:
            flights = {flight for _, flight in waited}
            call.future.add_done_callback(partial(_leave, call, flights))
        for index, result in given:
            call.resolve(index, result)
        call.terms.trail.cache_hits += rows_hit
        call.terms.trail.cache_misses += rows_missed
        self._cache.metrics.cache_asked(self._model, hits=hits, misses=len(entries))

    def landed(self, digest: bytes, result: Result, submitted: float) -> None:
        """See `Landing`."""
        kind = self._kind
        if kind is None:
            raise AssertionError("an answer that nobody asked for")
        sealed, size_bytes = kind.sealed(result)
        for flight in self._flights.pop(digest, ()):
            flight.answer(sealed, submitted, kind.given)
        self._keep(digest, sealed, size_bytes, kind)

    def lost(self, digest: bytes, flight: Flight[Result]) -> None:
        """See `Landing`."""
        flights = self._flights[digest]
        flights.remove(flight)
        if not flights:
            del self._flights[digest]

    def last_use(self) -> int:
        """When the answer was last given that was not for longest."""
        return next(iter(self.answers.values())).used

    def drop_oldest(self) -> None:
        """Forget that answer."""
        _, kept = self.answers.popitem(last=False)
        self._resize(-1, -kept.size_bytes)

    def close(self) -> None:
        """Remember nothing more, and let go of what there is: a part at a time, as freeing it takes its time."""
        self._closed = True
        for _ in range(min(_LET_GO_AT_ONCE, len(self.answers))):
            self.answers.popitem()
        if self.answers:
            asyncio.get_running_loop().call_soon(self.close)

    def _find(self, digest: bytes) -> Result | None:
        kept = self.answers.get(digest)
        if kept is None:
            return None
        kept.used = self._cache.now()
        self.answers.move_to_end(digest)
        return kept.result

    def _flight(self, digest: bytes, terms: Terms) -> Flight[Result] | None:
        """One that a call with such terms may wait for."""
        return next((each for each in self._flights.get(digest, ()) if each.suits(terms)), None)

    def _keep(self, digest: bytes, result: Result, size_bytes: int, kind: Kind[Any, Result]) -> None:
        if self._closed or digest in self.answers or not self._cache.make_room(size_bytes):
            return
        self.answers[digest] = _Kept(kind.timeless(result), size_bytes, self._cache.now())
        self._resize(1, size_bytes)

    def _resize(self, entries: int, size_bytes: int) -> None:
        self.size_bytes += size_bytes
        self._cache.size_bytes += size_bytes
        self._cache.entries += entries


def _leave(call: Call[Result], flights: set[Flight[Result]], _: asyncio.Future[list[Result]]) -> None:
    for flight in flights:
        flight.leave(call)
