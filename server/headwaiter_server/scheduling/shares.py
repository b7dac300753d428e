"""Fair shares: the tokens that each caller was served while it waits for more. Pure.

By least service, with newcomers starting at the least-served active key's count: start-time fair queueing, Goyal et al.
1996.
"""

from __future__ import annotations

import heapq

# Outdated items that the heap may hold beside as many as it has valid ones.
_MOST_OUTDATED = 64


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
        self.charge(key, served_tokens)
        self._waiting[key] -= 1
        if not self._waiting[key]:
            del self._served[key], self._waiting[key]

    def charge(self, key: str, tokens: int) -> None:
        """Count tokens that a key is served beyond those of its entries, such as generated ones.

        Nothing for a key with nothing waiting: it begins anew, level with the least-served one.
        """
        if key in self._served:
            self._served[key] += tokens

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
