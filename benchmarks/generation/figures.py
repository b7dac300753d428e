"""Names of what is measured."""

from __future__ import annotations

from enum import StrEnum

# What one turn of every candidate measured, by name.
Round = dict[str, float]


class Workload(StrEnum):
    """What is generated."""

    DECODER = "decoder"
    PRONOUNCE = "pronounce"


class Candidate(StrEnum):
    """Who is measured."""

    ALONE = "PyTorch, one at a time"
    BATCHES = "PyTorch, batches of 32"
    FIFO = "Headwaiter, static batches"
    CTRANSLATE = "CTranslate2"
    AUTO = "Headwaiter"
    IDEAL = "Headwaiter's engine, offline"
    CTRANSLATE_INT8 = "CTranslate2, int8"
    AUTO_INT8 = "Headwaiter, int8"


class Load(StrEnum):
    """How it is measured."""

    OFFLINE = "all there from the beginning"
    CLOSED = "64 calls outstanding"
    STREAMED = "64 streams outstanding"
    RIVAL_HALF = "50 % of CTranslate2's tokens/s"
    RIVAL_HIGH = "80 % of CTranslate2's tokens/s"
    OWN_HALF = "50 % of Headwaiter's tokens/s"
    OWN_HIGH = "80 % of Headwaiter's tokens/s"
    NEWCOMERS = "newcomers among 32 long texts"


class Quantity(StrEnum):
    """What is measured."""

    TOKENS = "tokens/s"
    CPU = "CPU s/1000 tokens"
    FIRST_P50 = "first token p50 ms"
    FIRST_P99 = "first token p99 ms"
    BETWEEN_P50 = "between tokens p50 ms"
    BETWEEN_P99 = "between tokens p99 ms"
    CALL_P50 = "whole call p50 s"
    CALL_P99 = "whole call p99 s"
    REFUSED = "refused %"
    LAG = "generator's lag p99 ms"
    # Of the engine's steps.
    ITERATION = "iteration ms"
    ROWS = "rows a step"
    PREFILL = "prompt tokens a step"
    PYTHON = "Python's share %"
    PYTHON_MS = "Python ms"
    COPIED = "copied bytes a step"
    WRITES = "writes, CPU ms/token"
    # Of newcomers.
    STEP = "step ms"
    WAIT_P50 = "wait p50, steps"
    WAIT_P90 = "wait p90, steps"


def figure(candidate: Candidate, workload: Workload, load: Load, quantity: Quantity) -> str:
    """Name of one figure."""
    return f"{candidate} | {workload} | {load} | {quantity}"
