"""When work that arrives now would be done, and whether it may come in. Pure: time is an argument.

A call is priced before any of its texts waits. It is refused, whole and at once, if by the prediction its answer would
miss its deadline or its texts would wait for longer than the server's bound. What runs really take corrects the
prediction, so that neither a slow hour of the machine nor a calibration in a bad moment lets in too much or too little.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from headwaiter_server.errors import DeadlineUnreachableError, QueueFullError
from headwaiter_server.scheduling.calls import Terms
from headwaiter_server.scheduling.cost import Prices
from headwaiter_server.scheduling.waiting import WaitingWork

# With no bound given, the wait may be so many full runs, or this part of the time that the caller allows.
_RUNS_WAITED = 2
_PART_OF_TIME_WAITED = 1 / 12
# Callers that have less waiting than others may wait so many times as long as they.
_FOR_THE_MODEST = 2.0
# A full run moves the correction by this part of its own error, and a small one by less; the bounds are what a
# noisy machine does, not what a stalled one does.
_LEARNING_RATE = 1 / 16
_MOST_DRIFT = 8.0
# An idle server learns from every call that it takes, and from none that it refuses: it refuses only what would be too
# late even if it were so much faster than predicted.
_BENEFIT_OF_DOUBT = 2.0
# For so long after a refusal calls are looked at before their texts are read, too: else it would be a cost for nothing.
_WARY_SECONDS = 1.0
# What a text of the calls so far took moves by this part of its difference from the next call's.
_USUAL_RATE = 1 / 64
# Who is told to come back comes back after at most this time, however many were told so.
_LONGEST_HINT_SECONDS = 5.0


@dataclass(slots=True, eq=False)
class RunForecast:
    """A run under way.

    Attributes:
        started: When it began.
        expected_seconds: What its texts were priced, uncorrected.
        ends: When it is predicted to end.
        typical: Whether its time tells what others take.
    """

    started: float
    expected_seconds: float
    ends: float
    typical: bool


@dataclass(slots=True)
class _Reservation:
    """What a call still has waiting.

    Attributes:
        terms: Of the call.
        drift: By which its texts were priced.
        texts: How many have not started.
        seconds: Of those.
    """

    terms: Terms
    drift: float
    texts: int
    seconds: float


class Forecast:
    """The work of all models that waits and runs, over the workers that they share."""

    def __init__(self, workers: int, max_queue_seconds: float | None = None) -> None:
        """Begin with nothing.

        Args:
            workers: Runs at one time.
            max_queue_seconds: Longest predicted wait of a call that is let in. If it is not given, two full runs or, if
                that is more, a twelfth of the time until the call's deadline; without a deadline it is not bounded.
        """
        self.workers = workers
        self.waiting = WaitingWork()
        self.runs: set[RunForecast] = set()
        self._max_queue_seconds = max_queue_seconds
        self._next_return = -math.inf

    def model(self, prices: Prices) -> ModelForecast:
        """One more model's part in it."""
        return ModelForecast(self, prices)

    def wait_seconds(self, now: float) -> float:
        """Predicted wait of a text that comes after all that waits now."""
        return self._spread(self.waiting.seconds, now)

    def wait_of(self, terms: Terms, own_seconds: float, now: float) -> float:
        """Predicted wait of a call until only its own texts are left before its last one."""
        return self._spread(self.waiting.ahead(terms, own_seconds), now)

    def allowed_wait(self, terms: Terms, full_run_seconds: float, now: float) -> float:
        """Longest wait with which a call is let in."""
        if self._max_queue_seconds is not None:
            return self._max_queue_seconds
        return max(_RUNS_WAITED * full_run_seconds, _PART_OF_TIME_WAITED * (terms.deadline - now))

    def stretched(self, allowed: float, terms: Terms, own_seconds: float) -> float:
        """Longest wait of a call that would have to wait for longer than is allowed, where others are why.

        Args:
            allowed: See `allowed_wait`; where that was chosen, it holds for all.
            terms: Of the call.
            own_seconds: Of its texts.
        """
        if self._max_queue_seconds is None and self.waiting.is_modest(terms, own_seconds):
            return allowed * _FOR_THE_MODEST
        return allowed

    def return_in(self, room_in: float, own_seconds: float, latest: float, now: float) -> float:
        """When a refused call should try again: one after the other, at the pace at which they can be served.

        Told the same time, all of them would come back at once, and all but the first would be refused again.

        Args:
            room_in: Seconds until there is room by the prediction.
            own_seconds: Of the call's texts.
            latest: Seconds after which it need not come back.
            now: Seconds on the scheduler's clock.

        Returns:
            Seconds from now; infinite for a call that would come back too late, which takes nobody's turn.
        """
        returns = min(max(self._next_return, now + room_in), now + _LONGEST_HINT_SECONDS)
        if returns - now > latest:
            return math.inf
        self._next_return = returns + own_seconds / self.workers
        return returns - now

    def _spread(self, ahead: float, now: float) -> float:
        if not ahead and len(self.runs) < self.workers:
            return 0.0
        return (ahead + sum(max(0.0, run.ends - now) for run in tuple(self.runs))) / self.workers


