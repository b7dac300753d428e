"""The figures of a result, as the terminal and the page show them: the same ones, with the same units, in both."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from headwaiter_load import backlog, units
from headwaiter_load.results import Distribution, GenerationFigures, RunResult, Settings
from headwaiter_load.server_side import ServerSide

_SHOWN_PERCENTILES: Final = ("50", "90", "99", "99.9")
_SPREAD_COLUMNS: Final = ("", *(f"p{percentile}" for percentile in _SHOWN_PERCENTILES), "max", "mean")
# Tokens of a piece in the mean, up to which they came one by one.
_ONE_BY_ONE: Final = 1.005
# A percentile is made of the calls beyond it; of fewer than these it is little more than the longest call.
_FEWEST_BEYOND: Final = 5


@dataclass(frozen=True, slots=True)
class Figure:
    """A number and how it is written.

    Attributes:
        value: As it stands in the result, in seconds, calls or shares of 1; None where there is none.
        text: For people, with its unit.
    """

    value: float | None
    text: str


Cell = str | Figure


@dataclass(frozen=True, slots=True)
class Section:
    """Rows under a title.

    Attributes:
        title: What they are about.
        columns: Heads of the columns; the first is of the rows' names.
        rows: A name and cells; as many as columns.
        note: What must be known to read them.
        wide: Whether it has many columns or long words.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""
    wide: bool = False


def seconds(value: float | None) -> Figure:
    """A time."""
    return Figure(value, units.seconds(value))


def rate(value: float | None) -> Figure:
    """A number a second."""
    return Figure(value, units.rate(value))


def count(value: float | None) -> Figure:
    """A whole number."""
    return Figure(value, units.count(value))


def share(value: float | None) -> Figure:
    """A share of 1."""
    return Figure(value, units.share(value))


def number(value: float | None) -> Figure:
    """A number without a unit."""
    return Figure(value, units.number(value))


def load_in_words(settings: Settings) -> str:
    """How calls came: `Poisson arrivals, 120/s`."""
    of_rate = "" if settings.rate is None else f", {units.rate(settings.rate)}"
    return {
        "closed": f"{settings.outstanding} calls outstanding",
        "constant": f"evenly spaced calls{of_rate}",
        "poisson": f"Poisson arrivals{of_rate}",
        "bursty": f"bursts of {settings.burst_size} calls{of_rate}",
        "replay": "a trace replayed",
    }[settings.load]


def settings_section(settings: Settings) -> Section:
    """What was asked for."""
    texts = "as in the trace" if not settings.texts_per_call else str(settings.texts_per_call)
    deadline = "none" if settings.deadline_seconds is None else units.seconds(settings.deadline_seconds)
    if settings.load == "replay":
        deadline = "as in the trace"
    rows: tuple[tuple[Cell, ...], ...] = (
        ("Server", settings.target),
        ("Protocol", {"headwaiter": "headwaiter.v1", "oip": "Open Inference Protocol"}[settings.protocol]),
        ("Task", f"{settings.task}{_streamed(settings)}"),
        ("Model", " ".join(filter(None, (settings.model or "the only one", settings.version)))),
        ("Load", load_in_words(settings)),
        ("Texts per call", texts),
        ("Workload", settings.workload),
        ("Deadline", deadline),
        ("Length", f"{units.seconds(settings.seconds)} after {units.seconds(settings.warmup_seconds)} of warm-up"),
        ("Sent by", f"{settings.processes} processes with {settings.connections} connections each"),
        ("Seed", str(settings.seed)),
    )
    return Section("Settings", ("", ""), rows)


def _streamed(settings: Settings) -> str:
    if not settings.stream:
        return ""
    return ", answered in pieces" if settings.task == "generate" else ", as messages of streams"


def run_sections(result: RunResult) -> list[Section]:
    """Everything that was measured from the caller's side, and of the tester itself."""
    errors = [_errors(result)] if result.errors else []
    return [_latencies(result), *_token_times(result), *errors, _rates(result), _tester(result)]


def run_warnings(result: RunResult, server: ServerSide | None) -> list[str]:
    """What makes the figures of a run doubtful, and what to do."""
    warnings = list(result.tester.warnings)
    if not result.finished:
        left_out = f", without {_calls_under_way(result.left_out)}" if result.left_out else ""
        warnings.append(f"The run was interrupted: these are the figures of what there was{left_out}.")
    if backlog.grew(result):
        warnings.append(
            f"{units.count(backlog.growth(result))} more calls were outstanding at the end than at the beginning: the"
            " server did not keep up, and a longer run would show longer latencies. Offer less."
        )
    if server is not None and server.problem:
        warnings.append(f"The server's metrics: {server.problem}.")
    return warnings


