"""How texts become runs, and what that costs."""

from __future__ import annotations

from deploy.grafana.promql import increase, mean, quantile, rate, series
from deploy.grafana.spec import Dashboard, Kind, Panel, Query, Row

_NONE_RUN = "No data. Was an encoder model called? Models that generate are on their own dashboard."


def _median_and_worst(histogram: str) -> tuple[Query, ...]:
    return tuple(
        Query(quantile(share, histogram, "model"), f"{{{{model}}}} {name}")
        for share, name in ((0.5, "p50"), (0.99, "p99"))
    )


_RUNS = Row(
    "Runs",
    (
        Panel(
            title="Why runs closed",
            unit="suffix: runs/s",
            meaning="Runs per second, by why no more texts went into one. `empty`: nothing more was waiting. `budget`: "
            "the tokens of a run were full. `alone`: a text that shares its run with none. `deadline` and `delay`: a "
            "batch delay is configured, and a deadline came near or the delay was over.",
            remedy="Mostly `budget` means full load. Mostly `empty` with one text each means that batching has nothing "
            "to do, which is fine below saturation.",
            queries=(Query(rate("headwaiter_batches_total", "reason"), "{{reason}}"),),
            kind=Kind.STACK,
            when_empty=_NONE_RUN,
        ),
        Panel(
            title="Texts in a run",
            unit="suffix: texts",
            meaning="Mean number of texts that share a run, by model.",
            remedy="1 under load: texts are too long to share a run, or the batching setting forbids it.",
            queries=(Query(mean("headwaiter_batch_size", "model"), "{{model}}"),),
        ),
        Panel(
            title="Duration of a run",
            unit="s",
            meaning="Half and 99 of 100 runs of a model take no longer.",
            remedy="Longer than calibrated (below): other processes take the processors, or they are throttled.",
            queries=_median_and_worst("headwaiter_run_duration_seconds"),
        ),
        Panel(
            title="Distribution of texts in a run",
            unit="suffix: texts",
            meaning="How many runs held how many texts.",
            remedy="See why runs closed.",
            queries=(Query(increase("headwaiter_batch_size_bucket", "le"), "{{le}}"),),
            kind=Kind.HEATMAP,
        ),
        Panel(
            title="Distribution of tokens in a run",
            unit="suffix: tokens",
            meaning="How many runs computed how many tokens.",
            remedy="Under load most should be near the budget; far below it, runs are closed early.",
            queries=(Query(increase("headwaiter_batch_tokens_bucket", "le"), "{{le}}"),),
            kind=Kind.HEATMAP,
        ),
    ),
)

_TOKENS = Row(
    "Tokens",
    (
        Panel(
            title="Computed tokens",
            unit="suffix: tokens/s",
            meaning="Tokens per second that runs compute: those of texts, and those that only fill rows up.",
            remedy="Falling at full saturation: longer texts or slower processors.",
            queries=(
                Query(
                    f"{rate('headwaiter_computed_tokens_total')} - {rate('headwaiter_padding_tokens_total')}",
                    "of texts",
                ),
                Query(rate("headwaiter_padding_tokens_total"), "padding"),
            ),
            kind=Kind.STACK,
            when_empty=_NONE_RUN,
        ),
        Panel(
            title="Padding",
            unit="percentunit",
            meaning="Share of the computed tokens that are padding. Packed models have none.",
            remedy="Export the model packed, or send texts of like length together; runbook HeadwaiterPaddingHigh.",
            queries=(
                Query(
                    f"{rate('headwaiter_padding_tokens_total', 'model')}"
                    f" / {rate('headwaiter_computed_tokens_total', 'model')}",
                    "{{model}}",
                ),
            ),
            bound=0.3,
            top=1.0,
            when_empty=_NONE_RUN,
        ),
        Panel(
            title="Waiting for batch-mates and a worker",
            unit="s",
            meaning="Of each run, from the moment it could have begun (a text there, a worker idle) to its beginning: "
            "what a batch delay and the hand-over cost.",
            remedy="Without a batch delay more than a millisecond means that the event loop is late; with one, it is "
            "about that delay.",
            queries=_median_and_worst("headwaiter_batch_wait_duration_seconds"),
            when_empty=_NONE_RUN,
        ),
    ),
)

_CALIBRATION = Row(
    "Calibration",
    (
        Panel(
            title="Correction of the cost",
            unit="suffix: x",
            meaning="What runs take, as a multiple of what they were calibrated to. 1 is as calibrated.",
            remedy="Far from 1 for long: the machine has changed, or has other work; calibrate again with "
            "--calibration fresh.",
            queries=(Query(series("headwaiter_cost_correction_ratio"), "{{model}} {{instance}}"),),
            when_empty=_NONE_RUN,
        ),
        Panel(
            title="Budget of a run",
            unit="suffix: tokens",
            meaning="Most tokens of a run of several texts, and from how many tokens on a run that is alone uses all "
            "threads (0: never).",
            remedy="Very different on like machines: one was calibrated while it was busy; --calibration fresh.",
            queries=(
                Query(series("headwaiter_calibration_budget_tokens"), "{{model}} {{instance}} budget"),
                Query(series("headwaiter_calibration_lone_tokens"), "{{model}} {{instance}} all threads from"),
            ),
            when_empty=_NONE_RUN,
        ),
        Panel(
            title="Calibrated cost",
            unit="s",
            meaning="What a run at the budget takes, and the part of it that any run takes.",
            remedy="As for the budget.",
            queries=(
                Query(series("headwaiter_calibration_full_run_seconds"), "{{model}} {{instance}} full run"),
                Query(series("headwaiter_calibration_fixed_seconds"), "{{model}} {{instance}} any run"),
            ),
            when_empty=_NONE_RUN,
        ),
    ),
)

DASHBOARD = Dashboard(
    name="batching",
    title="Headwaiter / Batching",
    purpose="How do texts become runs, and what does that cost?",
    rows=(_RUNS, _TOKENS, _CALIBRATION),
)
