"""What the server says of itself while it is under load: its /metrics, read at times and reduced to what is shown.

Before a run a page that cannot be read is an error. From then on nothing here stops it: what could not be read is a
remark in the result.
"""

from __future__ import annotations

import math
import threading
import time
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from headwaiter_load.metrics_page import MetricsError, MetricsPage

if TYPE_CHECKING:
    from types import TracebackType

    from prometheus_client.samples import Sample

# Headwaiter answers all who ask within so long with the same page.
_SHARED_SECONDS: Final = 0.25
# Calls that name no model that is known; they are no part of a model's times.
_OTHER_MODEL: Final = "_other"

KEPT: Final[Mapping[str, tuple[str, ...]]] = {
    **{
        f"headwaiter_{name}_{part}": ()
        for name in (
            "request_duration_seconds",
            "tokenize_duration_seconds",
            "queue_duration_seconds",
            "batch_wait_duration_seconds",
            "inference_duration_seconds",
            "run_duration_seconds",
            "first_token_duration_seconds",
            "inter_token_duration_seconds",
            "batch_size",
            "batch_tokens",
        )
        for part in ("sum", "count")
    },
    "headwaiter_batch_size_bucket": ("le",),
    "headwaiter_batch_tokens_bucket": ("le",),
    "headwaiter_requests_total": ("code",),
    "headwaiter_texts_total": (),
    "headwaiter_tokens_total": ("direction",),
    "headwaiter_batches_total": ("reason",),
    "headwaiter_padding_tokens_total": (),
    "headwaiter_computed_tokens_total": (),
    "headwaiter_wasted_cpu_seconds_total": ("reason",),
    "headwaiter_cpu_seconds_total": (),
    "headwaiter_deadlines_total": ("met",),
    "headwaiter_worker_busy_seconds_total": (),
    "headwaiter_workers": (),
    "headwaiter_queue_depth": (),
    "headwaiter_running_texts": (),
    "process_cpu_seconds_total": (),
    "process_resident_memory_bytes": (),
}
"""What is kept, by its name in the page, and the labels that stay apart; over all others it is summed."""
# Counted for every model, that of calls that were refused before their model was known too.
_OF_ALL_MODELS: Final = frozenset({"headwaiter_requests_total"})

# Calls that only ask about models would make the mean of those that are computed look small.
_ASKING: Final = ("/GetModel", "/ListModels")


@dataclass(frozen=True, slots=True)
class Reading:
    """The server's figures at one moment.

    Attributes:
        at_seconds: When, after the beginning of the run.
        values: Figures by their name; after a colon the value of the label that tells them apart, as in
            `headwaiter_batches_total:budget`.
    """

    at_seconds: float
    values: dict[str, float]


def reduce_text(text: str, model: str = "") -> dict[str, float]:
    """The figures of a /metrics page that a report shows.

    Args:
        text: In Prometheus' text format.
        model: Only this model's; all models' if not given.

    Raises:
        MetricsError: It is no such text, holds none of Headwaiter's metrics, or prometheus-client is missing.
    """
    try:
        from prometheus_client.parser import text_string_to_metric_families  # noqa: PLC0415 - may be missing
    except ModuleNotFoundError as error:
        raise MetricsError(f"no module {error.name}: install headwaiter with its extra: load") from error
    # A page has some thousand lines, most of them buckets that nobody asks for.
    lines = [line for line in text.splitlines() if line.partition("{")[0].partition(" ")[0] in KEPT]
    if not any(line.startswith("headwaiter_") for line in lines):
        raise MetricsError("the page holds none of Headwaiter's metrics")
    try:
        families = text_string_to_metric_families("\n".join([*lines, ""]))
        return _reduce([sample for family in families for sample in family.samples], model)
    except (ValueError, KeyError, IndexError) as error:
        raise MetricsError(f"not Prometheus' text format: {error}") from error


def _reduce(samples: Iterable[Sample], model: str) -> dict[str, float]:
    values: dict[str, float] = {}
    for sample in samples:
        if not math.isfinite(sample.value) or not (sample.name in _OF_ALL_MODELS or _is_of(sample, model)):
            continue
        key = ":".join((sample.name, *(sample.labels.get(label, "") for label in KEPT[sample.name])))
        values[key] = values.get(key, 0.0) + sample.value
    return values


def _is_of(sample: Sample, model: str) -> bool:
    if sample.labels.get("method", "").endswith(_ASKING):
        return False
    of = sample.labels.get("model")
    return of is None or (of == model if model else of != _OTHER_MODEL)


class ServerWatch:
    """Reads a server's metrics again and again, on a thread of its own, from `start` to `stop`.

    Args:
        page: The /metrics page.
        every_seconds: From one reading to the next; all are held until the end.
        model: The model under load; all if not given.
        begun: `time.monotonic()` of the beginning of the run, which the readings' times count from; now if not given.
    """

    def __init__(self, page: MetricsPage, every_seconds: float, model: str = "", begun: float | None = None) -> None:
        self._page = page
        self._every_seconds = every_seconds
        self._model = model
        self._begun = time.monotonic() if begun is None else begun
        # Text is taken apart after the run: it would hold up the calls of a tester with a single process.
        self._pages: list[tuple[float, bytes]] = []
        self._problems: list[str] = []
        self._readings: list[Reading] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="server-metrics", daemon=True)

    def start(self) -> Self:
        """Take the first reading before this returns, and the others from now on."""
        self._read()
        self._thread.start()
        return self

    def stop(self) -> None:
        """Take the last reading; nothing is read afterwards."""
        self._ended.set()
        self._thread.join()
        self._read()
        for at_seconds, page in self._pages:
            try:
                values = reduce_text(zlib.decompress(page).decode(errors="replace"), self._model)
            except MetricsError as error:
                self._problems.append(str(error))
            else:
                self._readings.append(Reading(at_seconds, values))
        self._pages.clear()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def readings(self) -> list[Reading]:
        """What was read, in order of time; known when it has been stopped."""
        return list(self._readings)

    @property
    def problem(self) -> str:
        """Why readings are missing, one line; "" if none are."""
        if not self._problems:
            return ""
        several = f" ({len(self._problems)} readings failed)" if len(self._problems) > 1 else ""
        return f"{self._problems[0]}{several}"

    def _watch(self) -> None:
        # By the clock, so that slow answers do not make the readings drift.
        due = time.monotonic() + self._every_seconds
        while not self._ended.wait(max(0.0, due - time.monotonic())):
            self._read()
            due = max(due + self._every_seconds, time.monotonic())

    def _read(self) -> None:
        try:
            page, age_seconds = self._page.read()
        except MetricsError as error:
            self._problems.append(str(error))
            return
        at_seconds, packed = time.monotonic() - age_seconds - self._begun, zlib.compress(page, level=1)
        # The page of the last reading once more: between the two nothing was counted, in no time.
        if self._pages and self._pages[-1][1] == packed and at_seconds - self._pages[-1][0] < _SHARED_SECONDS:
            return
        self._pages.append((at_seconds, packed))
