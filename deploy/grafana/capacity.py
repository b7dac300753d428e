"""How much more the servers can take, what it costs, and what would have to grow first."""

from __future__ import annotations

from deploy.grafana.promql import increase, mean, rate, series, total
from deploy.grafana.spec import Dashboard, Kind, Panel, Query, Row

_CPU = "headwaiter_cpu_seconds_total"
_TEXTS = "headwaiter_texts_total"
_UNAVAILABLE = 'code="UNAVAILABLE"'
_MISSED = 'met="false"'
_CACHE = "headwaiter_cache_requests_total"
_HIT = 'result="hit"'


def _by_instance(name: str, legend: str = "{{instance}}") -> Query:
    return Query(series(name, model=False), legend)


_WORKERS = Row(
    "Workers",
    (
        Panel(
            title="Saturation",
            unit="percentunit",
            meaning="Share of the workers' time of the last 10 seconds in which they were busy. What is left to 100 % "
            "is what the server can still take.",
            remedy="Runbook HeadwaiterSaturationHigh.",
            queries=(_by_instance("headwaiter_saturation_ratio"),),
            bound=0.9,
            top=1.0,
        ),
        Panel(
            title="Busy workers",
            unit="suffix: workers",
            meaning="How many workers had a run, on average over the window; dashed: how many there are.",
            remedy="At the dashed line only more processors help: --workers takes one for each.",
            queries=(
                Query(rate("headwaiter_worker_busy_seconds_total", "instance", model=False), "{{instance}} busy"),
                Query(series("headwaiter_workers", model=False), "{{instance}} workers", is_bound=True),
            ),
        ),
        Panel(
            title="Texts by worker",
            unit="suffix: texts/s",
            meaning="Texts answered per second and worker: at full saturation, what one more worker would add.",
            remedy="Falling at full saturation: longer texts, smaller batches, or a slower machine.",
            queries=(
                Query(
                    f"{rate(_TEXTS, 'instance')}"
                    f" / on (instance) {total('headwaiter_workers', 'instance', model=False)}",
                    "{{instance}}",
                ),
            ),
        ),
    ),
)

_CPU_ROW = Row(
    "Processor time",
    (
        Panel(
            title="Processor time of 1000 texts",
            unit="s",
            meaning="Processor seconds that runs take for 1000 texts, by model: what a text costs.",
            remedy="Rising: longer texts, more padding, smaller batches, or another machine.",
            queries=(Query(f"1000 * {rate(_CPU, 'model')} / {rate(_TEXTS, 'model')} > 0", "{{model}}"),),
        ),
        Panel(
            title="Processors in use",
            unit="suffix: processors",
            meaning="Processors that the whole process keeps busy, runs and all else.",
            remedy="Far above the busy workers: parsing and tokenizing weigh more than the models; near the quota of "
            "the container it is throttled.",
            queries=(Query(rate("process_cpu_seconds_total", "instance", model=False), "{{instance}}"),),
        ),
        Panel(
            title="Wasted processor time",
            unit="percentunit",
            meaning="Processor time that went into calls which were then cancelled or expired, as a share of all "
            "runs'.",
            remedy="Callers' deadlines are shorter than the answers take, or they retry too soon; runbook "
            "HeadwaiterWastedWork.",
            queries=(
                Query(
                    f"{rate('headwaiter_wasted_cpu_seconds_total', 'reason')} / on () group_left () {rate(_CPU)}",
                    "{{reason}}",
                ),
            ),
            kind=Kind.STACK,
            bound=0.1,
        ),
        Panel(
            title="Lateness of the event loop",
            unit="s",
            meaning="How late the loop that takes calls in and gives answers out was for its last turn of once a "
            "second.",
            remedy="Above 50 ms every call suffers; runbook HeadwaiterEventLoopLag.",
            queries=(_by_instance("headwaiter_event_loop_lag_seconds"),),
            bound=0.05,
        ),
    ),
)

_MEMORY = Row(
    "Memory",
    (
        Panel(
            title="Memory of the process",
            unit="bytes",
            meaning="Resident memory; dashed: what the process may take.",
            remedy="Runbook HeadwaiterMemoryNearLimit.",
            queries=(
                _by_instance("process_resident_memory_bytes"),
                Query(series("headwaiter_memory_limit_bytes", model=False), "{{instance}} limit", is_bound=True),
            ),
        ),
        Panel(
            title="Memory of models",
            unit="bytes",
            meaning="By how much the process grew while each model was loaded.",
            remedy="Too much for the machine: an int8 variant takes less; so does --lone-run-threads 1.",
            queries=(Query(f"max by (model) ({series('headwaiter_model_memory_bytes')})", "{{model}}"),),
            kind=Kind.STACK,
        ),
        Panel(
            title="Time to load models",
            unit="s",
            meaning="Reading, checking, building and calibrating; of each model the slowest instance's.",
            remedy="Mostly calibration, which is remembered: give the server a folder that lasts "
            "(--calibration-cache).",
            queries=(
                Query(
                    f"max by (model, version) ({series('headwaiter_model_load_duration_seconds')})",
                    "{{model}} {{version}}",
                ),
            ),
        ),
    ),
)

