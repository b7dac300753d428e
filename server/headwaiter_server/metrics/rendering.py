"""What a scrape gets: text or OpenMetrics, compressed or not, rendered at most every 250 ms for all who ask."""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics

from headwaiter_server.metrics.messages import Request, Response

# So many scrapers as want to may ask: this is all the work they can cause.
_SHARED_SECONDS = 0.25
# What is left to save beyond this level costs more time than it is worth.
_GZIP_LEVEL = 4
# How old the answer is: who has to know what happened a moment ago can ask again.
AGE_HEADER = "Headwaiter-Age-Seconds"
_OPENMETRICS = "application/openmetrics-text"


class Rendering:
    """One format's latest rendering; its methods are called on any thread."""

    def __init__(self, content_type: str, render: Callable[[], bytes], clock: Callable[[], float]) -> None:
        """Begin with none.

        Args:
            content_type: The format.
            render: Writes all metrics.
            clock: Seconds.
        """
        self.content_type = content_type
        self._render = render
        self._clock = clock
        self._lock = threading.Lock()
        self._rendered_at = float("-inf")
        self._plain = b""
        self._compressed: bytes | None = None

    def latest(self, *, compressed: bool) -> tuple[bytes, float]:
        """The metrics and their age when they were asked for, at most 250 ms.

        Who asks in the first 250 ms of a rendering waits for that one, however long it takes.
        """
        asked = self._clock()
        with self._lock:
            if asked - self._rendered_at >= _SHARED_SECONDS:
                began = self._clock()
                self._plain, self._compressed = self._render(), None
                self._rendered_at = began
            age_seconds = max(0.0, asked - self._rendered_at)
            if not compressed:
                return self._plain, age_seconds
            if self._compressed is None:
                self._compressed = gzip.compress(self._plain, _GZIP_LEVEL)
            return self._compressed, age_seconds


class Renderer:
    """The route `/metrics`."""

    def __init__(self, registry: CollectorRegistry, clock: Callable[[], float] = time.monotonic) -> None:
        """Set up.

        Args:
            registry: What is rendered.
            clock: Seconds.
        """
        self._text = Rendering("text/plain; version=0.0.4; charset=utf-8", lambda: generate_latest(registry), clock)
        self._openmetrics = Rendering(
            f"{_OPENMETRICS}; version=1.0.0; charset=utf-8",
            lambda: openmetrics.generate_latest(registry),  # type: ignore[no-untyped-call]
            clock,
        )

    def __call__(self, request: Request) -> Response:
        """Answer a scrape in the format and the encoding it asks for."""
        formats = _weights(request.headers.get("accept", "*/*"))
        text = next((formats[name] for name in ("text/plain", "text/*", "*/*") if name in formats), 0.0)
        rendering = self._openmetrics if 0 < formats.get(_OPENMETRICS, 0.0) >= text else self._text
        encodings = _weights(request.headers.get("accept-encoding", ""))
        compressed = encodings.get("gzip", encodings.get("*", 0.0)) > 0
        body, age_seconds = rendering.latest(compressed=compressed)
        headers = {
            "Vary": "Accept, Accept-Encoding",
            "Cache-Control": "no-store",
            AGE_HEADER: f"{age_seconds:.6f}",
        }
        if compressed:
            headers["Content-Encoding"] = "gzip"
        return Response(body, rendering.content_type, headers=headers)


def _weights(header: str) -> dict[str, float]:
    """How much each choice of an `Accept` header is wanted, 0 to 1 (RFC 9110, section 12.4.2)."""
    weights: dict[str, float] = {}
    for choice in header.lower().split(","):
        name, *parameters = (part.strip() for part in choice.split(";"))
        weight = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                try:
                    weight = float(parameter.removeprefix("q="))
                except ValueError:
                    weight = 0.0
        weights[name] = max(weight, weights.get(name, 0.0))
    return weights
