"""Makes one result out of what the processes saw."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from typing import Any, Final

from headwaiter_load.histograms import Histogram
from headwaiter_load.recorder import Bin, Report, Window
from headwaiter_load.results import (
    Distribution,
    ErrorCount,
    GenerationFigures,
    Moment,
    ProcessUse,
    RunResult,
    Settings,
    TesterUse,
)
from headwaiter_load.token_recorder import TokenReport

# Of one core; above it, a process has no time to look at an answer when it comes.
_BUSY_CPU_SHARE: Final = 0.85
# Lateness up to here is how exactly the system wakes a process.
_TOLERATED_LATE_SECONDS: Final = 0.002
# And up to this share of the latency it hardly shows in the figures.
_TOLERATED_LATE_RATIO: Final = 0.1


def tool_version() -> str:
    """The version of Headwaiter that is installed."""
    return version("headwaiter")


def merge(
    reports: Sequence[Report],
    settings: Settings,
    window: Window,
    started_at: str,
    *,
    finished: bool,
    server: dict[str, Any] | None,
) -> RunResult:
    """One result of all processes.

    Args:
        reports: What each saw.
        settings: What was asked for.
        window: The measured part as it was planned.
        started_at: When it began, in ISO 8601.
        finished: Whether the run went to its end.
        server: What the server's own metrics say of it.
    """
    latency, lateness = _merged(each.latency for each in reports), _merged(each.lateness for each in reports)
    seconds = max(each.seconds for each in reports)
    scheduled, answered = sum(each.scheduled for each in reports), sum(each.answered for each in reports)
    at_begin = sum(each.outstanding_at_begin for each in reports)
    timeline = _timeline(reports, window, seconds, at_begin)
    return RunResult(
        tool_version=tool_version(),
        started_at=started_at,
        finished=finished,
        settings=settings,
        measured_seconds=seconds,
        scheduled=scheduled,
        answered=answered,
        failed=scheduled - answered,
        texts=sum(each.texts for each in reports),
        offered_per_second=_rate(scheduled, seconds),
        answered_per_second=_rate(sum(each.window_answers for each in reports), seconds),
        texts_per_second=_rate(sum(each.window_texts for each in reports), seconds),
        sent_bytes=sum(each.sent_bytes for each in reports),
        received_bytes=sum(each.received_bytes for each in reports),
        latency=latency.distribution(),
        service_time=_merged(each.service_time for each in reports).distribution(),
        error_latency=_merged(each.error_latency for each in reports).distribution(),
        errors=_errors(reports),
        timeline=timeline,
        outstanding_at_begin=at_begin,
        outstanding_at_end=timeline[-1].outstanding if timeline else at_begin,
        tester=_tester(reports, latency, lateness),
        server=server,
        left_out=sum(each.left_out for each in reports),
        generation=_generation([each.generation for each in reports if each.generation is not None], seconds),
    )


def _rate(count: int, seconds: float) -> float:
    return count / seconds if seconds else 0.0


def _merged(encoded: Iterable[str], *, coarse: bool = False) -> Histogram:
    merged = Histogram(coarse=coarse)
    for each in encoded:
        if each:
            merged.add_encoded(each)
    return merged


def _generation(reports: Sequence[TokenReport], seconds: float) -> GenerationFigures | None:
    if not reports:
        return None

    def distribution(encoded: Iterable[str]) -> Distribution | None:
        merged = _merged(encoded)
        return merged.distribution() if merged.count else None

    return GenerationFigures(
        tokens=sum(each.tokens for each in reports),
        tokens_per_second=_rate(sum(each.window_tokens for each in reports), seconds),
        first_token=distribution(each.first_token for each in reports),
        first_token_service_time=distribution(each.first_token_service_time for each in reports),
        between_tokens=distribution(each.between_tokens for each in reports),
    )


def _errors(reports: Sequence[Report]) -> tuple[ErrorCount, ...]:
    counts: Counter[str] = Counter()
    examples: dict[str, str] = {}
    for report in reports:
        counts.update(report.errors)
        examples = report.examples | examples
    return tuple(
        ErrorCount(code=code, count=count, example=examples.get(code, "")) for code, count in counts.most_common()
    )


def _timeline(reports: Sequence[Report], window: Window, seconds: float, outstanding: int) -> tuple[Moment, ...]:
    """The stretches that began before the measured part ended."""
    moments = []
    for number, bins in enumerate(zip(*(each.bins for each in reports), strict=True)):
        start = number * window.bin_seconds
        if start >= seconds:
            break
        outstanding += sum(each.scheduled - each.answered - each.failed for each in bins)
        moments.append(_moment(start, min(window.bin_seconds, seconds - start), bins, outstanding))
    return tuple(moments)


def _moment(start: float, length: float, bins: Sequence[Bin], outstanding: int) -> Moment:
    latency = _merged((each.latency for each in bins), coarse=True)
    p50, p90, p99, longest = (
        (latency.percentile(percentile) for percentile in (50, 90, 99, 100)) if latency.count else (None,) * 4
    )
    return Moment(
        start_seconds=start,
        length_seconds=length,
        scheduled=sum(each.scheduled for each in bins),
        answered=sum(each.answered for each in bins),
        failed=sum(each.failed for each in bins),
        texts=sum(each.texts for each in bins),
        outstanding=outstanding,
        p50_seconds=p50,
        p90_seconds=p90,
        p99_seconds=p99,
        max_seconds=longest,
        histogram=latency.encoded() if latency.count else "",
    )


def _tester(reports: Sequence[Report], latency: Histogram, lateness: Histogram) -> TesterUse:
    processes = tuple(
        ProcessUse(
            number=each.number,
            cpu_seconds=each.cpu_seconds,
            wall_seconds=each.seconds,
            cpu_share=each.cpu_seconds / each.seconds if each.seconds else 0.0,
            late_p99_seconds=Histogram.decoded(each.lateness).percentile(99),
        )
        for each in reports
    )
    warnings = tuple(_warnings(processes, latency.percentile(99), lateness.percentile(99)))
    return TesterUse(
        processes=processes, lateness=lateness.distribution(), bottleneck=bool(warnings), warnings=warnings
    )


def is_busy(tester: TesterUse) -> bool:
    """Whether one of the processes had no time left."""
    return max(each.cpu_share for each in tester.processes) > _BUSY_CPU_SHARE


def _warnings(processes: Sequence[ProcessUse], latency_p99: float, late_p99: float) -> Iterable[str]:
    busiest = max(processes, key=lambda each: each.cpu_share)
    if busiest.cpu_share > _BUSY_CPU_SHARE:
        yield (
            f"process {busiest.number} of the tester used {busiest.cpu_share:.0%} of a core: "
            "the figures say more of it than of the server; give it more --processes, or a machine of its own"
        )
    if late_p99 > max(_TOLERATED_LATE_SECONDS, _TOLERATED_LATE_RATIO * latency_p99):
        yield (
            f"one call in a hundred was sent {late_p99 * 1e3:.1f} ms late or later, which counts as latency: "
            "the tester had no processor when it needed one"
        )
