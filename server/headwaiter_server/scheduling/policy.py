"""Which of the waiting texts run next. Pure: no clock, no threads, no asyncio; time is an argument.

The order, most important first:

1. Priority level, 1 before 2. Waiting promotes: a level rises by one for each `PROMOTION_SECONDS` that its oldest text
   has waited, so that no level starves for ever. The whole level rises, lest a caller with a long queue of old texts
   overtake the others of its level.
2. Fair shares: of the callers with something waiting, the one whose fairness key was served the fewest tokens.
3. Earliest deadline; without one, as if it were `PATIENCE_SECONDS` after arrival, so that a stream of urgent
   newcomers cannot overtake an old text for ever.

(Earliest deadline first: Liu and Layland 1973. Fair shares by least service, with newcomers starting at the
least-served active key's count: start-time fair queueing, Goyal et al. 1996.)
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

from headwaiter_server.scheduling.calls import NO_DEADLINE, Pending, Terms

PROMOTION_SECONDS = 5.0
PATIENCE_SECONDS = 30.0

Entry = Pending[Any, Any]
Rank = tuple[int, float, float, int]
_HeapItem = tuple[float, int, Entry]


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

    def enter(self, key: str) -> None:
        """Note an entry that begins to wait; a new key starts level with the least-served one."""
        if key not in self._served:
            self._served[key] = self._least()
        self._waiting[key] = self._waiting.get(key, 0) + 1

    def leave(self, key: str, served_tokens: int) -> None:
        """Note an entry that stops waiting, and the tokens it is served (0 if it was dropped).

        A key with nothing waiting is forgotten: idle time earns no credit, and the table stays small.
        """
        self._served[key] += served_tokens
        self._waiting[key] -= 1
        if not self._waiting[key]:
            del self._served[key], self._waiting[key]

    def served(self, key: str) -> float:
        """Tokens served to a key; one with nothing waiting stands level with the least-served."""
        return self._served[key] if key in self._served else self._least()

    def _least(self) -> float:
        return min(self._served.values(), default=0.0)


@dataclass(slots=True)
class _Level:
    """Entries of one priority level. Heaps keep removed entries until they come to the top.

    Attributes:
        by_deadline: Per fairness key, earliest deadline first.
        by_arrival: All of them, oldest first.
    """

    by_deadline: dict[str, list[_HeapItem]] = field(default_factory=dict)
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
        mates = level.by_deadline.setdefault(terms.fairness_key, [])
        heapq.heappush(mates, (effective_deadline(terms), entry.order, entry))
        heapq.heappush(level.by_arrival, (terms.arrived, entry.order, entry))
        self._waiting[entry.order] = entry
        self._shares.enter(terms.fairness_key)

    def rank(self, now: float) -> Rank | None:
        """The rank of the entry that would be taken first; smaller is sooner. None when nothing waits."""
        best = self._best(now)
        return None if best is None else best[0]

    def take(self, now: float, budget: Budget) -> list[Entry]:
        """Remove and return the entries of the next run, in order, dead ones dropped.

        Args:
            now: Seconds on the scheduler's clock.
            budget: Of the run. At least one entry is taken if any is alive and `budget.rows` is positive.
        """
        taken: list[Entry] = []
        tokens = 0
        while len(taken) < budget.rows and (best := self._best(now)) is not None:
            entry = best[1]
            if taken and tokens + entry.cost_tokens > budget.tokens:
                break
            self._remove(entry, entry.cost_tokens)
            taken.append(entry)
            tokens += entry.cost_tokens
        return taken

    def clear(self) -> list[Entry]:
        """Remove and return every entry, the dead among them."""
        entries = list(self._waiting.values())
        for entry in entries:
            self._remove(entry, 0)
        self._levels.clear()
        return entries

    def _best(self, now: float) -> tuple[Rank, Entry] | None:
        return min(self._heads(now), key=itemgetter(0), default=None)

    def _heads(self, now: float) -> Iterator[tuple[Rank, Entry]]:
        """The first entry of each level and fairness key, with its rank; what is found empty is forgotten."""
        for priority, level in list(self._levels.items()):
            oldest = self._alive_head(level.by_arrival, now)
            if oldest is None:
                del self._levels[priority]
                continue
            level_now = promoted(oldest.call.terms, now)
            for key, mates in list(level.by_deadline.items()):
                entry = self._alive_head(mates, now)
                if entry is None:
                    del level.by_deadline[key]
                    continue
                yield (level_now, self._shares.served(key), mates[0][0], entry.order), entry

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
    """The deadline that orders a text: its own, or its patience."""
    return terms.deadline if terms.deadline != NO_DEADLINE else terms.arrived + PATIENCE_SECONDS
