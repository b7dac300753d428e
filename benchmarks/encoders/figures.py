"""Names of what is measured."""

from __future__ import annotations

from enum import StrEnum

# What one turn of every candidate measured, by name.
Round = dict[str, float]

WORKLOADS = ("short", "mixed", "uniform")
# Of figures that belong to no workload or load.
ANY = "any"


class Candidate(StrEnum):
    """Who is measured."""

    IDEAL = "offline ideal"
    IDEAL_INT8 = "offline ideal int8"
    SORTED_PACKED = "offline, packed, sorted"
    SORTED_PADDED = "offline, padded, sorted"
    UNBATCHED = "offline, no batching"
    BATCHES_OF_32 = "offline, padded batches of 32"
    BARE = "bare onnxruntime"
    AUTO = "packed auto"
    AUTO_INT8 = "packed auto int8"
    FIFO = "padded fifo"
    NONE = "padded none"
    AFTERNOON = "afternoon's server"
    NULL = "null model"
    ECHO = "grpc.aio echo"


class Load(StrEnum):
    """How it is measured: calls outstanding x texts a call, streams of as many texts, or calls at random times."""

    OFFLINE = "offline"
    ALONE = "1 x 1"
    FEW = "16 x 1"
    MANY = "64 x 1"
    CROWD = "512 x 1"
    BULK = "8 x 32"
    STREAMS = "8 streams"
    # The same as MANY once more, right before the loads that are set by it: a shared machine's speed drifts.
    CAPACITY = "64 x 1, capacity"
    HALF = "at 50 % of capacity"
    HIGH = "at 80 % of capacity"
    OVERLOAD = "at 200 % of capacity"


# Calls outstanding, and texts in each; of streams, each of which has one message unanswered, texts in that.
CLOSED = {
    Load.ALONE: (1, 1),
    Load.FEW: (16, 1),
    Load.MANY: (64, 1),
    Load.CAPACITY: (64, 1),
    Load.CROWD: (512, 1),
    Load.BULK: (8, 32),
    Load.STREAMS: (8, 32),
}


class Quantity(StrEnum):
    """What is measured."""

    THROUGHPUT = "texts/s"
    CPU = "CPU s/1000 texts"
    P50 = "p50 ms"
    P99 = "p99 ms"
    CALLS = "calls/s"
    OFFERED = "offered texts/s"
    GOODPUT = "goodput texts/s"
    REFUSED = "refused %"
    LATE = "late %"
    LAG = "generator's lag p99 ms"
    ALLOWED = "1.1 x p50 + 1 ms"
    RESIDENT = "resident MiB"


def figure(candidate: Candidate, workload: str, load: str, quantity: Quantity) -> str:
    """Name of one figure."""
    return f"{candidate} | {workload} | {load} | {quantity}"
