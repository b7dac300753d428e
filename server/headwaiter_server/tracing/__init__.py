"""Traces: what each call went through, told to an OpenTelemetry collector. Off unless `--otlp-endpoint` is set.

Nothing but `otel` imports OpenTelemetry, and nothing but `open_tracing` imports `otel`: a server that does not trace
neither needs the package nor pays for it.
"""

from __future__ import annotations

from collections.abc import Callable

from headwaiter_server.errors import ConfigError
from headwaiter_server.tracing.spans import CallEnd, CallSpan, GeneratedText, TracedRun, Tracing

__all__ = ["CallEnd", "CallSpan", "GeneratedText", "TracedRun", "Tracing", "open_tracing"]


def open_tracing(endpoint: str, sample_ratio: float, version: str, clock: Callable[[], float]) -> Tracing | None:
    """Begin to export spans.

    Args:
        endpoint: The collector, `http://HOST:PORT` or `https://HOST:PORT`; empty for no traces at all.
        sample_ratio: Share of the calls without a traceparent that are traced.
        version: This server's.
        clock: The scheduler's clock, on which all times are told.

    Raises:
        ConfigError: OpenTelemetry is not installed.
    """
    if not endpoint:
        return None
    try:
        from headwaiter_server.tracing import otel  # noqa: PLC0415 - see above
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"--otlp-endpoint: no module {error.name}; install headwaiter with its extra otel, "
            "in a checkout by pip install '.[server,otel]'"
        ) from error
    return otel.OtelTracing(otel.otlp_exporter(endpoint), sample_ratio, version, clock)
