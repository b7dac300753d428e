"""One generating model's waiting texts and running batches, as the dispatcher sees them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol, cast

from headwaiter_server.config import Batching
from headwaiter_server.errors import HeadwaiterError
from headwaiter_server.generation.running import IterationFacts, Outcome, RunningBatch
from headwaiter_server.generation.sequence import GenerationEntry, Sequence
from headwaiter_server.model.contract import GenerationModel
from headwaiter_server.scheduling.policy import Backlog, Budget, Rank, effective_deadline, promoted
from headwaiter_server.scheduling.shares import FairShares

# Below this, splitting what waits between idle workers costs more than it gains: small steps are inefficient.
_SMALLEST_SHARE = 4
# Newcomers, relative to those who are being generated, for whom a step is lengthened without delay.
_WORTH_JOINING = 0.5


class Observer(Protocol):
    """Who is told of each iteration."""

    def iteration_finished(self, facts: IterationFacts) -> None:
        """One iteration has ended well."""
        ...


class Iteration:
    """One step of a running batch, with those who join for it; implements `Run`."""

    def __init__(self, lane: GenerationLane, batch: RunningBatch, number: int) -> None:
        self._lane = lane
        self._batch = batch
        self._number = number
        self._outcome: Outcome | None = None
        self.idle_since = 0.0

    def execute(self) -> None:
        """Do the step; see `Run`."""
        self._outcome = self._batch.iterate(self._number, self.idle_since)

    def settle(self) -> None:
        """Answer whoever is done, then report; see `Run`."""
        outcome = cast("Outcome", self._outcome)
        self._batch.in_flight = False
        self._charge(outcome)
        for sequence in outcome.finished:
            sequence.trace(outcome.now)
            sequence.entry.resolve(sequence.result(outcome.now))
            self._lane.charge(sequence)
        for entry, failure in outcome.failed:
            entry.fail(failure)
        for _, failure in outcome.failed:
            self._lane.on_failure(failure.__cause__ or failure)
        self._lane.observer.iteration_finished(outcome.facts)

    def fail(self, error: HeadwaiterError) -> None:
        """Fail everybody and give up the batch, whose state may be lost; see `Run`."""
        entries = self._batch.entries
        for entry, cpu_seconds in self._batch.spent:
            entry.call.terms.spending.add(cpu_seconds)
        if self._outcome is not None:
            self._charge(self._outcome)
            entries += [sequence.entry for sequence in self._outcome.finished]
            entries += [entry for entry, _ in self._outcome.failed]
        for entry in entries:
            entry.fail(error)
        self._lane.replace(self._batch)

    def _charge(self, outcome: Outcome) -> None:
        """Charge those who have left, once."""
        spent, outcome.spent = outcome.spent, []
        for entry, cpu_seconds in spent:
            entry.call.terms.spending.add(cpu_seconds)


class GenerationLane:
    """Keeps as many running batches as there are workers; implements `Lane`."""

    def __init__(
        self,
        model: GenerationModel,
        *,
        budget: Budget,
        workers: int,
        threads: int,
        batching: Batching,
        shares: FairShares,
        numbers: Iterator[int],
        clock: Callable[[], float],
        observer: Observer,
        on_failure: Callable[[BaseException], None],
    ) -> None:
        """Set up empty batches.

        Args:
            model: The model.
            budget: Rows of a running batch, and source tokens that may join it in one iteration.
            workers: Workers that may run this model at one time.
            threads: Threads of a run.
            batching: "auto" lets texts join between steps; "fifo" fills a batch only when it is empty; "none" decodes
                one text at a time.
            shares: Fair shares over all models.
            numbers: Numbers of iterations, over all models.
            clock: The scheduler's clock.
            observer: Told of each iteration.
            on_failure: Told of what the engine raised.
        """
        self._model = model
        self._threads = threads
        self._budget = Budget(1, budget.tokens) if batching == "none" else budget
        self._joins_running = batching == "auto"
        self._clock = clock
        self._shares = shares
        self._backlog = Backlog(shares)
        self._batches = [RunningBatch(model, threads, clock) for _ in range(workers)]
        self._numbers = numbers
        self.on_failure = on_failure
        self.observer = observer

    @property
    def waiting(self) -> int:
        """Texts that wait for their first run."""
        return len(self._backlog)

    @property
    def running(self) -> int:
        """Texts in running batches, those that are about to join among them: they wait no longer."""
        # A copy: the scrape that asks is on another thread.
        return sum(len(batch.newcomers) + len(batch.sequences) for batch in tuple(self._batches))

    def submit(self, entries: list[GenerationEntry]) -> None:
        """Queue the texts of a call. The dispatcher must be woken afterwards."""
        for entry in entries:
            self._backlog.push(entry)

    def rank(self, now: float) -> Rank | None:
        """See `Lane`: the most urgent of those that wait for a free place and those that are being generated."""
        ranks = [self._running_rank(batch, now) for batch in self._batches if batch.sequences and not batch.in_flight]
        if any(self._room(batch) for batch in self._batches) and (waiting := self._backlog.rank(now)):
            ranks.append(waiting)
        return min(ranks, default=None)

    def take(self, now: float, idle_workers: int) -> Iteration | None:
        """See `Lane`: the next iteration of the batch that has waited longest for one."""
        idle = [batch for batch in self._batches if not batch.in_flight]
        # Batches with work come first, in the order in which they last ran; for newcomers, one that has room.
        running = next((each for each in idle if each.sequences), None)
        batch = running
        if running is None or (len(self._backlog) and not self._room(running)):
            batch = next((each for each in idle if self._room(each)), running)
        if batch is None:
            return None
        self._admit_newcomers(batch, now, idle_workers)
        if not batch.newcomers and not batch.sequences:  # what waited was dead
            if running is None:
                return None
            batch = running
        for sequence in batch.sequences:
            sequence.entry.call.dead(now)  # answers it if its deadline has passed; the iteration drops its row
        batch.in_flight = True
        self._batches.remove(batch)
        self._batches.append(batch)
        return Iteration(self, batch, next(self._numbers))

    def _admit_newcomers(self, batch: RunningBatch, now: float, idle_workers: int) -> None:
        """Let those who wait join a batch in its next iteration, as far as there is room and it is worth it."""
        room, waiting = self._room(batch), len(self._backlog)
        # A few newcomers wait for one step, in which more of them and more free rows may come: encoding them one by one
        # costs everybody in the batch more than that step costs them.
        few = min(room, waiting) < len(batch.sequences) * _WORTH_JOINING
        batch.deferred = few and not batch.deferred and waiting > 0
        if room and not batch.deferred:
            share = max(_SMALLEST_SHARE, -(-waiting // idle_workers))
            batch.newcomers = self._backlog.take(now, Budget(min(room, share), self._budget.tokens))

    def fail_all(self, error: HeadwaiterError) -> None:
        """See `Lane`."""
        for entry in self._backlog.clear():
            entry.fail(error)
        for batch in self._batches:
            for entry in batch.entries:
                entry.fail(error)

    def charge(self, sequence: Sequence) -> None:
        """Count what was generated into its caller's share; the source was counted when it was taken."""
        self._shares.charge(sequence.entry.call.terms.fairness_key, len(sequence.token_ids))

    def replace(self, batch: RunningBatch) -> None:
        """Put an empty batch in the place of one whose state is lost."""
        if batch in self._batches:
            self._batches[self._batches.index(batch)] = RunningBatch(self._model, self._threads, self._clock)

    def _room(self, batch: RunningBatch) -> int:
        """Rows that may join a batch now."""
        if batch.in_flight or (batch.sequences and not self._joins_running):
            return 0
        return self._budget.rows - len(batch.sequences)

    def _running_rank(self, batch: RunningBatch, now: float) -> Rank:
        """Rank of the most urgent sequence, as if it were waiting; between steps it is."""
        return min(
            (
                promoted(sequence.entry.call.terms, now),
                self._shares.served(sequence.entry.call.terms.fairness_key),
                effective_deadline(sequence.entry.call.terms),
                sequence.entry.order,
            )
            for sequence in batch.sequences
        )
