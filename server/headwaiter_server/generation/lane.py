"""One generating model's waiting texts and running batches, as the dispatcher sees them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from headwaiter_server.config import Batching
from headwaiter_server.errors import EngineError, HeadwaiterError, InvalidRequestError
from headwaiter_server.generation.outcome import IterationFacts, Outcome
from headwaiter_server.generation.room import Joining, Room, rows_for
from headwaiter_server.generation.running import RunningBatch
from headwaiter_server.generation.sequence import GenerationEntry, GenerationTask, Progress
from headwaiter_server.log import get_logger
from headwaiter_server.model.generation import GenerationModel
from headwaiter_server.scheduling.policy import Backlog, Budget, Rank, effective_deadline, promoted
from headwaiter_server.scheduling.shares import FairShares

_log = get_logger(__name__)

# Below this, splitting what waits between idle workers costs more than it gains: small steps are inefficient.
_SMALLEST_SHARE = 4
_ANY_TOKENS = 1 << 62


class Observer(Protocol):
    """Who is told of each iteration."""

    def iteration_finished(self, facts: IterationFacts) -> None:
        """One iteration has ended well."""
        ...


class Iteration:
    """One iteration of a running batch, with those who join for it; implements `Run`."""

    def __init__(self, lane: GenerationLane, batch: RunningBatch, number: int) -> None:
        self._lane = lane
        self._batch = batch
        self._number = number
        self.idle_since = 0.0

    def execute(self) -> None:
        """Do the iteration; see `Run`."""
        self._batch.iterate(self._number, self.idle_since)

    def settle(self) -> None:
        """Tell who watches, answer whoever is done, then report; see `Run`."""
        batch, lane = self._batch, self._lane
        outcome = batch.outcome
        batch.in_flight = False
        lane.charge(outcome)
        for entry in outcome.unwanted:
            entry.call.dead(outcome.now)  # its deadline passed after the dispatcher had looked
        for entry, progress in outcome.progress:
            _tell(entry, progress)
        for sequence in outcome.finished:
            sequence.trace(outcome.now)
            sequence.entry.resolve(sequence.result(outcome.now))
        for entry, failure in outcome.failed:
            entry.fail(failure)
        for _, failure in outcome.failed:
            lane.on_failure(failure.__cause__ or failure)
        lane.observer.iteration_finished(outcome.facts)

    def fail(self, error: HeadwaiterError) -> None:
        """Fail everybody and give up the batch, whose state may be lost; see `Run`."""
        self._batch.write_off()
        self._lane.charge(self._batch.outcome)
        for entry in self._batch.entries:
            entry.fail(error)
        self._lane.replace(self._batch)


def _tell(entry: GenerationEntry, progress: Progress) -> None:
    """Tell who watches a text what came for it. Whoever cannot be told is failed, and nobody else."""
    watch = entry.payload.watch
    if watch is None or entry.call.over:
        return
    try:
        watch(progress)
    except Exception:  # noqa: BLE001 - the others in the batch are told and answered
        _log.exception("watch_failed")
        entry.fail(EngineError("what was generated could not be passed on"))


class GenerationLane:
    """Keeps as many running batches as there are workers; implements `Lane`.

    Attributes:
        model: The model.
    """

    def __init__(  # noqa: PLR0913 - each by its name, as it is the only place that has them all
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
        cache_bytes: int | None = None,
    ) -> None:
        """Set up empty batches.

        Args:
            model: The model.
            budget: Rows of a running batch, and source tokens that may be read in one iteration of it.
            workers: Workers that may run this model at one time.
            threads: Threads of a run.
            batching: "auto" lets texts join between steps; "fifo" fills a batch only when it is empty; "none" decodes
                one text at a time.
            shares: Fair shares over all models.
            numbers: Numbers of iterations, over all models.
            clock: The scheduler's clock.
            observer: Told of each iteration.
            on_failure: Told of what the engine raised.
            cache_bytes: What all texts of the model may keep together of what they have read; None: as much as all rows
                could use.
        """
        self.model = model
        self._threads = threads
        self._most_tokens = budget.tokens
        self._most_texts = 1 if batching == "none" else budget.rows
        rows = rows_for(batching, budget.rows)
        self._room = Room(model, rows, None if cache_bytes is None else cache_bytes // workers, workers)
        self._joins_running = batching == "auto"
        self._clock = clock
        self._shares = shares
        self._backlog = Backlog(shares)
        self._batches = [self._new_batch() for _ in range(workers)]
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

    @property
    def used_rows(self) -> int:
        """Rows that are taken; a text with beams has several."""
        return sum(batch.used_rows for batch in tuple(self._batches))

    @property
    def rows(self) -> int:
        """Rows that there are."""
        return self._room.rows * len(self._batches)

    @property
    def reserved_bytes(self) -> int:
        """What of the cache is set aside for texts that run."""
        return sum(batch.reserved_bytes for batch in tuple(self._batches))

    @property
    def cache_bytes(self) -> int:
        """Size of the cache."""
        return self._room.size_bytes * len(self._batches)

    def check(self, task: GenerationTask, field: str = "texts") -> None:
        """Refuse a text that would never fit in, before it is submitted.

        Args:
            task: The text.
            field: Where it stands in the request.

        Raises:
            InvalidRequestError: It needs more than there is.
        """
        self._room.check(task, field)

    def submit(self, entries: list[GenerationEntry]) -> None:
        """Queue the texts of a call. The dispatcher must be woken afterwards."""
        for entry in entries:
            try:
                self._room.check(entry.payload, "texts")
            except InvalidRequestError as error:  # it would keep all others waiting for ever
                entry.fail(error)
            else:
                self._backlog.push(entry)

    def rank(self, now: float) -> Rank | None:
        """See `Lane`: the most urgent of those that wait for a free place and those that are being generated."""
        ranks = [self._running_rank(batch, now) for batch in self._batches if batch.sequences and not batch.in_flight]
        if any(self._places(batch) for batch in self._batches) and (waiting := self._backlog.rank(now)):
            ranks.append(waiting)
        return min(ranks, default=None)

    def take(self, now: float, idle_workers: int) -> Iteration | None:
        """See `Lane`: the next iteration of the batch that has waited longest for one."""
        idle = [batch for batch in self._batches if not batch.in_flight]
        # Batches with work come first, in the order in which they last ran; for newcomers, one that has room.
        running = next((each for each in idle if each.sequences), None)
        batch = running
        if running is None or (len(self._backlog) and not self._places(running)):
            batch = next((each for each in idle if self._places(each)), running)
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
        # In one go: whoever reads it on another thread finds every batch.
        self._batches = [*(each for each in self._batches if each is not batch), batch]
        return Iteration(self, batch, next(self._numbers))

    def _admit_newcomers(self, batch: RunningBatch, now: float, idle_workers: int) -> None:
        """Let those who wait join a batch in its next iteration, as far as there is room and they can be read soon."""
        batch.short_of_room = False
        texts = self._places(batch)
        # A batch that nobody joins later is filled whatever it takes to read that.
        tokens = self._most_tokens - batch.unbegun_tokens if self._joins_running else _ANY_TOKENS
        if texts <= 0 or tokens <= 0 or not (waiting := len(self._backlog)):
            return
        share = max(_SMALLEST_SHARE, -(-waiting // idle_workers))
        joining = Joining(self._room, self._room.rows - batch.used_rows, batch.reserved_bytes)
        batch.newcomers = self._backlog.take(now, Budget(min(texts, share), tokens), joining)
        batch.short_of_room = joining.short_of_bytes

    def fail_all(self, error: HeadwaiterError) -> None:
        """See `Lane`."""
        for entry in self._backlog.clear():
            entry.fail(error)
        for batch in self._batches:
            for entry in batch.entries:
                entry.fail(error)

    def charge(self, outcome: Outcome) -> None:
        """Charge those who have left, once: their callers' shares for what was generated; sources were when taken."""
        spent, outcome.spent = outcome.spent, []
        for entry, cpu_seconds, tokens in spent:
            entry.call.terms.spending.add(cpu_seconds)
            self._shares.charge(entry.call.terms.fairness_key, tokens, entry.call.terms.weight)

    def replace(self, batch: RunningBatch) -> None:
        """Put an empty batch in the place of one whose state is lost."""
        if batch in self._batches:
            self._batches[self._batches.index(batch)] = self._new_batch()

    def _new_batch(self) -> RunningBatch:
        return RunningBatch(self.model, self._room, self._most_tokens, self._threads, self._clock)

    def _places(self, batch: RunningBatch) -> int:
        """Texts that may join a batch now, if they have one row each."""
        if batch.in_flight or (batch.sequences and not self._joins_running):
            return 0
        return min(self._most_texts, self._room.rows - batch.used_rows)

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
