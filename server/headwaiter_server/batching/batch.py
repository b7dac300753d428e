"""One run of a model that answers at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, Generic

from headwaiter_server.batching.sharing import Sharing
from headwaiter_server.batching.task import BatchEntry, CloseReason, RunAnswer, RunFacts
from headwaiter_server.errors import EngineError, HeadwaiterError
from headwaiter_server.model.contract import BatchModel, Cancellation, Source, Values, Wanted
from headwaiter_server.scheduling.isolation import Try, run_isolating
from headwaiter_server.tracing import CallSpan

_SUBMITTED = attrgetter("call.submitted")


class Batch(Generic[Source, Wanted, Values]):
    """Texts, or requests of tensors, that run together; implements `Run`.

    When the last of their callers has gone, the run is ended early, which is no failure.

    Attributes:
        entries: The texts.
        failures: What the engine raised on single texts, after `settle`.
        facts: What the run did, after `settle`.
        complete: Whether somebody still waited for each of its entries when it began.
        idle_since: See `Run`.
    """

    def __init__(
        self,
        model: BatchModel[Source, Wanted, Values],
        entries: Sequence[BatchEntry[Source, Wanted, Values]],
        batch_id: int,
        reason: CloseReason,
        sharing: Sharing,
        threads: int,
        clock: Callable[[], float],
        on_end: Callable[[Batch[Source, Wanted, Values]], None],
    ) -> None:
        """Put a run together. Called on the event loop.

        Args:
            model: The model.
            entries: The texts, at least one.
            batch_id: Number of the run in the server's life.
            reason: Why it holds no more texts.
            sharing: What it counts as.
            threads: Threads that the model runs on.
            clock: The scheduler's clock.
            on_end: Told on the event loop when everybody was answered.
        """
        self.entries = entries
        self.failures: dict[int, EngineError] = {}
        self.facts = RunFacts(batch_id, 0.0, 0, 0, 0, reason, abandoned=False)
        self.complete = True
        self.idle_since = 0.0
        self._model = model
        self._sharing = sharing
        self._threads = threads
        self._clock = clock
        self._on_end = on_end
        self._started = 0.0
        self._live: list[BatchEntry[Source, Wanted, Values]] = []
        self._tries: list[Try] = []
        self._values: list[Values | None] = []
        self._cancellation = Cancellation()
        # One callback for each call, not for each text.
        self._futures = {entry.call.future for entry in entries}
        self._present = len(self._futures)
        for future in self._futures:
            future.add_done_callback(self._caller_gone)

    def execute(self) -> None:
        """Run the texts that somebody still waits for; see `Run`."""
        self._started = started = self._clock()
        # Calls are answered on the event loop: here their state is only read.
        live = [entry for entry in self.entries if entry.call.wanted(started)]
        self._live = live
        self.complete = len(live) == len(self.entries)
        spans: dict[CallSpan, None] = {}
        for entry in live:
            trail = entry.call.terms.trail
            trail.began(started, self.facts.batch_id)
            if trail.span is not None:
                spans[trail.span] = None
        self._values = [None] * len(live)
        self.failures = run_isolating(self._run, 0, len(live), self._tries)
        load = self._sharing.load([entry.cost_tokens for entry in live])
        self.facts = RunFacts(
            batch_id=self.facts.batch_id,
            seconds=self._clock() - started,
            rows=load.rows,
            tokens=load.tokens,
            padding_tokens=load.padding_tokens,
            reason=self.facts.reason,
            abandoned=self._cancellation.requested,
            wait_seconds=max(0.0, started - max(self.idle_since, min(map(_SUBMITTED, live), default=started))),
            cpu_seconds=sum(each.cpu_seconds for each in self._tries) * self._threads,
            started=started,
            failures=len(self.failures),
            spans=tuple(spans),
        )

    def settle(self) -> None:
        """Answer everybody; see `Run`."""
        self._stop_watching()
        self._share_out()
        facts, started = self.facts, self._started
        for row, (entry, values) in enumerate(zip(self._live, self._values, strict=True)):
            if values is None:  # it failed, or the run was ended early because no call was left
                entry.fail(self.failures.get(row) or EngineError("the model gave no answer"))
                continue
            waited = started - entry.call.submitted
            entry.resolve(RunAnswer(values, waited, facts.seconds, facts.rows, facts.tokens, facts.batch_id))
        for entry in self.entries:
            entry.call.dead(started)  # its deadline passed before the run began
        self._on_end(self)

    def fail(self, error: HeadwaiterError) -> None:
        """Answer everybody with an error; see `Run`."""
        self._stop_watching()
        self._share_out()
        for entry in self.entries:
            entry.fail(error)
        self._on_end(self)

    def _run(self, start: int, stop: int) -> None:
        if not self._present:
            return
        tasks = [entry.payload for entry in self._live[start:stop]]
        try:
            sources, wanted = [task.source for task in tasks], [task.wanted for task in tasks]
            values = self._model.run(sources, wanted, self._cancellation)
        except Exception:
            if self._cancellation.requested:
                return
            raise
        if len(values) != len(tasks):
            raise ValueError(f"{len(values)} answers to {len(tasks)} texts")
        self._values[start:stop] = values

    def _share_out(self) -> None:
        """Charge each try to the texts that were in it, by their tokens."""
        tries, self._tries = self._tries, []
        for start, stop, cpu_seconds in tries:
            texts = self._live[start:stop]
            token_seconds = cpu_seconds * self._threads / max(1, sum([entry.cost_tokens for entry in texts]))
            for entry in texts:
                entry.call.terms.spending.add(token_seconds * entry.cost_tokens)

    def _caller_gone(self, _: asyncio.Future[Any]) -> None:
        self._present -= 1
        if not self._present:
            self._cancellation.request()

    def _stop_watching(self) -> None:
        for future in self._futures:
            future.remove_done_callback(self._caller_gone)
