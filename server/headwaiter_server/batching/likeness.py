"""Who shares a run of a padded graph, or of one that takes tensors. Pure."""

from __future__ import annotations

from collections.abc import Hashable

from headwaiter_server.scheduling.policy import Entry


class LikeLength:
    """A run of a padded graph that is being put together; implements `Mates`.

    A run costs its rows times its longest text. A text may join as long as the padding that this adds, to its own row
    or to those of the others, costs no more than the run that it would else begin, or make longer, elsewhere.
    """

    def __init__(self, most_tokens: float, run_tokens: float) -> None:
        """Begin a run.

        Args:
            most_tokens: Most tokens computed, padding included; the first text may have more.
            run_tokens: What starting a run costs, in tokens that could be computed in that time. Of a cost of
                `a + b * tokens` seconds, `a / b`.
        """
        self._most_tokens = most_tokens
        self._run_tokens = run_tokens
        self._rows = 0
        self._longest = 0

    @property
    def full(self) -> bool:
        """Whether there is no room for one more row."""
        return self._rows > 0 and (self._rows + 1) * self._longest > self._most_tokens

    def join(self, entry: Entry) -> bool:
        """Let a text join if it suits; see `Mates`."""
        length = entry.cost_tokens
        longest = max(self._longest, length)
        if self._rows:
            rows_padded, padding_each = (
                (1, longest - length) if length < longest else (self._rows, length - self._longest)
            )
            if rows_padded * padding_each > self._run_tokens or (self._rows + 1) * longest > self._most_tokens:
                return False
        self._rows += 1
        self._longest = longest
        return True


class LikeShape:
    """A run of tensors that is being put together; implements `Mates`.

    Requests are laid one below the other: their inputs must be the same ones, and of the same shape but for the rows.
    Nothing is padded: a model of tensors knows no padding from what it was sent.
    """

    def __init__(self) -> None:
        self._begun = False
        self._likeness: Hashable = None

    @property
    def full(self) -> bool:
        """Whether the one request that is in it joins nobody."""
        return self._begun and self._likeness is None

    def join(self, entry: Entry) -> bool:
        """Let a request join if its tensors are like those of the others; see `Mates`."""
        likeness = entry.payload.source.likeness
        if not self._begun:
            self._begun, self._likeness = True, likeness
            return True
        return likeness is not None and likeness == self._likeness
