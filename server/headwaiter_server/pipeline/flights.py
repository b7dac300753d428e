"""Texts that run once for all calls that ask for them at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol, TypeVar

from headwaiter_server.errors import DeadlineExceededError, HeadwaiterError
from headwaiter_server.pipeline.remembering import Measured
from headwaiter_server.scheduling.calls import Call, Terms
from headwaiter_server.scheduling.policy import effective_deadline

Result = TypeVar("Result", bound=Measured)


class Landing(Protocol[Result]):
    """Who is told how flights end."""

    def landed(self, digest: bytes, result: Result, submitted: float) -> None:
        """A run has given an answer, which everybody is to have who waits for it.

        Args:
            digest: Of the text.
            result: The answer.
            submitted: When the text began to wait, on the scheduler's clock.
        """
        ...

    def lost(self, digest: bytes, flight: Flight[Result]) -> None:
        """There will be no answer that anybody waits for."""
        ...


class Flight(Call[Result]):
    """One text on its way to its answer, for every call that waits for it; to its lane, a call of its own.

    It has the place in the order of the call that began it, its leader. It goes on for as long as any call waits for
    it: the leader may go like any other. When the last has gone it is over, as a call is that was cancelled.
    """

    __slots__ = ("_digest", "_landing", "_leader", "_until", "_waiting")

    def __init__(self, leader: Call[Result], digest: bytes, landing: Landing[Result]) -> None:
        """Begin one, which nobody waits for yet.

        Args:
            leader: The call that begins it.
            digest: Of the text.
            landing: Told of the end.
        """
        super().__init__(leader.terms, 1, leader.submitted, asyncio.get_running_loop().create_future())
        self._leader = leader
        self._digest = digest
        self._landing = landing
        self._until = leader.terms.deadline
        # Of each call, which of its texts wait.
        self._waiting: dict[Call[Result], list[int]] = {}

    @property
    def priced_as(self) -> Call[Result]:
        """See `Call`."""
        return self._leader

    def suits(self, terms: Terms) -> bool:
        """Whether a call that waits for it is served no later than by a place of its own."""
        mine = self.terms
        return (
            mine.priority == terms.priority
            and mine.fairness_key == terms.fairness_key
            and effective_deadline(mine) <= effective_deadline(terms)
        )

    def join(self, call: Call[Result], index: int) -> None:
        """Have a text of a call wait for it."""
        self._waiting.setdefault(call, []).append(index)
        self._until = max(self._until, call.terms.deadline)

    def leave(self, call: Call[Result]) -> None:
        """Let a call go that is over; the last one ends it."""
        if self._waiting.pop(call, None) is None:
            return
        if not self._waiting:
            self._end()
        elif call.terms.spending is self.terms.spending:
            # What is spent from now on is spent for those who stay.
            self.terms = self.terms.charged_to(next(iter(self._waiting)).terms)

    def wanted(self, now: float) -> bool:  # noqa: ARG002 - by `dead`; a worker cannot know who joins just now
        """See `Call`."""
        return not self.future.done()

    def dead(self, now: float) -> bool:
        """See `Call`: as soon as nobody's deadline is left."""
        if not self.over and self._until <= now:
            self.fail(DeadlineExceededError("the deadline passed before the text could run"))
        return self.over

    def resolve(self, index: int, result: Result) -> None:  # noqa: ARG002 - it has one text
        """Have everybody answered; an answer that nobody waits for any more is not lost either."""
        self._landing.landed(self._digest, result, self.submitted)

    def fail(self, error: HeadwaiterError) -> None:
        """Fail every call that waits for it: it is their text, too, that cannot be answered."""
        if self.over:
            return
        waiting = list(self._waiting)
        self._end()
        for call in waiting:
            call.fail(error)

    def answer(self, result: Result, submitted: float, given: Callable[[Result], Result]) -> None:
        """Answer everybody who waits for it.

        Args:
            result: The answer; see `Landing.landed`.
            submitted: See there.
            given: Makes of it what one caller gets.
        """
        self.future.set_result([result])
        waiting, self._waiting = self._waiting, {}
        for call, indices in waiting.items():
            seen = _seen_by(call, result, submitted)
            for index in indices:
                call.resolve(index, given(seen))

    def _end(self) -> None:
        self._waiting = {}
        self.future.cancel()
        self._landing.lost(self._digest, self)


def _seen_by(call: Call[Result], result: Result, submitted: float) -> Result:
    """A result with the times that it took for a call that came later, or earlier, than the text that ran."""
    late = call.submitted - submitted
    if not late:
        return result
    queue_seconds = result.queue_seconds - late
    # Who came when the run was under way has waited for what was left of it.
    seconds = max(0.0, result.inference_seconds + min(0.0, queue_seconds))
    return replace(result, queue_seconds=max(0.0, queue_seconds), inference_seconds=seconds)
