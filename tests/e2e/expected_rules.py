"""What every recording rule must say of the story in `monitored`, and which alerts it must have caused."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

from .expected_panels import failed_share, slow_shares
from .monitored import SLO_SECONDS
from .windows import Between, Window

# Alerts whose condition the story causes; most of them would have to wait before they fire.
PENDING = {
    "HeadwaiterAvailabilityBurn",
    "HeadwaiterLatencyBurn",
    "HeadwaiterTargetDown",
    "HeadwaiterRefusing",
    "HeadwaiterWastedWork",
    "HeadwaiterDeadlineMisses",
    "HeadwaiterEngineFailures",
    "HeadwaiterPaddingHigh",
    "HeadwaiterKvCacheFull",
}
# Those that depend on how fast the machine is; and Prometheus itself begins without targets.
ANY = {"HeadwaiterQueueWaitHigh", "HeadwaiterSaturationHigh", "HeadwaiterEventLoopLag", "HeadwaiterNoTargets"}
SILENT = {"HeadwaiterModelMissing", "HeadwaiterMemoryNearLimit", "HeadwaiterModelLoadFailing"}

Series = Iterator[tuple[dict[str, str], float | Between]]

_RULE_SECONDS = 300
_FIXED = {"headwaiter:availability:objective": 0.999, "headwaiter:latency:objective": 0.99}
_RATES = {
    "job_method_model_code:headwaiter_requests:rate5m": "headwaiter_requests_total",
    "job_model:headwaiter_texts:rate5m": "headwaiter_texts_total",
    "job_model_direction:headwaiter_tokens:rate5m": "headwaiter_tokens_total",
    "job_model_reason:headwaiter_batches:rate5m": "headwaiter_batches_total",
    "job_model:headwaiter_cpu_seconds:rate5m": "headwaiter_cpu_seconds_total",
}
_RATIOS: Mapping[str, tuple[str, dict[str, str], str]] = {
    "job_model:headwaiter_padding_tokens:ratio_rate5m": (
        "headwaiter_padding_tokens_total", {}, "headwaiter_computed_tokens_total"
    ),
    "job_model:headwaiter_wasted_cpu_seconds:ratio_rate5m": (
        "headwaiter_wasted_cpu_seconds_total", {}, "headwaiter_cpu_seconds_total"
    ),
    "job_instance_model:headwaiter_kv_cache_short_iterations:ratio_rate5m": (
        "headwaiter_kv_cache_short_iterations_total", {}, "headwaiter_run_duration_seconds_count"
    ),
    "job_model:headwaiter_deadlines_missed:ratio_rate5m": (
        "headwaiter_deadlines_total", {"met": "false"}, "headwaiter_deadlines_total"
    ),
    "job:headwaiter_requests_refused:ratio_rate5m": (
        "headwaiter_requests_total", {"code": "UNAVAILABLE"}, "headwaiter_requests_total"
    ),
}  # fmt: skip
# Rules that tell only of models with such a gauge.
_ONLY_WITH = {"job_instance_model:headwaiter_kv_cache_short_iterations:ratio_rate5m": "headwaiter_kv_cache_limit_bytes"}
_QUANTILE = re.compile(r"job_model:(headwaiter_\w+_duration_seconds):quantile5m")
_SHARES: Mapping[str, Callable[[Window], dict[str, float]]] = {
    "job:headwaiter_requests_failed:ratio_rate": lambda window: {"": failed_share(window)},
    "job:headwaiter_availability:burn_rate": lambda window: {"": failed_share(window) / 0.001},
    "job_model:headwaiter_requests_slow:ratio_rate": slow_shares,
    "job_model:headwaiter_latency:burn_rate": lambda window: {
        model: share / 0.01 for model, share in slow_shares(window).items()
    },
}


def expected_series(name: str, labels: Mapping[str, str], window: Window) -> Series:
    """The series of a rule: their labels, and their values by the raw counters.

    Args:
        name: The rule's.
        labels: Those that the rule itself adds.
        window: What its rates see.

    Raises:
        ValueError: Nobody has said what this rule should be.
    """
    level = name.partition(":")[0].split("_")
    if name in _FIXED:
        return iter([({}, _FIXED[name])])
    if name == "job_instance_le:headwaiter_slo_seconds:bucket":
        instances = window.gauges("headwaiter_slo_seconds", "instance")
        return (({"job": "headwaiter", "instance": each, "le": str(SLO_SECONDS)}, 1) for each in instances)
    if name in _RATES:
        return ((told, rise / _RULE_SECONDS) for told, rise in _grouped(window, _RATES[name], level))
    if name in _RATIOS:
        ratios = _ratios(window, *_RATIOS[name], level)
        models = window.gauges(_ONLY_WITH[name], "model") if name in _ONLY_WITH else None
        return (each for each in ratios if models is None or each[0]["model"] in models)
    if (match := _QUANTILE.fullmatch(name)) is not None:
        return _quantiles(window, match[1], float(labels["quantile"]))
    (shares,) = (each for prefix, each in _SHARES.items() if name.startswith(prefix))
    return (({"job": "headwaiter", "model": model}, share) for model, share in shares(window).items())


def _quantiles(window: Window, name: str, share: float) -> Series:
    for model, count in window.rises(f"{name}_count", "model").items():
        if count:
            yield {"job": "headwaiter", "model": model}, window.quantile(share, name, model=model)


def _grouped(window: Window, name: str, kept: list[str], **wanted: str) -> Iterator[tuple[dict[str, str], float]]:
    sums: dict[tuple[tuple[str, str], ...], float] = {}
    for labels, value in window.after.items():
        told = dict(labels)
        if told["__name__"] == name and wanted.items() <= told.items():
            key = tuple((label, told.get(label, "")) for label in kept)
            sums[key] = sums.get(key, 0.0) + value - window.before[labels]
    for key, rise in sums.items():
        yield dict(key), rise


def _ratios(window: Window, part: str, wanted: dict[str, str], whole: str, kept: list[str]) -> Series:
    parts = {tuple(told.items()): rise for told, rise in _grouped(window, part, kept, **wanted)}
    for told, rise in _grouped(window, whole, kept):
        if rise:
            yield told, parts.get(tuple(told.items()), 0.0) / rise
