"""Models that generate text, token by token."""

from __future__ import annotations

from deploy.grafana.promql import mean, quantile, rate, series, total
from deploy.grafana.spec import Dashboard, Kind, Panel, Query, Row

_NONE = "No data. No model that generates is loaded, or none was called."
_GENERATED = 'direction="generated"'
_GENERATE = 'task="generate"'
_STREAMS = 'method=~".*/GenerateStream"'
_GENERATES = f"on (job, instance, model) group by (job, instance, model) ({series('headwaiter_model_info', _GENERATE)})"


_TOKENS = " + ".join(rate(f"headwaiter_{each}_token_duration_seconds_count", "model") for each in ("first", "inter"))


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
            meaning="Tokens generated per second, by model, as they come; without those of beam search.",
            remedy="Falling at full saturation: smaller batches, or a slower machine.",
            queries=(Query(_TOKENS, "{{model}}"),),
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
            title="Why texts ended",
            unit="suffix: texts/s",
            meaning="Texts per second whose generation has ended, by why: the model ended them, they were as long as "
            "they may be, or a stop string or token came.",
            remedy="Mostly `length` where texts should end by themselves: they are cut off; raise max_new_tokens, or "
            "look at what is asked.",
            queries=(Query(rate("headwaiter_generations_total", "finish_reason"), "{{finish_reason}}"),),
            kind=Kind.STACK,
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
            remedy="Growing without end: more comes than can be generated; add machines or bound the length. While "
            "rows are free: the cache, below, is full.",
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

_CACHE = Row(
    "Rows and the cache of keys and values",
    (
        Panel(
            title="Cache in use",
            unit="bytes",
            meaning="Memory for keys and values that the texts being generated have reserved, for all tokens that they "
            "may come to have, beside what there is.",
            remedy="At the limit texts wait although rows are free: runbook HeadwaiterKvCacheFull.",
            queries=(
                Query(total("headwaiter_kv_cache_bytes", "model"), "{{model}}"),
                Query(total("headwaiter_kv_cache_limit_bytes", "model"), "{{model}} limit", is_bound=True),
            ),
            when_empty=_NONE,
        ),
        Panel(
            title="Rows in use",
            unit="suffix: rows",
            meaning="Rows of the running batches that texts have, beside how many there are. A text has one, a beam "
            "search one for each beam.",
            remedy="At the limit texts wait: more workers or machines, or a larger --max-batch-rows, at the cost of "
            "the time between tokens.",
            queries=(
                Query(total("headwaiter_generation_rows", "model"), "{{model}}"),
                Query(total("headwaiter_generation_rows_limit", "model"), "{{model}} limit", is_bound=True),
            ),
            when_empty=_NONE,
        ),
        Panel(
            title="Iterations short of room",
            unit="percentunit",
            meaning="Share of the iterations that began without a text which waited and had a row, but no room in the "
            "cache.",
            remedy="Not 0 for long: the cache is the bottleneck; runbook HeadwaiterKvCacheFull.",
            queries=(
                Query(
                    f"{rate('headwaiter_kv_cache_short_iterations_total', 'model')}"
                    f" / ({rate('headwaiter_run_duration_seconds_count', 'model')}"
                    f" and on (model) {series('headwaiter_model_info', _GENERATE)})",
                    "{{model}}",
                ),
            ),
            bound=0.5,
            top=1.0,
            when_empty=_NONE,
        ),
        Panel(
            title="Tokens read",
            unit="suffix: tokens/s",
            meaning="Tokens of prompts and sources per second that are read before a first token can be generated.",
            remedy="What is read takes time from the tokens of all others: --max-batch-tokens bounds how much of it "
            "goes into one iteration.",
            queries=(Query(f"{rate('headwaiter_prefill_tokens_total', 'model')} > 0", "{{model}}"),),
            kind=Kind.STACK,
            when_empty=_NONE,
        ),
        Panel(
            title="Time beside the model",
            unit="percentunit",
            meaning="Share of the iterations' time that is not spent in the model: choosing tokens, joining and "
            "leaving.",
            remedy="Above 15 % a small model has many texts with costly options (top-p, log-probabilities, beams), or "
            "the processors have other work.",
            queries=(
                Query(
                    f"{rate('headwaiter_iteration_overhead_seconds_total', 'model')}"
                    f" / ({rate('headwaiter_run_duration_seconds_sum', 'model')}"
                    f" and on (model) {series('headwaiter_model_info', _GENERATE)})",
                    "{{model}}",
                ),
            ),
            bound=0.15,
            top=1.0,
            when_empty=_NONE,
        ),
        Panel(
            title="Copied in an iteration",
            unit="bytes",
            meaning="Mean of the keys and values that are copied in an iteration: for beams, and to close gaps. Not "
            "what a step reads or writes.",
            remedy="Growing with the length of texts, without beam search: a bug, to be reported with this figure.",
            queries=(
                Query(
                    f"{rate('headwaiter_kv_cache_copied_bytes_total', 'model')}"
                    f" / ({rate('headwaiter_run_duration_seconds_count', 'model')}"
                    f" and on (model) {series('headwaiter_model_info', _GENERATE)})",
                    "{{model}}",
                ),
            ),
            when_empty=_NONE,
        ),
        Panel(
            title="Open streams",
            unit="suffix: streams",
            meaning="Calls of GenerateStream that are being answered, from the first message to the last.",
            remedy="More than texts being generated: readers are slower than the model, and their calls are held until "
            "they have read it all.",
            queries=(
                Query(
                    f"sum by (method) ({series('headwaiter_requests_in_flight', _STREAMS, model=False)})", "{{method}}"
                ),
            ),
            kind=Kind.STACK,
            when_empty=_NONE,
        ),
    ),
)

DASHBOARD = Dashboard(
    name="generation",
    title="Headwaiter / Generation",
    purpose="How soon do generated texts begin, how fast do they go on, and how full is what holds them?",
    rows=(_FIRST, _MACHINE, _CACHE),
)
