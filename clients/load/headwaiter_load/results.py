"""What a load test found out: the model of the JSON file that every report is made from.

All times are in seconds and all rates in calls a second. `latency` counts from when a call was due, `service_time` from
when it was really sent; of a closed loop, which sends a call when the one before it is answered, they are the same but
for the tester's own slowness.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

from headwaiter_load import decoding
from headwaiter_load.decoding import DecodingError

FORMAT_VERSION: Final = 1
"""Version of the file: another number, another meaning; a file with another number is refused."""

PERCENTILES: Final = (50.0, 75.0, 90.0, 95.0, 99.0, 99.9, 99.99)
"""What `Distribution.percentiles` holds, written as `format(percentile, "g")`."""

LoadKind = Literal["closed", "constant", "poisson", "bursty", "replay"]
Phase = Literal["doubling", "halving", "bisection"]
LimitedBy = Literal["server", "max-rate", "tester", "interrupted"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """A distribution of times.

    Attributes:
        count: How many were measured; with none all figures are 0.
        min_seconds: The shortest.
        mean_seconds: The mean.
        max_seconds: The longest.
        percentiles: Seconds by percentile, `{"50": 0.0021, ..., "99.99": 0.1}`.
        histogram: All of it: an HDR histogram of microseconds with three significant digits, compressed (V2) and in
            base64, as HdrHistogram's tools in any language read it. `histograms.Histogram.decoded` does.
    """

    count: int
    min_seconds: float
    mean_seconds: float
    max_seconds: float
    percentiles: dict[str, float]
    histogram: str

    @property
    def p50_seconds(self) -> float:
        """The median."""
        return self.percentiles["50"]

    @property
    def p99_seconds(self) -> float:
        """What 99 of 100 do not exceed."""
        return self.percentiles["99"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What was asked for.

    Attributes:
        target: The server.
        protocol: "headwaiter" (`headwaiter.v1`) or "oip" (the Open Inference Protocol).
        task: What the calls ask for: "embed", "generate", ...; "infer" of the Open Inference Protocol.
        model: The model, as asked for; empty where the server's only one was meant.
        version: Its version as asked for; empty for the one that serves by default.
        stream: Whether calls were messages of long-lived streams; of "generate", whether they were answered in pieces.
        texts_per_call: Texts, or rows, of a call; 0 where a trace decides.
        load: How calls came.
        rate: Calls a second of an open loop; None where it was not fixed.
        outstanding: Calls outstanding of a closed loop; None of others.
        burst_size: Calls that come at once; 1 unless bursty.
        seconds: Length of the measured part as planned.
        warmup_seconds: What went before it, unmeasured.
        deadline_seconds: Deadline of a call; None where calls had none, or a trace decided.
        processes: Processes that sent.
        connections: Connections of each process.
        workload: Where the texts or tensors came from, in words.
        seed: Of everything random.
    """

    target: str
    protocol: Literal["headwaiter", "oip"]
    task: str
    model: str
    version: str
    stream: bool
    texts_per_call: int
    load: LoadKind
    rate: float | None
    outstanding: int | None
    burst_size: int
    seconds: float
    warmup_seconds: float
    deadline_seconds: float | None
    processes: int
    connections: int
    workload: str
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """One stretch of the time line, one second of most runs.

    Attributes:
        start_seconds: Where it begins, counted from the beginning of the measured part.
        length_seconds: Its length.
        scheduled: Calls that were due in it.
        answered: Calls that were answered well in it, whenever they were due.
        failed: Calls that ended in it otherwise.
        texts: Texts (or rows) of the calls in `answered`.
        outstanding: Calls that had neither ended when it ended nor were due later.
        p50_seconds: Median latency of the calls that were *due* in it and answered well; None where there are none.
        p90_seconds: Their 90th percentile.
        p99_seconds: Their 99th percentile.
        max_seconds: Their longest.
        histogram: Their distribution, encoded like that of `Distribution` but with two significant digits; empty
            where there are none. Comparisons need it: the calls of one second are not independent of each other.
    """

    start_seconds: float
    length_seconds: float
    scheduled: int
    answered: int
    failed: int
    texts: int
    outstanding: int
    p50_seconds: float | None
    p90_seconds: float | None
    p99_seconds: float | None
    max_seconds: float | None
    histogram: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorCount:
    """How often calls ended with one code.

    Attributes:
        code: A gRPC status code's name; UNANSWERED for calls that the tester gave up at the end, NOT_SENT for
            calls that it did not send because too many were outstanding.
        count: Calls.
        example: The message of one of them.
    """

    code: str
    count: int
    example: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessUse:
    """What one of the tester's own processes took.

    Attributes:
        number: Its number, from 0.
        cpu_seconds: Processor time in the measured part.
        wall_seconds: Length of that part.
        cpu_share: The former by the latter: 1 is a whole core. Its Python code cannot use more.
        late_p99_seconds: How late it sent, 99th percentile.
    """

    number: int
    cpu_seconds: float
    wall_seconds: float
    cpu_share: float
    late_p99_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TesterUse:
    """Whether the tester itself kept up.

    Attributes:
        processes: Each process.
        lateness: How long after they were due calls were really sent.
        bottleneck: Whether the figures say more of the tester than of the server.
        warnings: Why, and what to do, in words.
    """

    processes: tuple[ProcessUse, ...]
    lateness: Distribution
    bottleneck: bool
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationFigures:
    """What was generated, and when it came.

    Attributes:
        tokens: Tokens of the calls that were answered.
        tokens_per_second: Of answers with OK that *came* in the measured part, by its length.
        first_token: From when a call was due to the first token of each of its texts. None, as the others, of calls
            that were not answered in pieces.
        first_token_service_time: From when it was really sent, of the same tokens.
        between_tokens: Between a piece of a text that brings tokens and the next such piece of it, as the caller saw
            them: what comes together counts once.
    """

    tokens: int
    tokens_per_second: float
    first_token: Distribution | None
    first_token_service_time: Distribution | None
    between_tokens: Distribution | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """What one load did.

    Counts and distributions are of calls that were due in the measured part, after the warm-up.

    Attributes:
        tool_version: Version of Headwaiter.
        started_at: When the measured part began, ISO 8601 in UTC.
        finished: Whether it went to its end; False when it was interrupted, and this is what there was.
        settings: What was asked for.
        measured_seconds: Length of the measured part.
        scheduled: Calls due in it.
        answered: Those answered with OK, however late.
        failed: Those that ended otherwise; `scheduled` is the sum of the two.
        texts: Texts (or rows) of the calls that were answered.
        offered_per_second: Calls due, by the length.
        answered_per_second: Answers with OK that *came* in the measured part, by its length.
        texts_per_second: Their texts, by the length.
        sent_bytes: Messages sent, without gRPC's own framing.
        received_bytes: Messages received.
        latency: From due to answered, of calls answered with OK.
        service_time: From really sent to answered, of the same calls.
        error_latency: From due to the end, of calls that failed.
        errors: Failed calls by code, most first.
        timeline: What happened when.
        outstanding_at_begin: Calls outstanding when the measured part began.
        outstanding_at_end: Calls outstanding when it ended; much more means that the server did not keep up.
        tester: The tester itself.
        server: What the server's own metrics say of the same time, as `breakdown.py` has it; None if not asked.
        left_out: Calls that were under way when the run was interrupted: nothing is known of them, so that they count
            nowhere else, not even in `scheduled`.
        generation: What was generated, and when it came; None of other tasks, and where no call was answered.
    """

    tool_version: str
    started_at: str
    finished: bool
    settings: Settings
    measured_seconds: float
    scheduled: int
    answered: int
    failed: int
    texts: int
    offered_per_second: float
    answered_per_second: float
    texts_per_second: float
    sent_bytes: int
    received_bytes: int
    latency: Distribution
    service_time: Distribution
    error_latency: Distribution
    errors: tuple[ErrorCount, ...]
    timeline: tuple[Moment, ...]
    outstanding_at_begin: int
    outstanding_at_end: int
    tester: TesterUse
    server: dict[str, Any] | None = None
    left_out: int = 0
    generation: GenerationFigures | None = None
    kind: Literal["run"] = "run"
    format_version: int = FORMAT_VERSION

    @property
    def error_ratio(self) -> float:
        """Failed calls by all calls; 0 without calls."""
        return self.failed / self.scheduled if self.scheduled else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What a rate must keep to count as within capacity.

    Attributes:
        p99_seconds: Longest 99th percentile of latency.
        error_ratio: Largest share of failed calls.
        precision: The search ends when the lowest rate that misses is at most so much (a ratio) above the highest
            that meets.
    """

    p99_seconds: float
    error_ratio: float
    precision: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One rate that a capacity search tried.

    Attributes:
        number: From 1.
        phase: Why this rate was tried.
        attempt: 1, or 2 when it is the second try of a rate that missed at first.
        rate: Calls a second that were offered.
        seconds: How long, after the warm-up.
        calls: Calls measured.
        answered_per_second: Calls a second that were answered.
        p50_seconds: Median latency.
        p99_seconds: 99th percentile.
        error_ratio: Share of failed calls.
        backlog_growth: By how many the outstanding calls grew meanwhile.
        cpu_share: Largest CPU share of the tester's processes.
        met: Whether it met the goal.
        reasons: Why not, in words.
    """

    number: int
    phase: Phase
    attempt: int
    rate: float
    seconds: float
    calls: int
    answered_per_second: float
    p50_seconds: float
    p99_seconds: float
    error_ratio: float
    backlog_growth: int
    cpu_share: float
    met: bool
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CapacityResult:
    """What a capacity search found.

    Attributes:
        tool_version: Version of Headwaiter.
        started_at: When it began, ISO 8601 in UTC.
        finished: Whether it went to its end.
        settings: What was asked for; `rate` is None, `seconds` the least length of a step.
        goal: What had to be kept.
        steps: The search, in order.
        capacity_per_second: The highest rate that met the goal; None when none did.
        missed_per_second: The lowest that missed it; None when none did.
        limited_by: What ended the climb.
        best: The run at `capacity_per_second`.
    """

    tool_version: str
    started_at: str
    finished: bool
    settings: Settings
    goal: Goal
    steps: tuple[Step, ...]
    capacity_per_second: float | None
    missed_per_second: float | None
    limited_by: LimitedBy
    best: RunResult | None
    kind: Literal["capacity"] = "capacity"
    format_version: int = FORMAT_VERSION


