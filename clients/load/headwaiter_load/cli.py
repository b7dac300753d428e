"""The `headwaiter-load` command."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NoReturn

import click
from rich.console import Console

from headwaiter_load import results
from headwaiter_load.capacity import SearchSettings, find_capacity
from headwaiter_load.cli_options import SECONDS, Shared, make_requests, shared_options, together
from headwaiter_load.cli_report import compare, report
from headwaiter_load.errors import BadInputError, LoadError
from headwaiter_load.page import write_html
from headwaiter_load.plan import Plan
from headwaiter_load.progress import Watcher
from headwaiter_load.replay import TracedCall, read_trace
from headwaiter_load.report import print_result
from headwaiter_load.results import Goal, LoadKind, Result, Settings
from headwaiter_load.running import run_plan
from headwaiter_load.schedules import Arrivals, Closed, Load, Open, Replay

_FAILED: Final = 1
# 128 + the number of SIGINT: what a shell reports for a process that Ctrl-C ended.
_INTERRUPTED: Final = 130
_SECONDS: Final = 10.0
_WARMUP_SECONDS: Final = 2.0

_ARRIVALS = click.option(
    "--arrivals",
    type=click.Choice(["constant", "poisson", "bursty"]),
    help="How calls come: evenly, at random, or in bursts at random times.  [poisson]",
)
_BURST_SIZE = click.option("--burst-size", type=click.IntRange(2, 100_000), metavar="N", help="Calls of a burst.")
_WARMUP = click.option(
    "--warmup-seconds", type=click.FloatRange(min=0), help="What goes before, unmeasured.  [2; with --replay 0]"
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="headwaiter")
def cli() -> None:
    """Puts load on an inference server and measures what becomes of it."""


@cli.command()
@click.option(
    "--outstanding", type=click.IntRange(1, 100_000), metavar="N", help="Closed loop: keep N calls outstanding."
)
@click.option("--rate", type=SECONDS, metavar="R", help="Open loop: R calls a second, whatever becomes of them.")
@_ARRIVALS
@_BURST_SIZE
@click.option(
    "--replay",
    "trace",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Open loop: the calls of a trace (JSON lines), when they came.",
)
@click.option("--speed", type=SECONDS, help="Replay so many times as fast.  [1]")
@click.option("--seconds", type=SECONDS, help="How long to measure; a trace has its own length.  [10]")
@_WARMUP
@shared_options
def run(
    shared: Shared,
    outstanding: int | None,
    rate: float | None,
    arrivals: Arrivals | None,
    burst_size: int | None,
    trace: Path | None,
    speed: float | None,
    seconds: float | None,
    warmup_seconds: float | None,
) -> None:
    """Sends one load and reports latencies, rates and errors.

    Of an open loop latency counts from when a call was due, so that a server which stalls is charged for every call
    that it kept waiting. Ctrl-C ends the run and reports what there is.
    """
    given = {"--outstanding": outstanding, "--rate": rate, "--replay": trace}
    if sum(value is not None for value in given.values()) != 1:
        raise BadInputError(f"say how calls shall come: one of {together(given)}")
    _only_with("--rate", rate, {"--arrivals": arrivals, "--burst-size": burst_size})
    _only_with("--replay", trace, {"--speed": speed})
    shared.check()
    warmup = warmup_seconds if warmup_seconds is not None else (0.0 if trace else _WARMUP_SECONDS)
    traced: list[TracedCall] | None = None
    load: Load
    if trace is not None:
        for name, value in {"--seconds": seconds, "--texts": shared.texts, "--words": shared.words}.items():
            if value is not None:
                raise BadInputError(f"{name} cannot be given with --replay: the trace says it")
        if shared.texts_per_call or shared.inputs:
            raise BadInputError("--texts-per-call and --input cannot be given with --replay: the trace says it")
        traced = read_trace(trace, shared.seed)
        load, kind, seconds = _replay(traced, speed or 1.0, warmup)
    elif outstanding is not None:
        if outstanding < shared.processes:
            raise BadInputError(f"--outstanding {outstanding} is not enough for --processes {shared.processes}")
        load, kind = Closed(outstanding), "closed"
    else:
        load, kind = _open(rate or 0.0, arrivals, burst_size, shared.seed)
    plan = _plan(shared, load, kind, seconds or _SECONDS, warmup, trace, traced)
    console = Console(stderr=True)
    with Watcher(console, plan.settings.warmup_seconds + plan.settings.seconds, quiet=shared.quiet) as watcher:
        result = run_plan(plan, watcher.watch)
    _finish(result, shared, measured=result.measured_seconds > 0)


@cli.command()
@click.option("--p99-seconds", type=SECONDS, required=True, metavar="X", help="Longest 99th percentile of latency.")
@click.option(
    "--max-errors", type=click.FloatRange(0, 1), default=0.001, show_default=True, help="Largest share of failed calls."
)
@click.option("--start-rate", type=SECONDS, default=10.0, show_default=True, help="First rate, in calls a second.")
@click.option("--max-rate", type=SECONDS, default=100_000.0, show_default=True, help="Highest rate to try.")
@click.option(
    "--precision",
    type=click.FloatRange(0.001, 1),
    default=0.05,
    show_default=True,
    help="How much above the highest rate that meets may the lowest that misses be, as a share.",
)
@click.option("--seconds", type=SECONDS, default=5.0, show_default=True, help="Length of a step, at the least.")
@click.option(
    "--settle-seconds", type=click.FloatRange(min=0), default=1.0, show_default=True, help="Pause between steps."
)
@_ARRIVALS
@_BURST_SIZE
@_WARMUP
@shared_options
def capacity(  # noqa: PLR0913, PLR0917 - one for each option
    shared: Shared,
    p99_seconds: float,
    max_errors: float,
    start_rate: float,
    max_rate: float,
    precision: float,
    seconds: float,
    settle_seconds: float,
    arrivals: Arrivals | None,
    burst_size: int | None,
    warmup_seconds: float | None,
) -> None:
    """Finds the highest rate at which p99 <= X and errors <= Y.

    The rate is doubled until one misses; then the gap is halved. Each step has a warm-up of its own, lasts at least ten
    times X and 300 calls, and begins when every call of the last one has ended. A rate that misses by little is tried
    twice.
    """
    shared.check()
    if start_rate > max_rate:
        raise BadInputError(f"--start-rate {start_rate:g} is above --max-rate {max_rate:g}")
    load, kind = _open(start_rate, arrivals, burst_size, shared.seed)
    warmup = _WARMUP_SECONDS if warmup_seconds is None else warmup_seconds
    plan = _plan(shared, load, kind, seconds, warmup, None, None)
    goal = Goal(p99_seconds=p99_seconds, error_ratio=max_errors, precision=precision)
    search = SearchSettings(goal, start_rate, max_rate, settle_seconds)
    with Watcher(Console(stderr=True), None, quiet=shared.quiet) as watcher:
        result = find_capacity(plan, search, watcher.watch, watcher.step)
    _finish(result, shared, measured=bool(result.steps))


for _command in (report, compare):
    cli.add_command(_command)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs the command and ends the process; what went wrong is one line on the standard error."""
    sys.exit(_run(arguments))


