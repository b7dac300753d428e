"""Which of the waiting texts run next. Pure: no clock, no threads, no asyncio; time is an argument.

The order, most important first:

1. Priority level, 1 before 2. Waiting promotes a text by one level for each `PROMOTION_SECONDS`, so that no level
   starves for ever. The turn is the level's whose oldest text has risen highest; levels that have risen alike share it.
   Of a level that has its turn, all texts compete that need no promotion to stand before the other levels, or have
   themselves waited for as much of it as they need. So an old text lifts no newcomer over another level; and where no
   other level stands between, a caller with a long queue of old texts overtakes no other caller of its level.
2. Fair shares: of the callers with a text that competes, the one whose fairness key was served the fewest tokens by
   its weight.
3. Earliest deadline, or `PATIENCE_SECONDS` after arrival if that is earlier, so that a stream of urgent newcomers
   cannot overtake an old text for ever. Of texts that compete by promotion only, a caller's oldest.

(Earliest deadline first: Liu and Layland 1973. Fair shares: see `shares`.)
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from headwaiter_server.scheduling.calls import Pending, Terms
from headwaiter_server.scheduling.shares import FairShares

PROMOTION_SECONDS = 5.0
PATIENCE_SECONDS = 30.0

Entry = Pending[Any, Any]
Rank = tuple[int, float, float, int]
_HeapItem = tuple[float, int, Entry]
# Tokens served, effective deadline, order, level, fairness key.
_Head = tuple[float, float, int, int, str]

# Entries that may be passed over in search of suitable mates: enough to find some, and a bound on the time it takes.
_MOST_PASSED_OVER = 64


@dataclass(frozen=True, slots=True)
class Budget:
    """What one run may take on.

    Attributes:
        rows: Most texts.
        tokens: Most tokens; a text of more than that runs alone.
    """

    rows: int
    tokens: int


class Mates(Protocol):
    """A run that is being put together, and is choosy about who shares it."""

    @property
    def full(self) -> bool:
        """Whether nobody can join any more."""
        ...

    def join(self, entry: Entry) -> bool:
        """Let an entry join, or refuse it; the first one must be let in."""
        ...


@dataclass(slots=True)
class _Mates:
    """Entries of one priority level and fairness key. Heaps keep removed entries until they come to the top.

    Attributes:
        by_deadline: Earliest deadline first.
        by_arrival: Oldest first.
    """

    by_deadline: list[_HeapItem] = field(default_factory=list)
    by_arrival: list[_HeapItem] = field(default_factory=list)


@dataclass(slots=True)
class _Level:
    """Entries of one priority level.

    Attributes:
        callers: Those of each fairness key.
        by_arrival: All of them, oldest first.
    """

    callers: dict[str, _Mates] = field(default_factory=dict)
    by_arrival: list[_HeapItem] = field(default_factory=list)


class Backlog:
    """One model's waiting texts.

    Attributes:
        waiting_tokens: Their price.
    """

    def __init__(self, shares: FairShares) -> None:
        self._shares = shares
        self._levels: dict[int, _Level] = {}
        self._orders = itertools.count(1)
        self._waiting: dict[int, Entry] = {}
        # Within one `take`: who was passed over, and which items left which heap because of it.
        self._passed_over: set[int] = set()
        self._put_back: list[tuple[list[_HeapItem], _HeapItem]] = []
        self.waiting_tokens = 0

    def __len__(self) -> int:
        """Entries waiting, the dead that were not yet met among them."""
        return len(self._waiting)

    @property
    def last_order(self) -> int:
        """Order of the entry that came last; 0 if there is none."""
        return next(reversed(self._waiting), 0)

    def push(self, entry: Entry) -> None:
        """Add an entry."""
        terms = entry.call.terms
        entry.order = next(self._orders)
        level = self._levels.setdefault(terms.priority, _Level())
        mates = level.callers.setdefault(terms.fairness_key, _Mates())
        heapq.heappush(mates.by_deadline, (effective_deadline(terms), entry.order, entry))
        heapq.heappush(mates.by_arrival, (terms.arrived, entry.order, entry))
        heapq.heappush(level.by_arrival, (terms.arrived, entry.order, entry))
        self._waiting[entry.order] = entry
        self.waiting_tokens += entry.cost_tokens
        self._shares.enter(terms.fairness_key, entry.cost_tokens, terms.weight)

    def rank(self, now: float) -> Rank | None:
        """The rank of the entry that would be taken first; smaller is sooner. None when nothing waits."""
        best = min(self._heads(self._front(now), now), default=None)
        if best is None:
            return None
        served, deadline, order, _, _ = best
        return (promoted(self._waiting[order].call.terms, now), served, deadline, order)

    def oldest(self, now: float) -> Entry | None:
        """The entry whose call arrived first; None when nothing waits."""
        heads = [self._alive_head(level.by_arrival, now) for level in self._levels.values()]
        return min(filter(None, heads), key=lambda entry: entry.call.terms.arrived, default=None)

    def earliest_deadline(self, now: float) -> float:
        """The earliest of all effective deadlines; infinite when nothing waits."""
        callers = [mates for level in self._levels.values() for mates in level.callers.values()]
        heads = [self._alive_head(mates.by_deadline, now) for mates in callers]
        return min((effective_deadline(entry.call.terms) for entry in heads if entry), default=math.inf)

    def fills(self, budget: Budget, now: float) -> bool:
        """Whether those who wait and are alive are as many texts, or tokens, as the budget."""
        if len(self._waiting) < budget.rows and self.waiting_tokens < budget.tokens:
            return False
        rows, tokens, dead = 0, 0, []
        for entry in self._waiting.values():
            if rows >= budget.rows or tokens >= budget.tokens:
                break
            if entry.call.dead(now):
                dead.append(entry)
            else:
                rows += 1
                tokens += entry.cost_tokens
        for entry in dead:
            self._remove(entry, 0)
        return rows >= budget.rows or tokens >= budget.tokens

    def take(self, now: float, budget: Budget, mates: Mates | None = None) -> list[Entry]:
        """Remove and return the entries of the next run, in order, dead ones dropped.

        Args:
            now: Seconds on the scheduler's clock.
            budget: Of the run. At least one entry is taken if any is alive and `budget.rows` is positive.
            mates: Decides who may share the run. Whom it refuses is passed over and keeps its place.
        """
        taken: list[Entry] = []
        try:
            self._take(taken, now, budget, mates)
        except BaseException:
            # Whoever fails everybody now must find them.
            self._waiting.update((entry.order, entry) for entry in taken)
            raise
        finally:
            for heap, item in self._put_back:
                heapq.heappush(heap, item)
            self._put_back.clear()
            self._passed_over.clear()
        return taken

    def _take(self, taken: list[Entry], now: float, budget: Budget, mates: Mates | None) -> None:
        tokens = 0
        front: Mapping[int, int] = {}
        heads: list[_Head] = []
        while len(taken) < budget.rows and (mates is None or not mates.full):
            # Every caller's head is looked at once, and again only when the turn goes to other levels. With one level
            # there is nobody for it to go to.
            if (not front or len(self._levels) > 1) and (front_now := self._front(now)) != front:
                front, heads = front_now, list(self._heads(front_now, now))
                heapq.heapify(heads)
            entry = self._first(heads, front, now)
            if entry is None:
                break
            if taken and tokens + entry.cost_tokens > budget.tokens:
                break
            if mates is not None and not mates.join(entry):
                if len(self._passed_over) == _MOST_PASSED_OVER:
                    break
                self._passed_over.add(entry.order)
                continue
            self._remove(entry, entry.cost_tokens)
            taken.append(entry)
            tokens += entry.cost_tokens

    def clear(self) -> list[Entry]:
        """Remove and return every entry, the dead among them; whatever has gone wrong, whoever waits is handed out."""
        entries = list(self._waiting.values())
        self._waiting = {}
        self._levels = {}
        self.waiting_tokens = 0
        for entry in entries:
            with contextlib.suppress(Exception):
                self._shares.leave(entry.call.terms.fairness_key, 0)
        return entries

    def _front(self, now: float) -> dict[int, int]:
        """The levels that have their turn, each with the level that its texts must have reached to compete."""
        reached: dict[int, int] = {}
        for priority, level in list(self._levels.items()):
            oldest = self._alive_head(level.by_arrival, now)
            if oldest is not None:
                reached[priority] = promoted(oldest.call.terms, now)
            elif not self._passed_over:
                del self._levels[priority]
        first = min(reached.values(), default=0)
        return {
            priority: min([priority, *(rival for other, rival in reached.items() if other != priority)])
            for priority, level_now in reached.items()
            if level_now == first
        }

    def _heads(self, front: Mapping[int, int], now: float) -> Iterator[_Head]:
        """The first entry of each caller that competes."""
        for priority, needed in front.items():
            for key in list(self._levels[priority].callers):
                head = self._head(priority, needed, key, now)
                if head is not None:
                    yield head

    def _head(self, priority: int, needed: int, key: str, now: float) -> _Head | None:
        """A caller's first entry that competes; a caller without any entry is forgotten."""
        callers = self._levels[priority].callers
        if (mates := callers.get(key)) is None:
            return None
        # Both are looked at, so that neither keeps what was taken from the other.
        oldest, urgent = self._alive_head(mates.by_arrival, now), self._alive_head(mates.by_deadline, now)
        if oldest is None or urgent is None:
            if not self._passed_over:
                del callers[key]
            return None
        by_promotion = needed < priority
        entry = oldest if by_promotion else urgent
        terms = entry.call.terms
        if by_promotion and promoted(terms, now) > needed:
            return None
        return (self._shares.served(key), effective_deadline(terms), entry.order, priority, key)

    def _first(self, heads: list[_Head], front: Mapping[int, int], now: float) -> Entry | None:
        """The best of the heads, brought up to date where entries have left or been served since they were listed."""
        while heads:
            _, _, order, priority, key = heads[0]
            head = self._head(priority, front[priority], key, now)
            if head == heads[0]:
                return self._waiting[order]
            if head is None:
                heapq.heappop(heads)
            else:
                heapq.heapreplace(heads, head)
        return None

    def _alive_head(self, heap: list[_HeapItem], now: float) -> Entry | None:
        while heap:
            entry = heap[0][2]
            if entry.order in self._passed_over:
                self._put_back.append((heap, heapq.heappop(heap)))
                continue
            if entry.order in self._waiting:
                if not entry.call.dead(now):
                    return entry
                self._remove(entry, 0)
            heapq.heappop(heap)
        return None

    def _remove(self, entry: Entry, served_tokens: int) -> None:
        # The heaps are cleaned when the entry comes to their top.
        del self._waiting[entry.order]
        self.waiting_tokens -= entry.cost_tokens
        terms = entry.call.terms
        self._shares.leave(terms.fairness_key, served_tokens, terms.weight)


def promoted(terms: Terms, now: float) -> int:
    """The priority level after the promotions that waiting has earned; smaller is sooner."""
    return terms.priority - int((now - terms.arrived) // PROMOTION_SECONDS)


def effective_deadline(terms: Terms) -> float:
    """The deadline that orders a text: its own, or the end of its patience if that comes first."""
    return min(terms.deadline, terms.arrived + PATIENCE_SECONDS)
