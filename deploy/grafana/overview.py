"""The first dashboard to look at: is the service well, and if not, where to look next."""

from __future__ import annotations

from deploy.grafana.promql import mean, quantile, rate, recorded, series, slo_seconds, total
from deploy.grafana.spec import Dashboard, Kind, Panel, Query, Row

_REQUESTS = "headwaiter_requests_total"
_SECONDS = "headwaiter_request_duration_seconds"
_FAILED = 'code=~"UNAVAILABLE|INTERNAL|DEADLINE_EXCEEDED"'
_ELIGIBLE = 'code=~"OK|UNAVAILABLE|INTERNAL|DEADLINE_EXCEEDED"'
_SLO = Query(slo_seconds(), "SLO", is_bound=True)
_NO_RULES = "No data. Does Prometheus load deploy/prometheus/rules, and was the server called?"

_NOW = Row(
    "Now",
    (
        Panel(
            title="Calls",
            unit="reqps",
            meaning="Calls that were answered per second, with whatever status.",
            remedy="If it drops to zero, look at the callers and at health; if it jumps, at saturation and refusals.",
            queries=(Query(rate(_REQUESTS), "calls"),),
            kind=Kind.STAT,
        ),
        Panel(
            title="Failed calls",
            unit="percentunit",
            meaning="Share of the calls that the server failed: UNAVAILABLE, INTERNAL or DEADLINE_EXCEEDED. Calls that "
            "their caller got wrong or took back do not count.",
            remedy="The codes below say which kind; the runbook HeadwaiterAvailabilityBurn what to do.",
            queries=(
                Query(
                    f"({rate(_REQUESTS, matchers=(_FAILED,))} or vector(0)) / {rate(_REQUESTS, matchers=(_ELIGIBLE,))}",
                    "failed",
                ),
            ),
            kind=Kind.STAT,
            bound=0.001,
        ),
        Panel(
            title="Slow calls",
            unit="percentunit",
            meaning="Share of the calls of the last 5 minutes that were worked on and took longer than the SLO; the "
            "worst model's.",
            remedy="See below whether the time goes into waiting or into computing; runbook HeadwaiterLatencyBurn.",
            queries=(
                Query(f"max ({recorded('job_model:headwaiter_requests_slow:ratio_rate5m', model=True)})", "slow"),
            ),
            kind=Kind.STAT,
            bound=0.01,
            when_empty=_NO_RULES,
        ),
        Panel(
            title="Busiest server",
            unit="percentunit",
            meaning="Saturation of the busiest instance: the share of its workers' time of the last 10 seconds in "
            "which they were busy.",
            remedy="Near 100 % calls wait: add machines or lighten the load; runbook HeadwaiterSaturationHigh.",
            queries=(Query(f"max ({series('headwaiter_saturation_ratio', model=False)})", "saturation"),),
            kind=Kind.STAT,
            bound=0.9,
        ),
        Panel(
            title="Models loaded",
            unit="suffix: servers",
            meaning="On how many servers each model, version and variant is loaded.",
            remedy="A model with fewer servers than the others is missing somewhere; runbook HeadwaiterModelMissing.",
            queries=(
                Query(
                    f"count by (model, version, variant) ({series('headwaiter_model_info')})",
                    "{{model}} {{version}} {{variant}}",
                ),
            ),
            kind=Kind.STAT,
        ),
    ),
)

_BUDGETS = Row(
    "Error budgets",
    (
        Panel(
            title="Budget of availability: burn rate",
            unit="suffix: x",
            meaning="How many times faster than the objective allows calls fail, over several windows. At 1 the budget "
            "lasts for exactly its period. Alerts: above 14.4 over 1 h and 5 min, 6 over 6 h and 30 min, 1 over 3 d "
            "and 6 h.",
            remedy="Runbook HeadwaiterAvailabilityBurn.",
            queries=tuple(
                Query(recorded(f"job:headwaiter_availability:burn_rate{window}"), f"{{{{job}}}} {window}")
                for window in ("5m", "30m", "1h", "6h", "3d")
            ),
            bound=14.4,
            when_empty=_NO_RULES,
        ),
        Panel(
            title="Budget of latency: burn rate",
            unit="suffix: x",
            meaning="How many times more often than the objective allows calls take longer than the SLO, over several "
            "windows; of each job's worst model. The alerts are those of availability.",
            remedy="Runbook HeadwaiterLatencyBurn.",
            queries=tuple(
                Query(
                    f"max by (job) ({recorded(f'job_model:headwaiter_latency:burn_rate{window}', model=True)})",
                    f"{{{{job}}}} {window}",
                )
                for window in ("5m", "30m", "1h", "6h", "3d")
            ),
            bound=14.4,
            when_empty=_NO_RULES,
        ),
    ),
)