def _run(arguments: Sequence[str] | None) -> int:
    try:
        code = cli.main(arguments, prog_name="headwaiter-load", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return _INTERRUPTED
    except (LoadError, ValueError, OSError) as error:
        click.echo(" ".join(f"headwaiter-load: {error}".split()), err=True)
        return click.UsageError.exit_code if isinstance(error, BadInputError) else _FAILED
    return code if isinstance(code, int) else 0


def _only_with(option: str, given: object, others: dict[str, object]) -> None:
    for name, value in others.items():
        if given is None and value is not None:
            raise BadInputError(f"{name} goes with {option} only")


def _open(rate: float, arrivals: Arrivals | None, burst_size: int | None, seed: int) -> tuple[Open, LoadKind]:
    kind: Arrivals = arrivals or "poisson"
    if (kind == "bursty") != (burst_size is not None):
        raise BadInputError("--arrivals bursty and --burst-size belong together: give both or neither")
    return Open(kind, rate, burst_size or 1, seed), kind


def _replay(traced: list[TracedCall], speed: float, warmup: float) -> tuple[Replay, LoadKind, float]:
    offsets = tuple(call.offset_seconds / speed for call in traced)
    if offsets[-1] < warmup:
        raise BadInputError(f"the trace ends after {offsets[-1]:.3g} s, within the warm-up of {warmup:g} s")
    # Up to the next whole second, so that the last call is in.
    return (
        Replay(offsets, tuple(call.deadline_seconds for call in traced)),
        "replay",
        math.floor(offsets[-1] - warmup) + 1.0,
    )


def _plan(
    shared: Shared,
    load: Load,
    kind: LoadKind,
    seconds: float,
    warmup: float,
    trace: Path | None,
    traced: list[TracedCall] | None,
) -> Plan:
    endpoint = shared.endpoint()
    task, requests = make_requests(shared, endpoint, traced)
    settings = Settings(
        target=shared.target,
        protocol=shared.protocol,
        task=task,
        model=shared.model,
        version=shared.version,
        stream=shared.stream,
        texts_per_call=0 if traced or shared.inputs else shared.texts_per_call or 1,
        load=kind,
        rate=load.rate if isinstance(load, Open) else None,
        outstanding=load.outstanding if isinstance(load, Closed) else None,
        burst_size=load.burst_size if isinstance(load, Open) else 1,
        seconds=seconds,
        warmup_seconds=warmup,
        deadline_seconds=shared.deadline_seconds,
        processes=shared.processes,
        connections=shared.connections,
        workload=shared.workload(trace),
        seed=shared.seed,
    )
    return Plan(
        endpoint=endpoint,
        requests=requests,
        load=load,
        settings=settings,
        most_outstanding=shared.most_outstanding,
        metrics_page=shared.metrics_page(),
    )


def _finish(result: Result, shared: Shared, *, measured: bool) -> None:
    """Prints and writes a result; ends the command as it ended."""
    if not measured:
        raise click.ClickException("interrupted before anything was measured")
    if shared.output is not None:
        results.save(result, shared.output)
    if shared.html is not None:
        write_html(result, shared.html)
    print_result(result, Console())
    if not result.finished:
        raise click.exceptions.Exit(_INTERRUPTED)
