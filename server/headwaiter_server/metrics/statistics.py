"""What one loaded version of a model has done so far, for tools that ask the server itself."""

from __future__ import annotations

import time
from dataclasses import dataclass, field


@dataclass(slots=True)
class Tally:
    """How often something happened, and how long it took in all."""

    count: int = 0
    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        """Count it once more."""
        self.count += 1
        self.seconds += seconds


@dataclass(slots=True)
class ModelCounts:
    """What one loaded version of a model has done; it goes with the model, and one that is loaded again begins anew.

    Used on the event loop only. The four parts of a call's time that a model ran for are together all of it.

    Attributes:
        success: Calls that were answered.
        failure: Calls that failed, however.
        cache_hit: Calls whose every row was remembered, and all of their time.
        cache_miss: Calls of which rows were looked for and not found, and the time of looking.
        computed: Calls that the model ran for, and that were answered.
        rows: Rows of these that it ran for.
        input_seconds: Of these calls, from first sight to submission: parsing, reading, tokenizing.
        queue_seconds: From there until the first run began that held a part of it.
        infer_seconds: From there until the last part of its answer was there.
        output_seconds: From there until the answer was out.
        last_call: When a call was last over, in Unix time; 0 if none was.
        runs: By how many rows they held.
    """

    success: Tally = field(default_factory=Tally)
    failure: Tally = field(default_factory=Tally)
    cache_hit: Tally = field(default_factory=Tally)
    cache_miss: Tally = field(default_factory=Tally)
    computed: int = 0
    rows: int = 0
    input_seconds: float = 0.0
    queue_seconds: float = 0.0
    infer_seconds: float = 0.0
    output_seconds: float = 0.0
    last_call: float = 0.0
    runs: dict[int, Tally] = field(default_factory=dict)

    def failed(self, seconds: float) -> None:
        """Count a call that failed after so long."""
        self.failure.add(seconds)
        self.last_call = time.time()

    def remembered(self, seconds: float) -> None:
        """Count a call that was answered after so long from what was remembered."""
        self.success.add(seconds)
        self.cache_hit.add(seconds)
        self.last_call = time.time()

    def answered(
        self, rows: int, arrived: float, submitted: float, started: float, inferred: float, ended: float
    ) -> None:
        """Count a call that the model ran for, by when it passed each point, on whatever clock.

        Args:
            rows: Those of its rows that ran.
            arrived: First sight.
            submitted: Its rows began to wait.
            started: The first run began that held one of them.
            inferred: The last part of its answer was there.
            ended: Its answer was out.
        """
        self.success.add(ended - arrived)
        self.computed += 1
        self.rows += rows
        self.input_seconds += submitted - arrived
        self.queue_seconds += started - submitted
        self.infer_seconds += inferred - started
        self.output_seconds += ended - inferred
        self.last_call = time.time()

    def ran(self, rows: int, seconds: float) -> None:
        """Count a run."""
        tally = self.runs.get(rows)
        if tally is None:
            tally = self.runs[rows] = Tally()
        tally.add(seconds)