def _calls_under_way(number: int) -> str:
    return "the one call that was still under way" if number == 1 else f"{number:,} calls that were still under way"


def _rates(result: RunResult) -> Section:
    rows: tuple[tuple[Cell, ...], ...] = (
        ("Due", count(result.scheduled), rate(result.offered_per_second)),
        ("Answered", count(result.answered), rate(result.answered_per_second)),
        ("Texts answered", count(result.texts), rate(result.texts_per_second)),
        *_tokens(result.generation),
        ("Failed", count(result.failed), share(result.error_ratio)),
    )
    # What is due near the end is answered after it.
    note = (
        f"of {units.seconds(result.measured_seconds)}, warm-up left out; numbers are of calls that were due in them,"
        " rates of answers that came in them"
    )
    return Section("Calls", ("", "number", "rate"), rows, note)


def _tokens(generation: GenerationFigures | None) -> Iterable[tuple[Cell, ...]]:
    if generation is not None:
        yield "Tokens generated", count(generation.tokens), rate(generation.tokens_per_second)


def _latencies(result: RunResult) -> Section:
    rows: list[tuple[Cell, ...]] = [("From when it was due", *_spread(result.latency))]
    if result.settings.load != "closed":
        rows.append(("From when it was sent", *_spread(result.service_time)))
    if result.failed:
        rows.append(("Of failed calls", *_spread(result.error_latency)))
    note = ""
    if few := [f"p{each}" for each in _SHOWN_PERCENTILES if not _enough(result.latency.count, each)]:
        note = f"fewer than {_FEWEST_BEYOND} calls lie beyond {few[0]}: it says little"
    return Section("Latency", _SPREAD_COLUMNS, tuple(rows), note, wide=True)


def _token_times(result: RunResult) -> Iterable[Section]:
    generation = result.generation
    if generation is None or generation.first_token is None:
        return
    rows: list[tuple[Cell, ...]] = [("First, from when due", *_spread(generation.first_token))]
    if result.settings.load != "closed" and generation.first_token_service_time is not None:
        rows.append(("First, from when sent", *_spread(generation.first_token_service_time)))
    pieces = generation.first_token.count
    if generation.between_tokens is not None:
        rows.append(("From one to the next", *_spread(generation.between_tokens)))
        pieces += generation.between_tokens.count
    together = generation.tokens / pieces
    note = f"a piece brought {units.number(together)} in the mean; what comes together counts once"
    yield Section("Tokens", _SPREAD_COLUMNS, tuple(rows), note if together > _ONE_BY_ONE else "", wide=True)


def _enough(calls: int, percentile: str) -> bool:
    return calls * (1 - float(percentile) / 100) >= _FEWEST_BEYOND


def _spread(times: Distribution) -> tuple[Cell, ...]:
    if not times.count:
        return (units.NOTHING,) * (len(_SHOWN_PERCENTILES) + 2)
    figures = (*(times.percentiles[each] for each in _SHOWN_PERCENTILES), times.max_seconds, times.mean_seconds)
    return tuple(map(seconds, figures))


def _errors(result: RunResult) -> Section:
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (error.code, count(error.count), share(error.count / result.scheduled), error.example)
        for error in result.errors
    )
    return Section("Failed calls", ("", "number", "of all calls", "one of them said"), rows, wide=True)


def _tester(result: RunResult) -> Section:
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (f"Process {process.number}", share(process.cpu_share), seconds(process.late_p99_seconds))
        for process in result.tester.processes
    )
    return Section(
        "The tester itself",
        ("", "CPU, of one core", "sent late, p99"),
        rows,
        f"{units.seconds(tester_cpu_seconds(result))} of processor time per 1000 calls",
    )


def tester_cpu_seconds(result: RunResult) -> float | None:
    """Processor seconds of the tester for 1000 calls."""
    used = sum(process.cpu_seconds for process in result.tester.processes)
    return used * 1000 / result.scheduled if result.scheduled else None


def several_section(runs: Mapping[str, RunResult]) -> Section:
    """Runs at several rates, a row for each."""
    rows: list[tuple[Cell, ...]] = []
    for name, run in sorted(runs.items(), key=lambda each: each[1].offered_per_second):
        times = run.latency.percentiles if run.latency.count else {}
        cpu = max((process.cpu_share for process in run.tester.processes), default=None)
        rows.append(
            (
                name,
                load_in_words(run.settings),
                rate(run.offered_per_second),
                rate(run.answered_per_second),
                *(seconds(times.get(percentile)) for percentile in ("50", "90", "99")),
                share(run.error_ratio),
                share(cpu),
            )
        )
    columns = ("", "load", "due", "answered", "p50", "p90", "p99", "failed", "tester's CPU")
    return Section("The runs", columns, tuple(rows), wide=True)
