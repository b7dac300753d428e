"""One run of an encoder model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from operator import attrgetter

from headwaiter_server.batching.task import Answer, CloseReason, EncodingEntry, RunFacts
from headwaiter_server.errors import EngineError, HeadwaiterError
from headwaiter_server.model.contract import Cancellation, EncoderModel, FloatArray
from headwaiter_server.scheduling.isolation import Try, run_isolating
from headwaiter_server.tracing import CallSpan

_SUBMITTED = attrgetter("call.submitted")


class Batch:
    """Texts that run together; implements `Run`.

    When the last of their callers has gone, the run is ended early, which is no failure.

    Attributes:
        entries: The texts.
        failures: What the engine raised on single texts, after `settle`.
        facts: What the run did, after `settle`.
        idle_since: See `Run`.
    """

    def __init__(
        self,
        model: EncoderModel,
        entries: Sequence[EncodingEntry],
        batch_id: int,
        reason: CloseReason,
        threads: int,
        clock: Callable[[], float],
        on_end: Callable[[Batch], None],
    ) -> None:
        """Put a run together. Called on the event loop.

        Args:
            model: The model.
            entries: The texts, at least one.
            batch_id: Number of the run in the server's life.
            reason: Why it holds no more texts.
            threads: Threads that the model runs on.
            clock: The scheduler's clock.
            on_end: Told on the event loop when everybody was answered.
        """
        self.entries = entries
        self.failures: dict[int, EngineError] = {}
        self.facts = RunFacts(batch_id, 0.0, 0, 0, 0, reason, abandoned=False)
        self.idle_since = 0.0
        self._model = model
        self._threads = threads
        self._clock = clock
        self._on_end = on_end
        self._started = 0.0
        self._live: list[EncodingEntry] = []
        self._tries: list[Try] = []
        self._values: list[FloatArray | None] = []
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
        live = [entry for entry in self.entries if not entry.call.over and entry.call.terms.deadline > started]
        self._live = live
        spans: dict[CallSpan, None] = {}
        for entry in live:
            trail = entry.call.terms.trail
            trail.began(started, self.facts.batch_id)
            if trail.span is not None:
                spans[trail.span] = None
        self._values = [None] * len(live)
        self.failures = run_isolating(self._run, 0, len(live), self._tries)
        lengths = [entry.cost_tokens for entry in live]
        tokens = sum(lengths)
        computed = tokens if self._model.packed else len(live) * max(lengths, default=0)
        self.facts = RunFacts(
            batch_id=self.facts.batch_id,
            seconds=self._clock() - started,
            rows=len(live),
            tokens=tokens,
            padding_tokens=computed - tokens,
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
            entry.resolve(Answer(values, waited, facts.seconds, facts.rows, facts.tokens, facts.batch_id))
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
            values = self._model.run([task.source for task in tasks], [task.raw for task in tasks], self._cancellation)
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

    def _caller_gone(self, _: asyncio.Future[list[Answer]]) -> None:
        self._present -= 1
        if not self._present:
            self._cancellation.request()

    def _stop_watching(self) -> None:
        for future in self._futures:
            future.remove_done_callback(self._caller_gone)
