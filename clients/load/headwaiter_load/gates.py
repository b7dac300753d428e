"""Gates: changes between two results that a script will not have."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from headwaiter_load.compare import Change, ComparisonError

_GATE: Final = re.compile(r"\s*(?P<name>[\w.]+)\s*(?P<sign>[<>])\s*(?P<limit>[0-9.]+)\s*")


@dataclass(frozen=True, slots=True)
class Gate:
    """What must not be.

    Attributes:
        name: Figure.
        above: Whether more than the limit is too much; else less is.
        limit: Of the change.
    """

    name: str
    above: bool
    limit: float

    @classmethod
    def parsed(cls, text: str) -> Gate:
        """From `p99>1.1`.

        Raises:
            ComparisonError: It is nothing of that form.
        """
        match = _GATE.fullmatch(text)
        if match is None:
            raise ComparisonError(f"{text!r} is no gate such as p99>1.1")
        try:
            return cls(match["name"], match["sign"] == ">", float(match["limit"]))
        except ValueError as error:
            raise ComparisonError(f"{text!r}: {match['limit']} is no number") from error

    def tripped(self, changes: Iterable[Change]) -> bool:
        """Whether the change is beyond the limit, and no chance.

        Raises:
            ComparisonError: There is no such figure.
        """
        known = {change.name: change for change in changes}
        if self.name not in known:
            raise ComparisonError(f"a gate names {self.name!r}; there are {', '.join(known)}")
        change = known[self.name]
        beyond = change.change.estimate > self.limit if self.above else change.change.estimate < self.limit
        return beyond and change.verdict in {"better", "worse"}

    def __str__(self) -> str:
        return f"{self.name}{'>' if self.above else '<'}{self.limit:g}"
