"""What one process saw, in bounded memory: counts, histograms and a time line, however many calls there are."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from headwaiter_load.histograms import Histogram
from headwaiter_load.outcome import OK, Outcome
from headwaiter_load.token_recorder import TokenRecorder, TokenReport

_EXAMPLE_CHARACTERS: Final = 300


@dataclass(frozen=True, slots=True)
class Window:
    """The measured part, on the clock that all processes of a machine share (`time.monotonic`).

    Attributes:
        begin: When it begins.
        seconds: Its length.
        bin_seconds: Length of a stretch of its time line.
    """

    begin: float
    seconds: float
    bin_seconds: float

    @property
    def end(self) -> float:
        """When it ends."""
        return self.begin + self.seconds

    @property
    def bins(self) -> int:
        """Stretches of its time line; the last one may be shorter."""
        return max(1, -int(-self.seconds // self.bin_seconds))

    def holds(self, time: float) -> bool:
        """Whether a time lies in it."""
        return self.begin <= time < self.end

    def bin_of(self, time: float) -> int:
        """The stretch of a time that lies in it."""
        return min(int((time - self.begin) / self.bin_seconds), self.bins - 1)


@dataclass(frozen=True, slots=True)
class Bin:
    """One stretch of the time line: as of `results.Moment`, with the latencies as an encoded coarse histogram."""

    scheduled: int
    answered: int
    failed: int
    texts: int
    latency: str


@dataclass(frozen=True, slots=True)
class Report:
    """What one process saw, as it travels to the parent.

    Attributes:
        number: The process.
        seconds: Length of the measured part; less than planned when it was interrupted.
        scheduled: Calls due in it.
        answered: Those answered with OK.
        texts: Their texts.
        window_answers: Answers with OK that came in it.
        window_texts: Their texts.
        sent_bytes: Of the calls due in it.
        received_bytes: Of their answers.
        outstanding_at_begin: Calls under way when it began.
        latency: Encoded histogram.
        service_time: Encoded histogram.
        error_latency: Encoded histogram.
        lateness: Encoded histogram.
        errors: Failed calls by code.
        examples: A message for each of these codes.
        bins: The time line.
        cpu_seconds: Processor time in the measured part.
        left_out: Calls under way when it was interrupted.
        generation: What was generated; None of other tasks, and where no call was answered.
    """

    number: int
    seconds: float
    scheduled: int
    answered: int
    texts: int
    window_answers: int
    window_texts: int
    sent_bytes: int
    received_bytes: int
    outstanding_at_begin: int
    latency: str
    service_time: str
    error_latency: str
    lateness: str
    errors: dict[str, int]
    examples: dict[str, str]
    bins: tuple[Bin, ...]
    cpu_seconds: float
    left_out: int
    generation: TokenReport | None


@dataclass(slots=True)
class _OpenBin:
    scheduled: int = 0
    answered: int = 0
    failed: int = 0
    texts: int = 0
    latency: Histogram | None = None

    def closed(self) -> Bin:
        latency = "" if self.latency is None else self.latency.encoded()
        return Bin(self.scheduled, self.answered, self.failed, self.texts, latency)


@dataclass(slots=True)
class Live:
    """Counts since the run began, warm-up included, for whoever watches."""

    sent: int = 0
    answered: int = 0
    failed: int = 0
    latency: Histogram = field(default_factory=lambda: Histogram(coarse=True))


class Recorder:
    """Takes in calls as they end.

    A call belongs to the measured part if it was *due* in it; calls of the warm-up count only among what was
    outstanding when that began, and among the answers that came meanwhile.
    """

    def __init__(self, window: Window) -> None:
        self._window = window
        self._bins = [_OpenBin() for _ in range(window.bins)]
        self._latency, self._service_time = Histogram(), Histogram()
        self._error_latency, self._lateness = Histogram(), Histogram()
        self._errors: Counter[str] = Counter()
        self._examples: dict[str, str] = {}
        self._scheduled = self._answered = self._texts = 0
        self._window_answers = self._window_texts = 0
        self._sent_bytes = self._received_bytes = 0
        self._outstanding_at_begin = self._left_out = 0
        self._generation = TokenRecorder()
        self.live = Live()

    def ended(self, due: float, sent: float, ended: float, rows: int, sent_bytes: int, outcome: Outcome) -> None:
        """Counts one call in.

        Args:
            due: When it was due.
            sent: When it was really sent.
            ended: When its answer was there.
            rows: Its texts.
            sent_bytes: Length of its message.
            outcome: What came of it.
        """
        window, good = self._window, outcome.code == OK
        if window.holds(ended):
            self._arrived(ended, rows, good=good)
            if good:
                self._generation.arrived(outcome.generated)
        if due < window.begin <= ended:
            self._outstanding_at_begin += 1
        if good:
            self.live.answered += 1
            self.live.latency.record(ended - due)
        else:
            self.live.failed += 1
        if not window.holds(due):
            return
        self._scheduled += 1
        self._sent_bytes += sent_bytes
        self._received_bytes += outcome.received_bytes
        self._lateness.record(sent - due)
        moment = self._bins[window.bin_of(due)]
        moment.scheduled += 1
        if not good:
            self._failed(ended - due, outcome)
            return
        self._answered += 1
        self._texts += rows
        self._latency.record(ended - due)
        self._service_time.record(ended - sent)
        self._generation.ended(due, sent, outcome.generated)
        moment.latency = moment.latency or Histogram(coarse=True)
        moment.latency.record(ended - due)

    def left_out(self, due: float) -> None:
        """A call was under way when the run was interrupted: all that is known of it is that there was one."""
        if self._window.holds(due):
            self._left_out += 1

    def report(self, number: int, seconds: float, cpu_seconds: float) -> Report:
        """All of it."""
        return Report(
            number=number,
            seconds=seconds,
            scheduled=self._scheduled,
            answered=self._answered,
            texts=self._texts,
            window_answers=self._window_answers,
            window_texts=self._window_texts,
            sent_bytes=self._sent_bytes,
            received_bytes=self._received_bytes,
            outstanding_at_begin=self._outstanding_at_begin,
            latency=self._latency.encoded(),
            service_time=self._service_time.encoded(),
            error_latency=self._error_latency.encoded(),
            lateness=self._lateness.encoded(),
            errors=dict(self._errors),
            examples=dict(self._examples),
            bins=tuple(each.closed() for each in self._bins),
            cpu_seconds=cpu_seconds,
            left_out=self._left_out,
            generation=self._generation.report(),
        )

    def _arrived(self, time: float, rows: int, *, good: bool) -> None:
        moment = self._bins[self._window.bin_of(time)]
        if good:
            moment.answered += 1
            moment.texts += rows
            self._window_answers += 1
            self._window_texts += rows
        else:
            moment.failed += 1

    def _failed(self, seconds: float, outcome: Outcome) -> None:
        self._error_latency.record(seconds)
        self._errors[outcome.code] += 1
        self._examples.setdefault(outcome.code, outcome.message[:_EXAMPLE_CHARACTERS])
