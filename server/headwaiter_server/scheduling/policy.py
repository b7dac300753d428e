"""Which of the waiting texts run next. Pure: no clock, no threads, no asyncio; time is an argument.

The order, most important first:

1. Priority level, 1 before 2. Waiting promotes a text by one level for each `PROMOTION_SECONDS`, so that no level
   starves for ever. The turn is the level's whose oldest text has risen highest; levels that have risen alike share it.
   Of a level that has its turn, all texts compete that need no promotion to stand before the other levels, or have
   themselves waited for as much of it as they need. So an old text lifts no newcomer over another level; and where no
   other level stands between, a caller with a long queue of old texts overtakes no other caller of its level.
2. Fair shares: of the callers with a text that competes, the one whose fairness key was served the fewest tokens.
3. Earliest deadline, or `PATIENCE_SECONDS` after arrival if that is earlier, so that a stream of urgent newcomers
   cannot overtake an old text for ever. Of texts that compete by promotion only, a caller's oldest.

(Earliest deadline first: Liu and Layland 1973. Fair shares by least service, with newcomers starting at the
least-served active key's count: start-time fair queueing, Goyal et al. 1996.)
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from headwaiter_server.scheduling.calls import Pending, Terms

PROMOTION_SECONDS = 5.0
PATIENCE_SECONDS = 30.0

Entry = Pending[Any, Any]
Rank = tuple[int, float, float, int]
_HeapItem = tuple[float, int, Entry]
# Tokens served, effective deadline, order, level, fairness key.
_Head = tuple[float, float, int, int, str]

# Outdated items that a heap may hold beside as many as it has valid ones.
_MOST_OUTDATED = 64


@dataclass(frozen=True, slots=True)
class Budget:
    """What one run may take on.

    Attributes:
        rows: Most texts.
        tokens: Most tokens; a text of more than that runs alone.
    """

    rows: int
    tokens: int


class FairShares:
    """Tokens served to each fairness key that is waiting somewhere; shared by all models' queues."""

    def __init__(self) -> None:
        self._served: dict[str, float] = {}
        self._waiting: dict[str, int] = {}
        # A key's count only grows while it waits, so an outdated item stands too near the top and is met there.
        self._by_service: list[tuple[float, str]] = []

    def enter(self, key: str) -> None:
        """Note an entry that begins to wait; a new key starts level with the least-served one."""
        if key not in self._served:
            self._served[key] = served = self._least()
            heapq.heappush(self._by_service, (served, key))
            if len(self._by_service) > 2 * len(self._served) + _MOST_OUTDATED:
                self._by_service = [(served, key) for key, served in self._served.items()]
                heapq.heapify(self._by_service)
        self._waiting[key] = self._waiting.get(key, 0) + 1

    def leave(self, key: str, served_tokens: int) -> None:
        """Note an entry that stops waiting, and the tokens it is served (0 if it was dropped).

        A key with nothing waiting is forgotten: idle time earns no credit, and the table stays small.
        """
        if key not in self._waiting:
            return
        self._served[key] += served_tokens
        self._waiting[key] -= 1
        if not self._waiting[key]:
            del self._served[key], self._waiting[key]

    def served(self, key: str) -> float:
        """Tokens served to a key; one with nothing waiting stands level with the least-served."""
        return self._served[key] if key in self._served else self._least()

    def _least(self) -> float:
        heap = self._by_service
        while heap:
            listed, key = heap[0]
            served = self._served.get(key)
            if served == listed:
                return listed
            if served is None:
                heapq.heappop(heap)
            else:
                heapq.heapreplace(heap, (served, key))
        return 0.0


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
    """One model's waiting texts."""

    def __init__(self, shares: FairShares) -> None:
        self._shares = shares
        self._levels: dict[int, _Level] = {}
        self._orders = itertools.count(1)
        self._waiting: dict[int, Entry] = {}

    def __len__(self) -> int:
        """Entries waiting, the dead that were not yet met among them."""
        return len(self._waiting)

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
        self._shares.enter(terms.fairness_key)

    def rank(self, now: float) -> Rank | None:
        """The rank of the entry that would be taken first; smaller is sooner. None when nothing waits."""
        best = min(self._heads(self._front(now), now), default=None)
        if best is None:
            return None
        served, deadline, order, _, _ = best
        return (promoted(self._waiting[order].call.terms, now), served, deadline, order)

    def take(self, now: float, budget: Budget) -> list[Entry]:
        """Remove and return the entries of the next run, in order, dead ones dropped.

        Args:
            now: Seconds on the scheduler's clock.
            budget: Of the run. At least one entry is taken if any is alive and `budget.rows` is positive.
        """
        taken: list[Entry] = []
        tokens = 0
        front: Mapping[int, int] = {}
        heads: list[_Head] = []
        while len(taken) < budget.rows:
            # Every caller's head is looked at once, and again only when the turn goes to other levels.
            if (front_now := self._front(now)) != front:
                front, heads = front_now, list(self._heads(front_now, now))
                heapq.heapify(heads)
            entry = self._first(heads, front, now)
            if entry is None:
                break
            if taken and tokens + entry.cost_tokens > budget.tokens:
                break
            self._remove(entry, entry.cost_tokens)
            taken.append(entry)
            tokens += entry.cost_tokens
        return taken

    def clear(self) -> list[Entry]:
        """Remove and return every entry, the dead among them; whatever has gone wrong, whoever waits is handed out."""
        entries = list(self._waiting.values())
        self._waiting = {}
        self._levels = {}
        for entry in entries:
            with contextlib.suppress(Exception):
                self._shares.leave(entry.call.terms.fairness_key, 0)
        return entries

    def _front(self, now: float) -> dict[int, int]:
        """The levels that have their turn, each with the level that its texts must have reached to compete."""
        reached: dict[int, int] = {}
        for priority, level in list(self._levels.items()):
            oldest = self._alive_head(level.by_arrival, now)
            if oldest is None:
                del self._levels[priority]
            else:
                reached[priority] = promoted(oldest.call.terms, now)
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
            if entry.order in self._waiting:
                if not entry.call.dead(now):
                    return entry
                self._remove(entry, 0)
            heapq.heappop(heap)
        return None

    def _remove(self, entry: Entry, served_tokens: int) -> None:
        # The heaps are cleaned when the entry comes to their top.
        del self._waiting[entry.order]
        self._shares.leave(entry.call.terms.fairness_key, served_tokens)


def promoted(terms: Terms, now: float) -> int:
    """The priority level after the promotions that waiting has earned; smaller is sooner."""
    return terms.priority - int((now - terms.arrived) // PROMOTION_SECONDS)


def effective_deadline(terms: Terms) -> float:
    """The deadline that orders a text: its own, or the end of its patience if that comes first."""
    return min(terms.deadline, terms.arrived + PATIENCE_SECONDS)
