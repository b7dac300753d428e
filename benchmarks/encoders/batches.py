"""How texts that are all known in advance become batches; pure."""

from __future__ import annotations

import random
from collections.abc import Sequence, Sized
from dataclasses import dataclass
from typing import TypeVar

Item = TypeVar("Item", bound=Sized)
Batches = list[list[Item]]


@dataclass(frozen=True)
class Rule:
    """A rule.

    Attributes:
        limit: Most rows of a batch, or most tokens.
        by_tokens: Whether `limit` counts tokens: those of the texts in a packed batch, rows times longest in a padded
            one. Such batches are of like length, and come in random order, so that a run that is stopped early is a
            fair sample; batches by rows keep the order of arrival.
    """

    limit: int
    by_tokens: bool

    def batches(self, texts: Sequence[Item], *, packed: bool) -> Batches[Item]:
        """The batches. A text over the limit is one by itself."""
        if not self.by_tokens:
            return [list(texts[at : at + self.limit]) for at in range(0, len(texts), self.limit)]
        made: Batches[Item] = []
        tokens = 0
        for text in sorted(texts, key=len, reverse=True):
            grown = tokens + len(text) if packed else (len(made[-1]) + 1) * len(made[-1][0]) if made else 0
            if made and grown <= self.limit:
                made[-1].append(text)
                tokens = grown
            else:
                made.append([text])
                tokens = len(text)
        random.Random(len(made)).shuffle(made)
        return made


def parse_rule(text: str) -> Rule:
    """Read `rows:32` or `tokens:128`."""
    kind, _, limit = text.partition(":")
    if kind not in {"rows", "tokens"} or not limit.isdecimal() or int(limit) < 1:
        raise ValueError(f"expected rows:N or tokens:N, got {text!r}")
    return Rule(int(limit), kind == "tokens")
