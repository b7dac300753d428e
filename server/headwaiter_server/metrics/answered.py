"""Calls that were answered, of versions that come and go: nothing grows with them, and nothing is lost."""

from __future__ import annotations

import threading
from collections import OrderedDict

from headwaiter_server.metrics.definitions import REQUESTS
from headwaiter_server.metrics.series import Numbers

# Versions that are gone whose calls are still told of, so that a scrape sees their last.
MOST_GONE = 16

# Of calls: method, model and code.
CallLabels = tuple[str, str, str]


class AnsweredCalls(Numbers):
    """Counts calls by method, model, version and code."""

    def __init__(self) -> None:
        super().__init__(REQUESTS)
        # The earliest first; and what was told of versions before these.
        self._gone: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._forgotten: dict[CallLabels, float] = {}
        # For who adds both up on another thread.
        self._forgetting = threading.Lock()

    def version_came(self, model: str, version: str) -> None:
        """Keep a version's calls, as it serves."""
        self._gone.pop((model, version), None)

    def version_went(self, model: str, version: str) -> None:
        """Keep a version's calls until enough others have gone after it, and from then on only in the sums."""
        self._gone[(model, version)] = None
        if len(self._gone) > MOST_GONE:
            self._forget(*self._gone.popitem(last=False)[0])

    def sums(self) -> dict[CallLabels, float]:
        """All calls so far, whatever has become of their versions. May be called on any thread."""
        with self._forgetting:
            sums, told = self._forgotten.copy(), self.copy()
        for (method, model, _, code), number in told.items():
            labels = (method, model, code)
            sums[labels] = sums.get(labels, 0.0) + number
        return sums

    def _forget(self, model: str, version: str) -> None:
        with self._forgetting:
            for key in [each for each in self if each[1:3] == (model, version)]:
                labels = (key[0], model, key[3])
                self._forgotten[labels] = self._forgotten.get(labels, 0.0) + self.pop(key)
