"""One call's hold on the scheduler, and the entries it has waiting."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from headwaiter_server.errors import DeadlineExceededError, HeadwaiterError
from headwaiter_server.scheduling.spending import Spending
from headwaiter_server.scheduling.trail import Trail

Payload = TypeVar("Payload")
Result = TypeVar("Result")

DEFAULT_PRIORITY = 4
NO_DEADLINE = float("inf")


@dataclass(frozen=True, slots=True)
class Terms:
    """What a caller asked of the scheduler, how far its call has come, and what was spent on it.

    Attributes:
        arrived: When the call reached the server, in seconds of the scheduler's clock.
        deadline: When the answer stops being wanted, on the same clock; infinite without a deadline.
        priority: 1 is served first; larger numbers later.
        fairness_key: Callers that share a key share one fair share.
        weight: How much that share is of another's, whose weight is 1.
        trail: Of this call alone: a copy of its terms begins anew.
        spending: Likewise.
    """

    arrived: float
    deadline: float = NO_DEADLINE
    priority: int = DEFAULT_PRIORITY
    fairness_key: str = ""
    weight: float = 1.0
    trail: Trail = field(default_factory=Trail, init=False, compare=False, repr=False)
    spending: Spending = field(default_factory=Spending, init=False, compare=False, repr=False)

    def charged_to(self, other: Terms) -> Terms:
        """These terms, and the trail, of work whose price somebody else pays.

        Args:
            other: That call's terms.
        """
        charged = replace(self)
        object.__setattr__(charged, "trail", self.trail)
        object.__setattr__(charged, "spending", other.spending)
        return charged


class Call(Generic[Result]):
    """The one place where a call is answered, exactly once, whatever happens to its texts.

    A call of n texts has n entries in the queue and one future. Whoever finishes, fails, cancels or expires
    first decides; everybody later is ignored. Entries of a call that is over are dead: they are dropped from
    the queue and leave a running batch at its next step.
    """

    __slots__ = ("_missing", "_results", "future", "submitted", "terms")

    def __init__(self, terms: Terms, size: int, submitted: float, future: asyncio.Future[list[Result]]) -> None:
        """Open a call.

        Args:
            terms: What its caller asked for.
            size: Number of texts, at least 1.
            submitted: When its texts began to wait, in seconds of the scheduler's clock.
            future: What its handler awaits.
        """
        self.terms = terms
        self.submitted = submitted
        self.future = future
        self._results: list[Result | None] = [None] * size
        self._missing = size

    @property
    def over(self) -> bool:
        """Whether nobody waits for the answer any more: answered, failed, cancelled."""
        return self.future.done()

    @property
    def priced_as(self) -> Call[Result]:
        """The call that was let in for its texts; see `forecast`."""
        return self

    def wanted(self, now: float) -> bool:
        """Whether its texts are still worth a run that begins now. Changes nothing: workers ask, too.

        Args:
            now: Seconds on the scheduler's clock.
        """
        return not self.future.done() and self.terms.deadline > now

    def dead(self, now: float) -> bool:
        """Whether its texts need not run any more; a call whose deadline has passed is answered here.

        Args:
            now: Seconds on the scheduler's clock.
        """
        if not self.over and self.terms.deadline <= now:
            self.fail(DeadlineExceededError("the deadline passed before the text could run"))
        return self.over

    def resolve(self, index: int, result: Result) -> None:
        """Give the result of text `index`; the last one answers the call."""
        if self.over:
            return
        self._results[index] = result
        self._missing -= 1
        if not self._missing:
            self.future.set_result(self._results)  # type: ignore[arg-type]  # none is missing

    def fail(self, error: HeadwaiterError) -> None:
        """Answer the whole call with an error, unless it is over."""
        if not self.over:
            self.future.set_exception(error)


@dataclass(slots=True, eq=False)
class Pending(Generic[Payload, Result]):
    """One text of one call, waiting for its turn.

    Attributes:
        call: The call it belongs to.
        index: Which of the call's texts it is.
        payload: What the model needs to know of it.
        cost_tokens: Price in tokens, for budgets and fair shares.
    """

    call: Call[Result]
    index: int
    payload: Payload
    cost_tokens: int
    order: int = field(default=0)

    def resolve(self, result: Result) -> None:
        """Answer this text."""
        self.call.resolve(self.index, result)

    def fail(self, error: HeadwaiterError) -> None:
        """Fail the call this text belongs to."""
        self.call.fail(error)
