"""What a result keeps of the server's own metrics: readings of the measured part, as plain JSON."""

from __future__ import annotations

import time
from typing import Any, Final

from headwaiter_load.metrics_page import MetricsPage
from headwaiter_load.plan import bin_seconds
from headwaiter_load.results import Settings
from headwaiter_load.server_metrics import ServerWatch, reduce_text

# Distributions are shown for the run as a whole only, and buckets are most of what a reading holds.
_BUCKET: Final = "_bucket:"


class Breakdown:
    """The server's figures from the beginning of the measured part to its end.

    Args:
        page: The server's /metrics.
        settings: Of the run: they name the model, and say how long it is.

    Raises:
        MetricsError: Nobody answers there, or not with Headwaiter's metrics; a `ValueError`.
    """

    def __init__(self, page: MetricsPage, settings: Settings) -> None:
        text, _ = page.read()
        reduce_text(text.decode(errors="replace"))
        self._page = page
        self._model = settings.model
        # As often as the time line has a stretch: however long a run is, there are only so many readings.
        self._every_seconds = bin_seconds(settings.seconds)
        self._watch: ServerWatch | None = None

    def begin(self) -> None:
        """Take the first reading, and one for every stretch of the time line from now on."""
        self._watch = ServerWatch(self._page, self._every_seconds, self._model, time.monotonic())
        self._watch.start()

    def end(self) -> dict[str, Any]:
        """Take the last reading.

        Returns:
            What `RunResult.server` holds; `server_side.ServerSide` reads it.
        """
        if self._watch is None:
            raise RuntimeError("a breakdown that has not begun cannot end")
        self._watch.stop()
        readings = self._watch.readings
        ends = (0, len(readings) - 1)
        return {
            "metrics_url": self._page.url,
            "model": self._model,
            "problem": self._watch.problem,
            "readings": [
                {
                    "at_seconds": reading.at_seconds,
                    "values": {
                        name: value for name, value in reading.values.items() if number in ends or _BUCKET not in name
                    },
                }
                for number, reading in enumerate(readings)
            ],
        }
