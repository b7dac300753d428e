"""How many seconds of work stand before a call's texts, in the order in which `policy` serves them. Pure.

Sums are kept by priority level, fairness key and effective deadline, so that a text that comes or goes costs the same
however many wait. Promotion by waiting is left out: no call waits long enough for it where waits are bounded.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from headwaiter_server.scheduling.calls import Terms
from headwaiter_server.scheduling.policy import effective_deadline

# Of so many callers, each one's work is looked at.
_MOST_LINES = 16
# Of what another has waiting.
_MODEST_PART = 0.9
# Deadlines within so many seconds of each other count as one.
_SLOT_SECONDS = 0.1


@dataclass(slots=True)
class _Slot:
    """Waiting work of one caller at one level that is due at about one time.

    Attributes:
        texts: How many texts.
        seconds: Of all of them.
    """

    texts: int = 0
    seconds: float = 0.0


@dataclass(slots=True)
class _Line:
    """Waiting work of one caller at one level.

    Attributes:
        weight: Of the caller.
        seconds: Of all of it.
        slots: By effective deadline, in multiples of `_SLOT_SECONDS`.
    """

    weight: float
    seconds: float = 0.0
    slots: dict[int, _Slot] = field(default_factory=dict)


@dataclass(slots=True)
class _Level:
    """Waiting work of one priority level.

    Attributes:
        seconds: Of all of it.
        weight: Of all callers.
        lines: By fairness key.
    """

    seconds: float = 0.0
    weight: float = 0.0
    lines: dict[str, _Line] = field(default_factory=dict)


class WaitingWork:
    """Seconds of work that wait, for all models."""

    def __init__(self) -> None:
        self._levels: dict[int, _Level] = {}

    @property
    def seconds(self) -> float:
        """All of it."""
        # A copy: the scrape that asks is on another thread.
        return sum(level.seconds for level in tuple(self._levels.values()))

    def add(self, terms: Terms, texts: int, seconds: float) -> None:
        """Count texts in.

        Args:
            terms: Of their call.
            texts: How many.
            seconds: Of all of them.
        """
        level = self._levels.setdefault(terms.priority, _Level())
        line = level.lines.get(terms.fairness_key)
        if line is None:
            line = level.lines[terms.fairness_key] = _Line(terms.weight)
            level.weight += line.weight
        slot = line.slots.setdefault(_due(terms), _Slot())
        slot.texts += texts
        for each in (level, line, slot):
            each.seconds += seconds

    def remove(self, terms: Terms, texts: int, seconds: float) -> None:
        """Count texts out that were counted in; arguments as in `add`."""
        level = self._levels[terms.priority]
        line = level.lines[terms.fairness_key]
        due = _due(terms)
        slot = line.slots[due]
        slot.texts -= texts
        for each in (level, line, slot):
            each.seconds -= seconds
        # Sums are forgotten with the last text that they were made of, and their rounding errors with them. A line that
        # is never empty, as under steady load, keeps no more slots than there are different deadlines in it.
        if not slot.texts:
            del line.slots[due]
            if not line.slots:
                del level.lines[terms.fairness_key]
                level.weight -= line.weight
                if not level.lines:
                    del self._levels[terms.priority]

    def ahead(self, terms: Terms, own_seconds: float) -> float:
        """Seconds of the work that will have been served when a call's last text is.

        Of higher levels that is all. Of the own level it is what the same caller has waiting with earlier deadlines,
        and of each other caller at most as much as the call and what is before it, by their weights: shares are fair.
        (Of many other callers, all that they have waiting, at most as much for each.)

        Args:
            terms: Of the call.
            own_seconds: Of its texts, which are not counted in yet.
        """
        higher = sum(level.seconds for priority, level in self._levels.items() if priority < terms.priority)
        level = self._levels.get(terms.priority)
        if level is None:
            return higher
        own, rivals, others = 0.0, level.weight, level.seconds
        if (line := level.lines.get(terms.fairness_key)) is not None:
            last = _due(terms)
            own = sum(slot.seconds for due, slot in line.slots.items() if due <= last)
            rivals -= line.weight
            others -= line.seconds
        for_each = (own + own_seconds) / terms.weight
        if len(level.lines) <= _MOST_LINES:
            before = sum(min(each.seconds, each.weight * for_each) for each in level.lines.values() if each is not line)
        else:
            before = min(others, max(0.0, rivals) * for_each)
        return max(0.0, higher + own + before)

    def is_modest(self, terms: Terms, own_seconds: float) -> bool:
        """Whether a call's caller has clearly less waiting than another one of its level, by their weights.

        Of many callers: than they have on average.

        Args:
            terms: Of the call.
            own_seconds: Of its texts, which are not counted in yet but count.
        """
        level = self._levels.get(terms.priority)
        if level is None:
            return False
        line = level.lines.get(terms.fairness_key)
        own = own_seconds if line is None else line.seconds + own_seconds
        if len(level.lines) <= _MOST_LINES:
            most = max(each.seconds / each.weight for each in level.lines.values())
        else:
            most = level.seconds / level.weight
        return own < _MODEST_PART * most * terms.weight


def _due(terms: Terms) -> int:
    return int(effective_deadline(terms) // _SLOT_SECONDS)
