"""How the graphs of a model make one model again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from headwaiter_export.generation.runtime import DecoderOnly, EncoderDecoder, Graphs
from headwaiter_export.generation.signature import CacheShape
from headwaiter_export.runtime import Graph


@dataclass(frozen=True)
class Form:
    """What there is to know of a model beside its graphs, to run them.

    Attributes:
        shape: What it keeps of every token.
        start_id: What its decoder begins with; None of a decoder-only model.
    """

    shape: CacheShape
    start_id: int | None

    @property
    def goes_on(self) -> bool:
        """Whether it is a decoder-only model."""
        return self.start_id is None

    def model(self, graphs: Sequence[Graph], watched: Sequence[str] = ()) -> Graphs:
        """The model.

        Args:
            graphs: The decoder; before it, if there is one, the encoder.
            watched: Outputs that are to be kept; see `CachedRows.seen`.
        """
        if self.start_id is None:
            return DecoderOnly(graphs[-1], self.shape, tuple(watched))
        encoder, decoder = graphs
        return EncoderDecoder(encoder, decoder, self.shape, self.start_id, tuple(watched))
