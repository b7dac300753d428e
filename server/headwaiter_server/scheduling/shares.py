"""Fair shares: the tokens that each caller was served, by its weight, while it waits for more. Pure.

By least service, with newcomers starting at the least-served active key's count: start-time fair queueing, Goyal et al.
1996. Who has twice the weight is charged half of each token, and so is served twice as many.
"""

from __future__ import annotations

import heapq
import math

# Outdated items that the heap may hold beside as many as it has valid ones.
_MOST_OUTDATED = 64
# A caller that has had nothing waiting may be so many texts ahead of those who always have something: what somebody
# sends at once, now and then, is not taken apart by a flood.
_LEAD_TEXTS = 4
# Newcomers that are given a lead before the least-served of those who wait is served; the others start level.
_MOST_LEADS = 16
# Keys that have come and gone before they are looked through, and all forgotten if more than half of them matter.
_MOST_GONE = 1024


class FairShares:
    """Tokens served to each fairness key that is waiting somewhere, by weight; shared by all models' queues."""

    def __init__(self) -> None:
        self._served: dict[str, float] = {}
        self._waiting: dict[str, int] = {}
        # A key's count only grows while it waits, so an outdated item stands too near the top and is met there.
        self._by_service: list[tuple[float, str]] = []
        # Where newcomers start: the least count of those who wait, at its highest.
        self._level = 0.0
        self._leads = 0
        # Counts of keys that have nothing waiting just now, as long as they matter.
        self._gone: dict[str, float] = {}

    def enter(self, key: str, tokens: int = 0, weight: float = 1.0) -> None:
        """Note an entry of some tokens that begins to wait, and its key's weight.

        A new key starts level with the least-served one, or a few such entries before it. One that had nothing waiting
        for a moment goes on from where it was: else a caller with a short queue would be new for each of its texts.
        """
        if key not in self._served:
            self._served[key] = served = max(self._start(tokens / weight), self._gone.pop(key, -math.inf))
            heapq.heappush(self._by_service, (served, key))
            if len(self._by_service) > 2 * len(self._served) + _MOST_OUTDATED:
                self._by_service = [(served, key) for key, served in self._served.items()]
                heapq.heapify(self._by_service)
        self._waiting[key] = self._waiting.get(key, 0) + 1

    def leave(self, key: str, served_tokens: int, weight: float = 1.0) -> None:
        """Note an entry that stops waiting, and the tokens it is served (0 if it was dropped), with its key's weight.

        A key with nothing waiting is forgotten when the others have been served as much, or have nothing waiting
        either: idle time earns no more than the lead of a newcomer, and the table stays small.
        """
        if key not in self._waiting:
            return
        self.charge(key, served_tokens, weight)
        self._waiting[key] -= 1
        if not self._waiting[key]:
            served = self._served.pop(key)
            del self._waiting[key]
            self._remember(key, served, served_tokens / weight)

    def charge(self, key: str, tokens: int, weight: float = 1.0) -> None:
        """Count tokens that a key of some weight is served beyond those of its entries, such as generated ones.

        Nothing for a key with nothing waiting: what it has generated is not held against its next text.
        """
        if key in self._served:
            self._served[key] += tokens / weight

    def served(self, key: str) -> float:
        """Tokens served to a key, by weight; one with nothing waiting stands level with the least-served."""
        return self._served[key] if key in self._served else self._least()

    def _start(self, tokens: float) -> float:
        """Where a newcomer starts with an entry of so many tokens, by its weight."""
        if (least := self._least()) > self._level:
            self._level, self._leads = least, 0
        if self._leads >= _MOST_LEADS:
            return self._level
        self._leads += 1
        # Who comes when nobody has been served yet is ahead of nobody: all of them start together.
        return max(0.0, self._level - _LEAD_TEXTS * tokens)

    def _remember(self, key: str, served: float, last: float) -> None:
        """Keep the count of a key that has nothing waiting; of what it got by its priority no more than the last."""
        if not self._served:
            self._gone.clear()
            self._level, self._leads = 0.0, 0
            return
        level = max(self._level, self._least())
        if len(self._gone) >= _MOST_GONE:
            # Whoever was served less than this could be new.
            self._gone = {other: count for other, count in self._gone.items() if count > level}
            if len(self._gone) > _MOST_GONE // 2:  # they would have to be looked through for each that goes
                self._gone.clear()
        self._gone[key] = min(served, level + last)

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
