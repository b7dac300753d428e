"""What waits for one model that answers at once, as the dispatcher sees it, and how it becomes runs.

For a model of texts an entry is a text, and costs its tokens. For one of tensors it is a request, and costs its rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, Protocol

from headwaiter_server.batching.batch import Batch
from headwaiter_server.batching.delay import Delay
from headwaiter_server.batching.sharing import ANY_TOKENS, LikeTensors, PackedTexts, PaddedTexts, Sharing
from headwaiter_server.batching.task import BatchEntry, CloseReason, RunFacts
from headwaiter_server.config import Batching
from headwaiter_server.encoding import Encoding
from headwaiter_server.errors import HeadwaiterError
from headwaiter_server.model.contract import BatchModel, FloatArray, RefusedInputError, Source, Values, Wanted
from headwaiter_server.model.tensors import TensorRows, Tensors
from headwaiter_server.scheduling.calls import Terms
from headwaiter_server.scheduling.forecast import ModelForecast, RunForecast
from headwaiter_server.scheduling.policy import Backlog, Budget, Rank
from headwaiter_server.scheduling.shares import FairShares


@dataclass(frozen=True, slots=True)
class LoneRuns(Generic[Source, Wanted, Values]):
    """How a text is run that has the server to itself, where all threads answer it sooner than a run's share of them.

    Attributes:
        model: The same model, in runs on all threads.
        threads: Threads that it runs on.
        workers: Workers that must be idle, all there are.
        from_tokens: Tokens from which on it is worth it.
    """

    model: BatchModel[Source, Wanted, Values]
    threads: int
    workers: int
    from_tokens: int


class Observer(Protocol):
    """Who is told of each run."""

    def run_finished(self, facts: RunFacts) -> None:
        """One run has ended well, or was ended early; its callers are answered."""
        ...


class BatchLane(Generic[Source, Wanted, Values]):
    """Makes runs of what waits, up to the budget; implements `Lane`.

    A run holds what waits when a worker is free for it. Under load that is more than the budget lets in, without load
    there is nobody to wait for; unless texts are told to wait for mates that may come.

    Attributes:
        budget: Most texts and tokens of a run; may be changed at any time, for the runs that begin after it.
        run_tokens: What starting a run costs, in tokens; may be changed likewise.
        lone_runs: How a text is run that has the server to itself; None as any other. May be changed likewise.
        forecast: Refuses calls by the wait that it predicts, and is told of the runs; None to refuse nobody. May be set
            before the first call.
        delay: Keeps texts waiting for mates; None if they never do.
        sharing: Who shares a run; as texts do, unless it is set before the first call.
        most_runs: Most runs at one time; None for as many as there are workers. Likewise.
        running: Texts in runs under way.
    """

    def __init__(
        self,
        model: BatchModel[Source, Wanted, Values],
        *,
        budget: Budget,
        run_tokens: float,
        batching: Batching,
        threads: int,
        shares: FairShares,
        numbers: Iterator[int],
        clock: Callable[[], float],
        observer: Observer,
        on_failure: Callable[[BaseException], None],
    ) -> None:
        """Set up an empty lane.

        Args:
            model: The model.
            budget: Most texts and tokens of a run; of a padded model, tokens with their padding.
            run_tokens: What starting a run costs, in tokens that could be computed in that time.
            batching: "auto" fills runs up to the budget, of a padded model with texts of like length; "fifo" takes 32
                texts as they come; "none" runs every text by itself.
            threads: Threads of a run, where it is none of `lone_runs`.
            shares: Fair shares over all models.
            numbers: Numbers of runs, over all models.
            clock: The scheduler's clock.
            observer: Told of each run.
            on_failure: Told of what the engine raised.
        """
        self.budget = budget
        self.run_tokens = run_tokens
        self.lone_runs: LoneRuns[Source, Wanted, Values] | None = None
        self.forecast: ModelForecast | None = None
        self.delay: Delay | None = None
        self.most_runs: int | None = None
        self.sharing: Sharing = PackedTexts() if model.packed else PaddedTexts()
        self._model = model
        self._batching = batching
        self._threads = threads
        self._backlog = Backlog(shares)
        self._numbers = numbers
        self._clock = clock
        self._observer = observer
        self._on_failure = on_failure
        self._in_flight: set[Batch[Source, Wanted, Values]] = set()
        self._forecast_runs: dict[Batch[Source, Wanted, Values], RunForecast] = {}
        self.running = 0

    @property
    def waiting(self) -> int:
        """Texts that wait for their run."""
        return len(self._backlog)

    @property
    def most_texts(self) -> int:
        """Most texts of a run."""
        return 1 if self._batching == "none" else self._full_run.rows

    def wait_for_mates(self, seconds: float) -> Delay | None:
        """Have texts wait for others to share their run although a worker is idle; to be called before the first call.

        Args:
            seconds: Longest wait, from the arrival of a text's call.

        Returns:
            What keeps them waiting, for the dispatcher; None if nothing does, as where every text is run by itself.
        """
        if seconds and self._batching != "none":
            self.delay = Delay(self._backlog, seconds)
        return self.delay

    def foresee(self, terms: Terms, texts: int) -> None:
        """Refuse a call of so many texts before they are read, if by the forecast nothing in them can save it.

        Raises:
            OverloadedError: It would wait for too long, or be too late.
        """
        if (forecast := self.forecast) is not None:
            forecast.foresee(terms, texts, self._clock())

    def submit(self, entries: list[BatchEntry[Source, Wanted, Values]]) -> None:
        """Queue the texts of a call, all or none. The dispatcher must be woken afterwards.

        Raises:
            OverloadedError: By the forecast the call would wait for too long, or be too late.
        """
        if (forecast := self.forecast) is not None:
            call = entries[0].call.priced_as
            forecast.reserve(call, call.terms, [entry.cost_tokens for entry in entries], call.submitted)
            call.future.add_done_callback(lambda _: forecast.release(call))
        for entry in entries:
            self._backlog.push(entry)

    def rank(self, now: float) -> Rank | None:
        """See `Lane`."""
        if self._runs_enough():
            return None
        if self.delay is not None and self._reason_to_run(self.delay, now) is None:
            return None
        return self._backlog.rank(now)

    def take(self, now: float, idle_workers: int) -> Batch[Source, Wanted, Values] | None:
        """See `Lane`."""
        if self._runs_enough():
            return None
        no_more: CloseReason | None = CloseReason.EMPTY
        if self.delay is not None:
            no_more = self._reason_to_run(self.delay, now)
        if no_more is None or not len(self._backlog):
            return None
        entries, reason = self._choose(now, idle_workers, no_more)
        if not entries:  # what waited was dead
            return None
        model, threads = self._model_for(entries, idle_workers)
        number, sharing = next(self._numbers), self.sharing
        batch = Batch(model, entries, number, reason, sharing, threads, self._clock, self._ended)
        self._in_flight.add(batch)
        self.running += len(entries)
        if self.forecast is not None:
            texts = [(entry.call.priced_as, entry.cost_tokens) for entry in entries]
            run = self.forecast.run_started(texts, now, more_wait=len(self._backlog) > 0, typical=model is self._model)
            self._forecast_runs[batch] = run
        return batch

    def fail_all(self, error: HeadwaiterError) -> None:
        """See `Lane`."""
        for entry in self._backlog.clear():
            entry.fail(error)
        for batch in self._in_flight:
            for entry in batch.entries:
                entry.fail(error)

    def _runs_enough(self) -> bool:
        """Whether its next run begins when one of those under way has ended, and not before."""
        if self.most_runs is None or len(self._in_flight) < self.most_runs:
            return False
        if self.delay is not None:
            self.delay.until = math.inf
        return True

    def _reason_to_run(self, delay: Delay, now: float) -> CloseReason | None:
        run_seconds = self.forecast.full_run_seconds if self.forecast is not None else 0.0
        return delay.reason_to_run(now, self._full_run, run_seconds)

    @property
    def _full_run(self) -> Budget:
        """Most texts and tokens of a run."""
        if self._batching == "fifo":
            return self.sharing.in_order
        return self.budget

    def _choose(
        self, now: float, idle_workers: int, no_more: CloseReason
    ) -> tuple[list[BatchEntry[Source, Wanted, Values]], CloseReason]:
        """The texts of the next run, and why there are no more of them.

        Args:
            now: Seconds on the scheduler's clock.
            idle_workers: See `take`.
            no_more: Why there are none, if nothing else bounds the run.
        """
        backlog, budget = self._backlog, self._full_run
        if self._batching == "none":
            return backlog.take(now, Budget(1, ANY_TOKENS)), CloseReason.ALONE
        if self._batching == "fifo":
            _, mates = self.sharing.mates(budget.tokens, self.run_tokens, in_order=True)
            entries = backlog.take(now, budget, mates)
            return entries, CloseReason.BUDGET if len(backlog) else no_more
        most_tokens = budget.tokens
        if idle_workers > 1 and no_more is not CloseReason.BUDGET:
            # Two runs side by side are done sooner than one of both, as long as each is worth the start of a run.
            share = max(self.run_tokens, backlog.waiting_tokens / idle_workers)
            most_tokens = min(most_tokens, math.ceil(share))
        most_cost, mates = self.sharing.mates(most_tokens, self.run_tokens, in_order=False)
        entries = backlog.take(now, Budget(budget.rows, most_cost), mates)
        if len(entries) == 1 and entries[0].cost_tokens >= budget.tokens:
            return entries, CloseReason.ALONE
        shared = most_tokens < budget.tokens and len(entries) < budget.rows
        return entries, no_more if shared or not len(backlog) else CloseReason.BUDGET

    def _model_for(
        self, entries: list[BatchEntry[Source, Wanted, Values]], idle_workers: int
    ) -> tuple[BatchModel[Source, Wanted, Values], int]:
        """The model that runs texts, and on how many threads it does."""
        lone = self.lone_runs
        # Several texts are better run side by side.
        if lone is None or len(entries) > 1 or len(self._backlog) or idle_workers < lone.workers:
            return self._model, self._threads
        if entries[0].cost_tokens < lone.from_tokens:
            return self._model, self._threads
        return lone.model, lone.threads

    def _ended(self, batch: Batch[Source, Wanted, Values]) -> None:
        if batch not in self._in_flight:  # it ended before, and what came after that has failed
            return
        self._in_flight.discard(batch)
        if self.forecast is not None:
            facts = batch.facts
            clean = batch.complete and not (batch.failures or facts.abandoned)
            self.forecast.run_finished(self._forecast_runs.pop(batch), self._clock(), clean=clean)
        self.running -= len(batch.entries)
        for failure in batch.failures.values():
            # Tensors are what a caller sent, and its fault; token ids are ours.
            if not (isinstance(self.sharing, LikeTensors) and isinstance(failure.__cause__, RefusedInputError)):
                self._on_failure(failure.__cause__ or failure)
        if batch.facts.rows:  # none are left when every caller has gone before it began
            self._observer.run_finished(batch.facts)


EncoderLane = BatchLane[Encoding, bool, FloatArray]
TensorLane = BatchLane[TensorRows, tuple[str, ...], Tensors]