class ModelForecast:
    """One model's part in the forecast: its prices, and how far off they are at present."""

    def __init__(self, forecast: Forecast, prices: Prices) -> None:
        self._forecast = forecast
        self._cost = prices.cost
        self._budget_tokens = prices.budget_tokens
        self._full_run_seconds = prices.full_run_seconds
        self._filling_tokens = prices.filling_tokens
        self._prices = prices
        self._wary_until = -math.inf
        self._usual_seconds = 0.0
        self._open: dict[Hashable, _Reservation] = {}
        self.drift = 1.0

    @property
    def full_run_seconds(self) -> float:
        """What a run at the budget is predicted to take."""
        return self.drift * self._full_run_seconds

    def foresee(self, terms: Terms, texts: int, now: float) -> None:
        """Refuse a call whose texts need not be read to know that it will be refused, for as long as others are.

        Reading costs what a server that has too much to do has least of. Of what this lets through, `reserve` may still
        refuse some, when the lengths are known; what it refuses, `reserve` would refuse of the shortest texts.

        Args:
            terms: What its caller asked for.
            texts: How many it has.
            now: Seconds on the scheduler's clock.

        Raises:
            QueueFullError: It would wait for too long.
            DeadlineUnreachableError: It would be too late.
        """
        if now < self._wary_until:
            self._check(terms, 1, 0.0, texts * self._usual_seconds, now)

    def reserve(self, call: Hashable, terms: Terms, lengths: Sequence[int], now: float) -> None:
        """Let a call's texts wait, or refuse all of them.

        `release` must be called when the call is over, however it ends.

        Args:
            call: The call, as `run_started` will name it.
            terms: What its caller asked for.
            lengths: Tokens of its texts.
            now: Seconds on the scheduler's clock.

        Raises:
            QueueFullError: It would wait for too long.
            DeadlineUnreachableError: It would be too late.
        """
        own = self.drift * self._price(lengths)
        each = own / len(lengths)
        self._usual_seconds += (_USUAL_RATE if self._usual_seconds else 1.0) * (each - self._usual_seconds)
        self._check(terms, max(lengths), own, own, now)
        self._open[call] = _Reservation(terms, self.drift, len(lengths), own)
        self._forecast.waiting.add(terms, len(lengths), own)

    def release(self, call: Hashable) -> None:
        """Forget what a call still has waiting."""
        left = self._open.pop(call, None)
        if left is not None and left.texts:
            self._forecast.waiting.remove(left.terms, left.texts, left.seconds)

    def run_started(
        self, texts: Sequence[tuple[Hashable, int]], now: float, *, more_wait: bool, typical: bool = True
    ) -> RunForecast:
        """Note a run.

        Args:
            texts: Call and tokens of each of its texts.
            now: Seconds on the scheduler's clock.
            more_wait: Whether it left texts of its model waiting, so that it was as full as runs get.
            typical: Whether it runs as others do, with as many threads.

        Returns:
            The run, for `run_finished`.
        """
        for call, tokens in texts:
            self._start(call, tokens)
        lengths = [tokens for _, tokens in texts]
        # Held against their prices, full runs teach also what prices leave out, such as padding and budgets not filled.
        expected = self._price(lengths) if more_wait else self._cost.of_run(len(lengths), max(lengths), sum(lengths))
        run = RunForecast(now, expected, now + self.drift * expected, typical)
        self._forecast.runs.add(run)
        return run

    def run_finished(self, run: RunForecast, now: float, *, clean: bool) -> None:
        """Note the end of a run.

        Args:
            run: The run.
            now: Seconds on the scheduler's clock.
            clean: Whether its time tells what such runs take; not if it failed, or was ended early.
        """
        self._forecast.runs.discard(run)
        if clean and run.typical and run.expected_seconds > 0:
            ratio = (now - run.started) / run.expected_seconds
            bounded = min(max(ratio, 1 / _MOST_DRIFT), _MOST_DRIFT)
            weight = _LEARNING_RATE * min(1.0, run.expected_seconds / self._full_run_seconds)
            self.drift += weight * (bounded - self.drift)

    def _check(self, terms: Terms, longest: int, own: float, usual: float, now: float) -> None:
        """Refuse what would wait for too long, or be too late.

        Args:
            terms: Of the call.
            longest: Tokens of its longest text.
            own: Seconds of its texts, at least.
            usual: What to expect them to be, for when it should come back.
            now: Seconds on the scheduler's clock.
        """
        try:
            self._weigh(terms, longest, own, usual, now)
        except (QueueFullError, DeadlineUnreachableError):
            self._wary_until = now + _WARY_SECONDS
            raise

    def _weigh(self, terms: Terms, longest: int, own: float, usual: float, now: float) -> None:
        forecast, workers = self._forecast, self._forecast.workers
        wait = forecast.wait_of(terms, own, now)
        full_run = self.full_run_seconds
        # The run that its last text is in has mates, as far as there are any.
        last_run = max(self.drift * self._cost.of_run(1, longest, longest), min(full_run, wait * workers + own))
        own_finish = max(last_run, own / workers + last_run * (workers - 1) / workers)
        if not wait and not forecast.runs:
            own_finish *= min(1.0, 1.0 / self.drift) / _BENEFIT_OF_DOUBT
        left = terms.deadline - now
        if wait + own_finish > left:
            raise DeadlineUnreachableError(
                f"the answer would be there in {wait + own_finish:.3g} s, the deadline is in {max(0.0, left):.3g} s",
                math.inf,
            )
        allowed = forecast.allowed_wait(terms, full_run, now)
        if wait > allowed:
            allowed = forecast.stretched(allowed, terms, own)
        if wait > allowed:
            likely = wait if usual == own else max(wait, forecast.wait_of(terms, usual, now))
            latest = left - max(own_finish, usual / workers)
            raise QueueFullError(
                f"the wait would be {wait:.3g} s, the limit is {allowed:.3g} s",
                forecast.return_in(likely - allowed, usual, latest, now),
            )

    def _start(self, call: Hashable, tokens: int) -> None:
        left = self._open.get(call)
        if left is None:  # its call is over
            return
        # The last one takes what is left, so that nothing remains of rounding.
        seconds = left.drift * self._price([tokens]) if left.texts > 1 else left.seconds
        self._forecast.waiting.remove(left.terms, 1, seconds)
        left.texts -= 1
        left.seconds -= seconds

    def _price(self, lengths: Sequence[int]) -> float:
        if max(lengths) <= self._budget_tokens and min(lengths) >= self._filling_tokens:
            return self._full_run_seconds * sum(lengths) / self._budget_tokens
        return sum(map(self._prices.text_seconds, lengths))
