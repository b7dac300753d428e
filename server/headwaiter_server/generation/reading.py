"""Which sources are read next. Pure.

Reading is cut into portions, so that a long text holds up nobody. Where a model goes on with its text, a portion is a
part of one text, and texts are cut at the same places whatever else happens: a text's tokens would else depend, in the
last digits, on who is there. Where it has an encoder, a portion is some whole texts.

An iteration reads a portion of the text with the least left to read, so that a short one need not wait for a long one,
and of the text that came first, so that a long one is not overtaken for ever. It reads more as long as that takes no
longer than a step, or nobody waits for a step: those who are under way get their tokens about half as fast at worst.
To read more while many wait for it gains little: with a GPT-2 of 14 million parameters and 32 callers, reading all that
the budget allows gave 1 to 2 % more tokens, and gaps between them almost three times as long.
"""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass, field

from headwaiter_server.generation.sequence import Sequence
from headwaiter_server.model.generation import CHUNK_TOKENS

# Tokens of texts that are encoded at a time.
_ENCODED_TOKENS = 128


@dataclass(slots=True)
class Reading:
    """What one iteration reads.

    Attributes:
        encodes: Whether texts are encoded, whole.
        most_tokens: Most tokens, beside those of portions that are due.
        step_seconds: Length of a step.
        tokens: Read so far.
        portions: Portions so far.
        seconds: Time that took.
        last_seconds: Time that the last of them took.
        begun: Texts of which something was read.
        oldest: Who came first of those who have some left to read.
    """

    encodes: bool
    most_tokens: int
    step_seconds: float
    tokens: int = 0
    portions: int = 0
    seconds: float = 0.0
    last_seconds: float = 0.0
    begun: set[Sequence] = field(default_factory=set)
    oldest: Sequence | None = None

    def next(self, unread: Items[Sequence], *, others_wait: bool) -> list[Sequence]:
        """Whose source is read next, in one portion; nobody's when it is enough.

        Args:
            unread: Who has some left to read, in the order in which they came.
            others_wait: Whether somebody is there who is waiting for the next step.
        """
        if not unread:
            return []
        due = self.portions == 0
        if due:
            self.oldest = unread[0]
        if self.encodes:
            portion = self._texts(unread)
        elif self.portions == 1 and self.oldest is not None and self.oldest not in self.begun:
            due, portion = True, [self.oldest]
        else:  # of those that have as much left, whoever came first
            portion = [min(unread, key=_parts_left)]
        if due:
            return portion
        if self.tokens + sum(map(self.size, portion)) > self.most_tokens:
            return []
        if others_wait and self.seconds + self.last_seconds > self.step_seconds:
            return []
        return portion

    def size(self, sequence: Sequence) -> int:
        """Tokens of a text's next portion."""
        return sequence.unread if self.encodes else min(sequence.unread, CHUNK_TOKENS)

    def note(self, portion: Items[Sequence], tokens: int, seconds: float) -> None:
        """Note that a portion was read."""
        self.tokens += tokens
        self.portions += 1
        self.seconds += seconds
        self.last_seconds = seconds
        self.begun.update(portion)

    def _texts(self, unread: Items[Sequence]) -> list[Sequence]:
        tokens, texts = 0, list[Sequence]()
        for sequence in unread:
            tokens += sequence.unread
            if texts and tokens > _ENCODED_TOKENS:
                break
            texts.append(sequence)
        return texts


def _parts_left(sequence: Sequence) -> int:
    return -(-sequence.unread // CHUNK_TOKENS)
