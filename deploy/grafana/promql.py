"""The few shapes of PromQL that the dashboards are made of, narrowed to what their variables choose.

Rates are taken over `$__rate_interval`, which Grafana fits to the time shown: at least four scrapes.
"""

from __future__ import annotations

_SERVER = ('job=~"$job"', 'instance=~"$instance"')
_MODEL = 'model=~"$model"'
WINDOW = "$__rate_interval"


def series(name: str, *matchers: str, model: bool = True) -> str:
    """The chosen series of a metric.

    Args:
        name: The metric.
        matchers: Further matchers.
        model: Whether the metric has the label `model`.
    """
    return f"{name}{{{','.join([*_SERVER, *([_MODEL] if model else []), *matchers])}}}"


def rate(name: str, *by: str, matchers: tuple[str, ...] = (), model: bool = True) -> str:
    """Increase per second of a counter, added up."""
    return f"{_sum(by)} (rate({series(name, *matchers, model=model)}[{WINDOW}]))"


def increase(name: str, *by: str) -> str:
    """Increase of a counter within the window, added up."""
    return f"{_sum(by)} (increase({series(name)}[{WINDOW}]))"


def quantile(share: float, histogram: str, *by: str) -> str:
    """A quantile of a histogram, by the labels given."""
    return f"histogram_quantile({share}, {rate(f'{histogram}_bucket', *by, 'le')})"


def mean(histogram: str, *by: str) -> str:
    """The mean of a histogram, by the labels given."""
    return f"{rate(f'{histogram}_sum', *by)} / {rate(f'{histogram}_count', *by)}"


def total(name: str, *by: str, model: bool = True) -> str:
    """A gauge, added up."""
    return f"{_sum(by)} ({series(name, model=model)})"


def recorded(name: str, *, model: bool = False) -> str:
    """The chosen series of a recording rule, which has no instances any more."""
    return f"{name}{{{_SERVER[0]}{',' + _MODEL if model else ''}}}"


def slo_seconds() -> str:
    """The configured SLO."""
    return f"max ({series('headwaiter_slo_seconds', model=False)})"


def _sum(by: tuple[str, ...]) -> str:
    return f"sum by ({', '.join(by)})" if by else "sum"
