"""A server in virtual time: real queue, real forecast, workers that take what a cost function says."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

from headwaiter_server.errors import OverloadedError
from headwaiter_server.scheduling.calls import Call, Pending, Terms
from headwaiter_server.scheduling.cost import Prices
from headwaiter_server.scheduling.forecast import Forecast, RunForecast
from headwaiter_server.scheduling.policy import Backlog, Budget
from headwaiter_server.scheduling.shares import FairShares


@dataclass
class Request:
    """What a simulated caller asks, and what came of it.

    Attributes:
        arrives: When it comes first.
        lengths: Tokens of its texts.
        timeout: How long it waits, retries included.
        retries: How often it comes back when told when.
        key: Its caller's fairness key.
        weight: Its caller's weight.
        attempts: How often it came.
        refused: What it was told each time it was refused.
        admitted: When it was let in.
        answered: When the last text was done.
    """

    arrives: float
    lengths: list[int]
    timeout: float = float("inf")
    retries: int = 0
    key: str = ""
    weight: float = 1.0
    attempts: int = 0
    refused: list[float] = field(default_factory=list)
    admitted: float | None = None
    answered: float | None = None

    @property
    def in_time(self) -> bool:
        return self.answered is not None and self.answered <= self.arrives + self.timeout


@dataclass
class Server:
    """Real queue and forecast, and workers in virtual time.

    Attributes:
        forecast: Decides who comes in.
        prices: What the forecast believes of the model.
        seconds_of: What a run of these lengths that begins at that time really takes.
    """

    forecast: Forecast
    prices: Prices
    seconds_of: Callable[[list[int], float], float]

    def __post_init__(self) -> None:
        self._model = self.forecast.model(self.prices)
        self._backlog = Backlog(FairShares())
        self._idle = self.forecast.workers
        self._order = itertools.count()
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._held: dict[Call[None], tuple[Request, int]] = {}
        self._loop = asyncio.new_event_loop()

    def serve(self, requests: list[Request]) -> None:
        """Serve requests until nothing is left to do, and tell them what came of them."""
        for request in requests:
            self._at(request.arrives, partial(self._arrive, request))
        while self._events:
            now, _, event = heapq.heappop(self._events)
            event(now)
        self._loop.close()

    def _at(self, time: float, event: Callable[[float], None]) -> None:
        heapq.heappush(self._events, (time, next(self._order), event))

    def _arrive(self, request: Request, now: float) -> None:
        request.attempts += 1
        terms = Terms(now, request.arrives + request.timeout, fairness_key=request.key, weight=request.weight)
        call: Call[None] = Call(terms, len(request.lengths), now, self._loop.create_future())
        try:
            self._model.reserve(call, terms, request.lengths, now)
        except OverloadedError as error:
            request.refused.append(error.retry_after_seconds)
            if request.attempts <= request.retries and math.isfinite(error.retry_after_seconds):
                self._at(now + error.retry_after_seconds, partial(self._arrive, request))
            return
        request.admitted = now
        self._held[call] = (request, len(request.lengths))
        for index, length in enumerate(request.lengths):
            self._backlog.push(Pending(call, index, None, length))
        self._pump(now)

    def _pump(self, now: float) -> None:
        budget = Budget(int(min(10_000, self.prices.most_texts)), self.prices.budget_tokens)
        while self._idle and (entries := self._backlog.take(now, budget)):
            self._idle -= 1
            texts = [(entry.call, entry.cost_tokens) for entry in entries]
            run = self._model.run_started(texts, now, more_wait=len(self._backlog) > 0)
            ends = now + self.seconds_of([tokens for _, tokens in texts], now)
            self._at(ends, partial(self._end, run, [call for call, _ in texts]))
        for call in [call for call in self._held if call.dead(now)]:
            call.future.exception()  # its caller has heard it
            self._leave(call)

    def _end(self, run: RunForecast, calls: list[Call[None]], now: float) -> None:
        self._idle += 1
        self._model.run_finished(run, now, clean=True)
        for call in calls:
            if call not in self._held:
                continue
            request, missing = self._held[call]
            self._held[call] = (request, missing - 1)
            if missing == 1:
                request.answered = now
                self._leave(call)
        self._pump(now)

    def _leave(self, call: Call[None]) -> None:
        self._model.release(call)
        del self._held[call]


def poisson(rng: random.Random, rate: float, seconds: float, lengths: Callable[[], list[int]]) -> Iterator[Request]:
    """Requests that arrive at random."""
    now = rng.expovariate(rate)
    while now < seconds:
        yield Request(now, lengths())
        now += rng.expovariate(rate)
