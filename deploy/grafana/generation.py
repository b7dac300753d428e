"""Models that generate text, token by token."""

from __future__ import annotations

from deploy.grafana.promql import mean, quantile, rate, series
from deploy.grafana.spec import Dashboard, Kind, Panel, Query, Row

_NONE = "No data. No model that generates is loaded, or none was called."
_GENERATED = 'direction="generated"'
_GENERATE = 'task="generate"'
_GENERATES = f"on (job, instance, model) group by (job, instance, model) ({series('headwaiter_model_info', _GENERATE)})"


def _quantiles(histogram: str) -> tuple[Query, ...]:
    return tuple(
        Query(quantile(share, histogram, "model"), f"{{{{model}}}} {name}")
        for share, name in ((0.5, "p50"), (0.9, "p90"), (0.99, "p99"))
    )


_FIRST = Row(
    "What callers feel",
    (
        Panel(
            title="Until the first token",
            unit="s",
            meaning="From the arrival of a call to the first generated token of a text: waiting, encoding and the "
            "first step.",
            remedy="Grows when texts wait for a place in a running batch: see waiting texts; add workers or machines.",
            queries=_quantiles("headwaiter_first_token_duration_seconds"),
            when_empty=_NONE,
        ),
        Panel(
            title="Between tokens",
            unit="s",
            meaning="From one generated token of a text to the next: one step of its batch, and what comes between two "
            "steps.",
            remedy="Grows with the texts in a batch: --max-batch-rows bounds them, at the cost of throughput.",
            queries=_quantiles("headwaiter_inter_token_duration_seconds"),
            when_empty=_NONE,
        ),
    ),
)

_MACHINE = Row(
    "What the server does",
    (
        Panel(
            title="Generated tokens",
            unit="suffix: tokens/s",
            meaning="Tokens generated per second, by model.",
            remedy="Falling at full saturation: smaller batches, or a slower machine.",
            queries=(
                Query(
                    f"{rate('headwaiter_tokens_total', 'model', matchers=(_GENERATED,))} > 0",
                    "{{model}}",
                ),
            ),
            kind=Kind.STACK,
            when_empty=_NONE,
        ),
        Panel(
            title="Generated tokens of a text",
            unit="suffix: tokens",
            meaning="Mean length of what is generated.",
            remedy="Longer texts cost in proportion; callers bound them with max_new_tokens.",
            queries=(
                Query(
                    f"{rate('headwaiter_tokens_total', 'model', matchers=(_GENERATED,))}"
                    f" / {rate('headwaiter_texts_total', 'model')} > 0",
                    "{{model}}",
                ),
            ),
            when_empty=_NONE,
        ),
        Panel(
            title="Texts being generated",
            unit="suffix: texts",
            meaning="Texts in running batches now.",
            remedy="At --max-batch-rows on every worker the others wait.",
            queries=(Query(f"sum by (model) ({series('headwaiter_running_texts')} * {_GENERATES})", "{{model}}"),),
            kind=Kind.STACK,
            when_empty=_NONE,
        ),
        Panel(
            title="Texts that wait for a place",
            unit="suffix: texts",
            meaning="Texts that are not in a running batch yet.",
            remedy="Growing without end: more comes than can be generated; add machines or bound the length.",
            queries=(Query(f"sum by (model) ({series('headwaiter_queue_depth')} * {_GENERATES})", "{{model}}"),),
            kind=Kind.STACK,
            when_empty=_NONE,
        ),
        Panel(
            title="Texts in a step",
            unit="suffix: texts",
            meaning="Mean number of texts that share a decoding step.",
            remedy="Near 1 under load: texts end before others come; more callers per server fill the batches.",
            queries=(
                Query(
                    f"{mean('headwaiter_batch_size', 'model')}"
                    f" and on (model) {series('headwaiter_model_info', _GENERATE)}",
                    "{{model}}",
                ),
            ),
            when_empty=_NONE,
        ),
        Panel(
            title="Duration of a step",
            unit="s",
            meaning="Half and 99 of 100 steps take no longer: encoding of the newcomers and one token for every text.",
            remedy="Long p99 with a short p50: newcomers with long sources; --max-batch-tokens bounds how many tokens "
            "join in one step.",
            queries=tuple(
                Query(
                    f"{quantile(share, 'headwaiter_run_duration_seconds', 'model')}"
                    f" and on (model) {series('headwaiter_model_info', _GENERATE)}",
                    f"{{{{model}}}} {name}",
                )
                for share, name in ((0.5, "p50"), (0.99, "p99"))
            ),
            when_empty=_NONE,
        ),
    ),
)

DASHBOARD = Dashboard(
    name="generation",
    title="Headwaiter / Generation",
    purpose="How soon do generated texts begin, how fast do they go on, and how many are under way?",
    rows=(_FIRST, _MACHINE),
)
