"""How requests of one kind share a run, and what a run of them counts as. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from headwaiter_server.batching.likeness import LikeLength, LikeShape
from headwaiter_server.scheduling.policy import Budget, Mates

ANY_TOKENS = 1 << 62
# What servers that batch in order of arrival take into a run by default.
_FIFO_ROWS = 32
# A packed graph's attention holds a number for each pair of tokens of the run: 32 long texts would fill the memory.
_MOST_PACKED_FIFO_TOKENS = 2048


class Load(NamedTuple):
    """What a run holds.

    Attributes:
        rows: Texts, or rows of tensors.
        tokens: Tokens of the texts; tensors have none.
        padding_tokens: Tokens computed beyond these.
    """

    rows: int
    tokens: int
    padding_tokens: int


class Sharing(Protocol):
    """One way to share runs.

    Attributes:
        in_order: The run that a server makes that batches in order of arrival.
    """

    in_order: Budget

    def mates(self, most_tokens: int, run_tokens: float, *, in_order: bool) -> tuple[int, Mates | None]:
        """Who shares a run.

        Args:
            most_tokens: Most that a run costs, in tokens, or rows of tensors.
            run_tokens: What starting a run costs, in the same.
            in_order: Whether they are taken as they come, whatever that costs.

        Returns:
            The most that entries of the run may cost together, padding aside, and who decides beyond that, if anybody.
        """
        ...

    def load(self, costs: Sequence[int]) -> Load:
        """What a run of entries of these costs holds."""
        ...


class PackedTexts:
    """Texts end to end, whatever their lengths; implements `Sharing`."""

    in_order = Budget(_FIFO_ROWS, _MOST_PACKED_FIFO_TOKENS)

    def mates(
        self,
        most_tokens: int,
        run_tokens: float,  # noqa: ARG002 - see the protocol
        *,
        in_order: bool,  # noqa: ARG002
    ) -> tuple[int, Mates | None]:
        """See `Sharing`."""
        return most_tokens, None

    def load(self, costs: Sequence[int]) -> Load:
        """See `Sharing`."""
        return Load(len(costs), sum(costs), 0)


class PaddedTexts:
    """Texts in rows as long as the longest, of like length; implements `Sharing`."""

    in_order = Budget(_FIFO_ROWS, ANY_TOKENS)

    def mates(self, most_tokens: int, run_tokens: float, *, in_order: bool) -> tuple[int, Mates | None]:
        """See `Sharing`."""
        return ANY_TOKENS, None if in_order else LikeLength(most_tokens, run_tokens)

    def load(self, costs: Sequence[int]) -> Load:
        """See `Sharing`."""
        tokens = sum(costs)
        return Load(len(costs), tokens, len(costs) * max(costs, default=0) - tokens)


class LikeTensors:
    """Requests of tensors, of like shapes; implements `Sharing`. A request costs its rows, and is never split."""

    def __init__(self, most_rows: int) -> None:
        """Set up.

        Args:
            most_rows: Of any run, whatever the rows cost.
        """
        self._most_rows = most_rows
        self.in_order = Budget(_FIFO_ROWS, min(_FIFO_ROWS, most_rows))

    def mates(
        self,
        most_tokens: int,
        run_tokens: float,  # noqa: ARG002 - see the protocol
        *,
        in_order: bool,  # noqa: ARG002
    ) -> tuple[int, Mates | None]:
        """See `Sharing`."""
        return min(most_tokens, self._most_rows), LikeShape()

    def load(self, costs: Sequence[int]) -> Load:
        """See `Sharing`."""
        return Load(sum(costs), 0, 0)
