"""What one process saw of generated tokens, in bounded memory."""

from __future__ import annotations

from dataclasses import dataclass

from headwaiter_load.histograms import Histogram
from headwaiter_load.outcome import Generated


@dataclass(frozen=True, slots=True)
class TokenReport:
    """What one process saw, as it travels to the parent.

    Attributes:
        tokens: Of the calls due in the measured part that were answered with OK.
        window_tokens: Of the answers with OK that came in it.
        first_token: Encoded histogram; empty where nothing was streamed, as the others.
        first_token_service_time: Encoded histogram.
        between_tokens: Encoded histogram.
    """

    tokens: int
    window_tokens: int
    first_token: str
    first_token_service_time: str
    between_tokens: str


class TokenRecorder:
    """Takes in what calls have generated, by the same rules as `Recorder`."""

    def __init__(self) -> None:
        self._seen = False
        self._tokens = self._window_tokens = 0
        self._first_token, self._first_token_service_time = Histogram(), Histogram()
        self._between_tokens = Histogram()

    def arrived(self, generated: Generated | None) -> None:
        """An answer came in the measured part."""
        if generated is not None:
            self._seen = True
            self._window_tokens += generated.tokens

    def ended(self, due: float, sent: float, generated: Generated | None) -> None:
        """A call that was due in the measured part was answered.

        Args:
            due: When it was due.
            sent: When it was really sent.
            generated: What it has generated; None of other tasks.
        """
        if generated is None:
            return
        self._seen = True
        self._tokens += generated.tokens
        for time in generated.first_times:
            self._first_token.record(time - due)
            self._first_token_service_time.record(time - sent)
        for gap in generated.gaps_seconds:
            self._between_tokens.record(gap)

    def report(self) -> TokenReport | None:
        """All of it; None if no call has generated anything."""
        if not self._seen:
            return None
        histograms = (self._first_token, self._first_token_service_time, self._between_tokens)
        encoded = (each.encoded() if each.count else "" for each in histograms)
        return TokenReport(self._tokens, self._window_tokens, *encoded)
