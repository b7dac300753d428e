"""What is generated for the texts of one call, told piece by piece to a reader that may be slow."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from headwaiter_server.generation.choosing import ChosenToken
from headwaiter_server.generation.sequence import Generated, Progress
from headwaiter_server.pipeline.core import Timings
from headwaiter_server.pipeline.generated import GenerationPiece
from headwaiter_server.pipeline.wording import Wording
from headwaiter_server.scheduling.calls import Call, Terms

# Takes pieces, no two of one text, and returns when there is room for more; beside the last ones it is told where the
# time went.
TakePieces = Callable[[Sequence[GenerationPiece], Timings | None], Awaitable[None]]


@dataclass(slots=True)
class _Untold(GenerationPiece):
    """A piece that nobody was told of yet.

    Attributes:
        tokens: Its tokens with their log-probabilities, where those were asked for.
        result: What came of the whole text; in its last piece.
    """

    tokens: list[ChosenToken] = field(default_factory=list)
    result: Generated | None = None


class Pieces:
    """What was generated for the texts of a call, and is not told yet; implements `Telling`. For the event loop.

    What comes while the reader is told of something else is joined: what is held of a text is at most the text. Nothing
    is worded before it is told, so that the scheduler, which says what came, is not held up.
    """

    def __init__(self, wording: Wording, take: TakePieces, clock: Callable[[], float]) -> None:
        """Set up.

        Args:
            wording: Says what the reader is told.
            take: Tells the reader.
            clock: The scheduler's clock.
        """
        self._wording = wording
        self._take = take
        self._clock = clock
        self._terms: Terms  # of the call that is opened
        self._untold: dict[int, _Untold] = {}
        # Of each text, how many characters and tokens have come in pieces.
        self._come: list[tuple[int, int]] = []
        self._unfinished: set[int] = set()
        self._idle: asyncio.Future[None] | None = None

    def open(
        self, terms: Terms, size: int, submitted: float, future: asyncio.Future[list[Generated]]
    ) -> Call[Generated]:
        """See `Telling`."""
        self._terms = terms
        self._come = [(0, 0)] * size
        self._unfinished = set(range(size))
        future.add_done_callback(lambda _: self._wake())  # also when it fails
        return _ToldCall(self, terms, size, submitted, future)

    def watch(self, index: int, progress: Progress) -> None:
        """A text goes on; see `GenerationTask`."""
        if index not in self._unfinished:  # as the same text was done elsewhere
            return
        characters, count = self._come[index]
        tokens = progress.tokens
        self._come[index] = characters + len(progress.text), count + len(tokens)
        piece = self._piece(index)
        piece.text += progress.text
        seconds = progress.seconds - self._terms.arrived
        for each in tokens:
            piece.token_ids.append(each.token_id)
            piece.token_seconds.append(seconds)
        if tokens and tokens[0].logprob is not None:
            piece.tokens += tokens
        self._wake()

    def finish(self, index: int, result: Generated) -> None:
        """A text is done. What was not watched, as of beam search or of an answer that was remembered, comes now."""
        self._unfinished.discard(index)
        self._piece(index).result = result
        if not self._unfinished:
            self._terms.trail.answered = self._clock()
        self._wake()

    async def tell(self, future: asyncio.Future[list[Generated]]) -> list[Generated]:
        """See `Telling`."""
        try:
            while True:
                results = future.result() if future.done() else None
                if self._untold:
                    untold, self._untold = list(self._untold.values()), {}
                    for piece in untold:
                        if piece.tokens or piece.result is not None:
                            self._word(piece)
                    await self._take(untold, None if results is None else self._wording.timings(results))
                if results is not None:
                    return results
                if not self._untold and not future.done():
                    self._idle = asyncio.get_running_loop().create_future()
                    await self._idle
        finally:
            future.cancel()

    def _word(self, piece: _Untold) -> None:
        if (result := piece.result) is not None:
            characters, count = self._come[piece.index]
            piece.finished = text = self._wording.text(piece.index, result, logprobs=False)
            piece.text += text.text[characters:]
            piece.token_ids += text.token_ids[count:]
            piece.token_seconds += text.token_seconds[count:]
            piece.tokens += (result.tokens or ())[count:]
        if piece.tokens:
            piece.logprobs = self._wording.written(piece.tokens)

    def _piece(self, index: int) -> _Untold:
        piece = self._untold.get(index)
        if piece is None:
            self._untold[index] = piece = _Untold(index)
            if self._terms.trail.first_token is None:
                self._terms.trail.first_token = self._clock()
        return piece

    def _wake(self) -> None:
        """Have the reader told, if it waits."""
        idle, self._idle = self._idle, None
        if idle is not None and not idle.done():
            idle.set_result(None)


class _ToldCall(Call[Generated]):
    """A call whose reader learns of each text when it is done."""

    __slots__ = ("_pieces",)

    def __init__(
        self, pieces: Pieces, terms: Terms, size: int, submitted: float, future: asyncio.Future[list[Generated]]
    ) -> None:
        super().__init__(terms, size, submitted, future)
        self._pieces = pieces

    def resolve(self, index: int, result: Generated) -> None:
        """See `Call`."""
        if not self.over:
            super().resolve(index, result)
            self._pieces.finish(index, result)
