"""What is shown while a run goes on: a live line on a terminal, now and then a plain one elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from headwaiter_load.histograms import Histogram
from headwaiter_load.results import Step
from headwaiter_load.worker import Progress

# As often as the processes tell; an eye sees no more.
_SHOW_SECONDS: Final = 0.5
_PLAIN_SECONDS: Final = 10.0


class Watcher:
    """Adds up what the processes tell, and shows it.

    Args:
        console: Where to.
        total_seconds: Length of a run with its warm-up, if it is known.
        quiet: Whether to show nothing.
    """

    def __init__(self, console: Console, total_seconds: float | None, *, quiet: bool) -> None:
        self._console = console
        self._total_seconds = total_seconds
        self._quiet = quiet
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._counts: dict[int, tuple[int, int, int]] = {}
        self._latency = Histogram(coarse=True)
        self._begun = self._shown = time.monotonic()
        self._answered_when_shown = 0

    def __enter__(self) -> Self:
        """Begins to show."""
        if self._shows_live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Takes the live line away."""
        if self._shows_live:
            self._live.stop()

    def watch(self, progress: Progress) -> None:
        """Takes in word of one process."""
        before = self._counts.get(progress.number, (0, 0, 0))
        if progress.sent < before[0]:
            # Another run of the same processes has begun.
            self._counts.clear()
            self._begun = self._shown = time.monotonic()
            self._answered_when_shown = 0
        self._counts[progress.number] = (progress.sent, progress.answered, progress.failed)
        self._latency.add_encoded(progress.latency)
        if not self._quiet and time.monotonic() - self._shown >= self._every_seconds:
            self._show()

    def step(self, step: Step) -> None:
        """Shows a step of a search that is done."""
        if not self._quiet:
            outcome = "meets" if step.met else "misses: " + "; ".join(step.reasons)
            self._console.print(
                f"{step.number:3d}  {step.phase:9s} {step.rate:10.1f} calls/s for {step.seconds:4.0f} s:"
                f" p50 {step.p50_seconds * 1e3:.4g} ms, p99 {step.p99_seconds * 1e3:.4g} ms,"
                f" {step.error_ratio:.2%} failed; {outcome}",
                highlight=False,
                soft_wrap=True,
            )

    @property
    def _shows_live(self) -> bool:
        return self._console.is_terminal and not self._quiet

    @property
    def _every_seconds(self) -> float:
        return _SHOW_SECONDS if self._shows_live else _PLAIN_SECONDS

    def _show(self) -> None:
        now = time.monotonic()
        sent, answered, failed = (sum(column) for column in zip(*self._counts.values(), strict=True))
        rate = (answered - self._answered_when_shown) / (now - self._shown)
        total = "" if self._total_seconds is None else f" of {self._total_seconds:.0f}"
        line = (
            f"{now - self._begun:.0f}{total} s: {answered:,} answered ({rate:,.0f}/s), {failed:,} failed,"
            f" {sent - answered - failed:,} outstanding"
        )
        if self._latency.count:
            p50, p99 = (self._latency.percentile(each) * 1e3 for each in (50, 99))
            line += f"; p50 {p50:.4g} ms, p99 {p99:.4g} ms"
        if self._shows_live:
            self._live.update(Text(line, no_wrap=True, overflow="ellipsis"), refresh=True)
        else:
            self._console.print(line, highlight=False, soft_wrap=True)
        self._shown, self._answered_when_shown = now, answered
        self._latency = Histogram(coarse=True)