_CALLS = Row(
    "Calls",
    (
        Panel(
            title="Calls by model",
            unit="reqps",
            meaning="Calls that were answered per second. `_other` are calls that named no model of this server, or "
            "were refused before they were read.",
            remedy="A model that nobody calls any more may have lost its callers; `_other` that grows is a wrong name "
            "or an overload.",
            queries=(Query(rate(_REQUESTS, "model"), "{{model}}"),),
            kind=Kind.STACK,
        ),
        Panel(
            title="Calls that did not end with OK",
            unit="reqps",
            meaning="By gRPC status code. UNAVAILABLE: refused, for overload or while shutting down. "
            "DEADLINE_EXCEEDED: too late. INTERNAL: the model or the server failed. The others are the caller's: "
            "INVALID_ARGUMENT, NOT_FOUND, RESOURCE_EXHAUSTED (message too large), CANCELLED.",
            remedy="UNAVAILABLE: the capacity dashboard. DEADLINE_EXCEEDED: latency below. INTERNAL: the log has the "
            "error under the id that the caller was given.",
            queries=(Query(rate(_REQUESTS, "code", matchers=('code!="OK"',)), "{{code}}"),),
            kind=Kind.STACK,
            when_empty="No data. Every call so far has ended with OK, or nobody called.",
        ),
        Panel(
            title="Calls in flight",
            unit="suffix: calls",
            meaning="Calls that were begun and not yet answered, by method.",
            remedy="Growing without end: the server is slower than its callers; see the queue.",
            queries=(Query(total("headwaiter_requests_in_flight", "method", model=False), "{{method}}"),),
            kind=Kind.STACK,
        ),
        Panel(
            title="Failures of the engine",
            unit="suffix: texts/s",
            meaning="Texts per second on which a model itself failed. Each was alone to blame: its batch-mates were "
            "answered.",
            remedy="Find the error in the log; runbook HeadwaiterEngineFailures.",
            queries=(Query(rate("headwaiter_engine_failures_total", "model"), "{{model}}"),),
        ),
    ),
)

_LATENCY = Row(
    "Latency",
    (
        Panel(
            title="Duration of calls",
            unit="s",
            meaning="From the first sight of a call to its answer: half, nine tenths and 99 of 100 calls take no "
            "longer. The dashed line is the SLO.",
            remedy="If p99 nears the SLO, see where the time goes; runbook HeadwaiterLatencyBurn.",
            queries=(
                *(
                    Query(quantile(share, _SECONDS), name)
                    for share, name in ((0.5, "p50"), (0.9, "p90"), (0.99, "p99"))
                ),
                _SLO,
            ),
        ),
        Panel(
            title="p99 by model",
            unit="s",
            meaning="99 of 100 calls to a model take no longer.",
            remedy="One slow model among quick ones: see its batches; all slow together: saturation.",
            queries=(Query(quantile(0.99, _SECONDS, "model"), "{{model}}"), _SLO),
        ),
        Panel(
            title="Where the time goes",
            unit="s",
            meaning="Mean parts of a call: turning text into tokens, waiting for a worker, runs.",
            remedy="Waiting grows with load: capacity. Runs grow with longer texts or a smaller share of the "
            "processors: batching.",
            queries=tuple(
                Query(mean(f"headwaiter_{part}_duration_seconds"), part) for part in ("tokenize", "queue", "inference")
            ),
            kind=Kind.STACK,
        ),
    ),
)

_LOAD = Row(
    "Load",
    (
        Panel(
            title="Saturation",
            unit="percentunit",
            meaning="Share of the workers' time of the last 10 seconds in which they were busy, by instance.",
            remedy="Runbook HeadwaiterSaturationHigh. Uneven instances: the balancer sends them different loads.",
            queries=(Query(series("headwaiter_saturation_ratio", model=False), "{{instance}}"),),
            bound=0.9,
            top=1.0,
        ),
        Panel(
            title="Waiting texts",
            unit="suffix: texts",
            meaning="Texts that wait for their first run.",
            remedy="Short peaks are what a queue is for. Growing without end: more comes than can be computed.",
            queries=(Query(total("headwaiter_queue_depth", "model"), "{{model}}"),),
            kind=Kind.STACK,
        ),
        Panel(
            title="Predicted wait",
            unit="s",
            meaning="What a text that came now, after all others, would wait for; the longest of the instances. By "
            "this the server decides what it takes in. Only for models that are not generating.",
            remedy="Near the callers' deadlines the server begins to refuse; runbook HeadwaiterQueueWaitHigh.",
            queries=(
                Query(f"max by (model) ({series('headwaiter_predicted_wait_seconds')})", "{{model}}"),
                _SLO,
            ),
            when_empty="No data. No model but generating ones is loaded, whose wait is not predicted.",
        ),
    ),
)

DASHBOARD = Dashboard(
    name="overview",
    title="Headwaiter / Overview",
    purpose="Is the service well? Rate, errors, latency and saturation of all servers.",
    rows=(_NOW, _BUDGETS, _CALLS, _LATENCY, _LOAD),
)
