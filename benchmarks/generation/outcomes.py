"""What came of calls that generate, as figures; pure, so that it can be tested."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from benchmarks.encoders.outcomes import OK, UNAVAILABLE, percentile


@dataclass
class Call:
    """One call; times are in seconds from the beginning of the load.

    Attributes:
        request: Which of the requests it was.
        due: When it should have been sent.
        sent: When it was.
        ended: When it was answered, or refused.
        code: gRPC status code.
        token_times: When each token was there.
        token_ids: The tokens.
    """

    request: int
    due: float
    sent: float
    ended: float = 0.0
    code: int = OK
    token_times: list[float] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Window:
    """The part of a load that counts: without the beginning, when all texts are new, and the end, when few are left."""

    begin: float
    end: float

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.end - self.begin

    def holds(self, moment: float) -> bool:
        """Whether a moment counts."""
        return self.begin <= moment < self.end


def summarize(calls: Sequence[Call], window: Window) -> dict[str, float]:
    """Figures of the calls that were due in the window, and of the tokens that came in it.

    Tokens are counted when they come, not when their call ends: a short load with long texts would otherwise show
    chance. First tokens and whole calls count from the time at which they were due.
    """
    due = [call for call in calls if window.holds(call.due)]
    answered = [call for call in due if call.code == OK]
    tokens = sum(window.holds(moment) for call in calls for moment in call.token_times)
    gaps = [
        later - earlier
        for call in calls
        for earlier, later in pairwise(call.token_times)
        if window.holds(later)
    ]  # fmt: skip
    first = [call.token_times[0] - call.due for call in answered if call.token_times]
    whole = [call.ended - call.due for call in answered]
    refused = sum(call.code == UNAVAILABLE for call in due)
    return {
        "calls": len(due),
        "calls_per_second": len(due) / window.seconds,
        "tokens_per_second": tokens / window.seconds,
        "tokens": sum(len(call.token_times) for call in calls),
        "wall_seconds": max((call.ended for call in calls), default=0.0),
        "refused_share": refused / max(1, len(due)),
        "failed_calls": len(due) - len(answered) - refused,
        "first_token_p50_seconds": percentile(first, 0.50),
        "first_token_p99_seconds": percentile(first, 0.99),
        "between_tokens_p50_seconds": percentile(gaps, 0.50),
        "between_tokens_p99_seconds": percentile(gaps, 0.99),
        "call_p50_seconds": percentile(whole, 0.50),
        "call_p99_seconds": percentile(whole, 0.99),
        "lag_p99_seconds": percentile([call.sent - call.due for call in due], 0.99),
    }


def agreement(answers: dict[int, list[int]], reference: dict[int, list[int]]) -> float:
    """The share of requests answered by both that have the very same tokens; NaN if there are none."""
    both = answers.keys() & reference.keys()
    return sum(answers[each] == reference[each] for each in both) / len(both) if both else float("nan")