_ADMISSION = Row(
    "Admission",
    (
        Panel(
            title="Room for calls and texts",
            unit="percentunit",
            meaning="What is held, as a share of what may be held (--max-calls, --max-waiting-texts). At 100 % calls "
            "are refused.",
            remedy="Full although the workers are idle: the limits are too low. Full and saturated: add machines.",
            queries=tuple(
                Query(
                    f"{series(f'headwaiter_{what}_held', model=False)}"
                    f" / on (job, instance) {series(f'headwaiter_{what}_limit', model=False)}",
                    f"{{{{instance}}}} {legend}",
                )
                for what, legend in (("calls", "calls"), ("waiting_texts", "texts"))
            ),
            bound=0.9,
            top=1.0,
        ),
        Panel(
            title="Refused calls",
            unit="percentunit",
            meaning="Share of the calls that were refused with UNAVAILABLE: no room, too long a wait, a deadline that "
            "would be missed, draining.",
            remedy="Runbook HeadwaiterRefusing.",
            queries=(
                Query(
                    f"{rate('headwaiter_requests_total', 'job', matchers=(_UNAVAILABLE,))}"
                    f" / {rate('headwaiter_requests_total', 'job')}",
                    "{{job}}",
                ),
            ),
            bound=0.01,
            when_empty="No data. No call has been refused so far.",
        ),
        Panel(
            title="Missed deadlines",
            unit="percentunit",
            meaning="Share of the calls with a deadline that were not answered before it, or refused because of it.",
            remedy="Runbook HeadwaiterDeadlineMisses.",
            queries=(
                Query(
                    f"{rate('headwaiter_deadlines_total', 'model', matchers=(_MISSED,))}"
                    f" / {rate('headwaiter_deadlines_total', 'model')}",
                    "{{model}}",
                ),
            ),
            bound=0.01,
            when_empty="No data. No call has had a deadline so far; callers should set one.",
        ),
    ),
)

_MODELS = Row(
    "Models that come and go",
    (
        Panel(
            title="Loads of models",
            unit="suffix: loads",
            meaning="Loads within the window, those at start among them, by what came of them.",
            remedy="`failed`: the model serves on as it was, or not at all; runbook HeadwaiterModelLoadFailing.",
            queries=(Query(increase("headwaiter_model_loads_total", "model", "outcome"), "{{model}} {{outcome}}"),),
            kind=Kind.STACK,
        ),
        Panel(
            title="Models that fail to load",
            unit="suffix: failing",
            meaning="1 where the latest load of a model has failed, and none has succeeded since.",
            remedy="Runbook HeadwaiterModelLoadFailing.",
            queries=(Query(series("headwaiter_model_load_failing"), "{{model}} {{instance}}"),),
            bound=1,
        ),
        Panel(
            title="Time to swap a version",
            unit="s",
            meaning="From when the load of a version began to when it had taken over from one that served, on average. "
            "Calls are answered all the while, by the old version.",
            remedy="Mostly the trial and the calibration, which are remembered: give the server a folder that lasts "
            "(--calibration-cache).",
            queries=(Query(mean("headwaiter_model_swap_duration_seconds", "model"), "{{model}}"),),
            when_empty="No data. No version has taken over from another so far.",
        ),
        Panel(
            title="Remembered answers",
            unit="percentunit",
            meaning="Share of what was looked for among the remembered answers that was there, or was being computed "
            "for somebody else already.",
            remedy="Low: inputs hardly ever come again, or --cache-bytes holds too few of them, see "
            "`headwaiter_cache_evictions_total`. At 0 it only costs: switch it off.",
            queries=(Query(f"{rate(_CACHE, 'model', matchers=(_HIT,))} / {rate(_CACHE, 'model')}", "{{model}}"),),
            top=1.0,
            when_empty="No data. Answers are remembered only with --cache-bytes.",
        ),
    ),
)

DASHBOARD = Dashboard(
    name="capacity",
    title="Headwaiter / Capacity",
    purpose="How much more can the servers take, what does it cost, and what has to grow first?",
    rows=(_WORKERS, _CPU_ROW, _MEMORY, _ADMISSION, _MODELS),
)
