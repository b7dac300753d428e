"""The caller's own trace, told to the server: W3C Trace Context, as OpenTelemetry has it in this process.

OpenTelemetry is neither needed nor imported: where a span is current, the process has imported it already.
"""

from __future__ import annotations

import sys

TRACEPARENT = "traceparent"
_TRACESTATE = "tracestate"


def current_trace() -> tuple[tuple[str, str], ...]:
    """Metadata that names the span which is current here; nothing where there is none."""
    trace = sys.modules.get("opentelemetry.trace")
    # Another thread may be importing it at this moment.
    if trace is None or not hasattr(trace, "get_current_span"):
        return ()
    span = trace.get_current_span().get_span_context()
    if not span.is_valid:
        return ()
    parent = (TRACEPARENT, f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}")
    state = span.trace_state.to_header() if span.trace_state else ""
    return (parent, (_TRACESTATE, state)) if state else (parent,)