Result = RunResult | CapacityResult
_KINDS: Final[dict[str, type[RunResult | CapacityResult]]] = {"run": RunResult, "capacity": CapacityResult}


def to_json(result: Result) -> str:
    """The file's text."""
    return json.dumps(asdict(result), indent=1, allow_nan=False) + "\n"


def from_json(text: str) -> Result:
    """A result, from the file's text.

    Raises:
        DecodingError: It is no such file, of another version, or a field is missing, unknown or of a wrong type.
    """
    try:
        value = json.loads(text)
    except ValueError as error:
        raise DecodingError(f"it is no JSON: {error}") from error
    if not isinstance(value, dict) or value.get("kind") not in tuple(_KINDS):
        raise DecodingError(f'it is no result of headwaiter-load: its "kind" is none of {", ".join(_KINDS)}')
    if value.get("format_version") != FORMAT_VERSION:
        raise DecodingError(
            f"its format_version is {value.get('format_version')!r}; this headwaiter-load reads {FORMAT_VERSION}"
        )
    return decoding.decode(_KINDS[value["kind"]], value)


def save(result: Result, path: Path) -> None:
    """Writes the file, whole or not at all."""
    beside = path.with_name(path.name + ".part")
    beside.write_text(to_json(result), encoding="utf-8")
    beside.replace(path)


def load(path: Path) -> Result:
    """Reads the file.

    Raises:
        DecodingError: As of `from_json`; the message names the file.
        OSError: It cannot be read.
    """
    try:
        return from_json(path.read_text(encoding="utf-8"))
    except (DecodingError, UnicodeDecodeError) as error:
        raise DecodingError(f"{path}: {error}") from error
