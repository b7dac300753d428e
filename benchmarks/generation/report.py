"""The section of docs/benchmarks.md: what was measured, as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.encoders.report import Spread, aims_table, candidates_table, spreads
from benchmarks.generation.aims import aims
from benchmarks.generation.figures import Load, Quantity, Round, Workload

_CLOSED_COLUMNS = (Quantity.TOKENS, Quantity.CPU)
_LATENCY_COLUMNS = (
    Quantity.FIRST_P50,
    Quantity.FIRST_P99,
    Quantity.BETWEEN_P50,
    Quantity.BETWEEN_P99,
    Quantity.CALL_P50,
    Quantity.CALL_P99,
)
_STEP_COLUMNS = (
    Quantity.ITERATION,
    Quantity.ROWS,
    Quantity.PREFILL,
    Quantity.PYTHON,
    Quantity.PYTHON_MS,
    Quantity.COPIED,
)
_NEWCOMER_COLUMNS = (Quantity.STEP, Quantity.WAIT_P50, Quantity.WAIT_P90)
_OPEN = {Load.RIVAL_HALF, Load.RIVAL_HIGH, Load.OWN_HALF, Load.OWN_HIGH}


def markdown(
    rounds: Sequence[Round],
    conditions: str,
    chosen: Sequence[str],
    agreements: Mapping[str, float],
    contexts: Mapping[str, Mapping[str, float]],
) -> str:
    """The section.

    Args:
        rounds: What was measured.
        conditions: Machine, versions, rounds.
        chosen: How the rivals were set up.
        agreements: Which share of the answers is PyTorch's own, by server.
        contexts: A step by the length of its texts, as `contexts` measures it.
    """
    figures = spreads(rounds)
    parts = [conditions, aims_table(aims(), rounds)]
    for workload in Workload:
        closed = {name: each for name, each in figures.items() if _load(name) not in _OPEN}
        parts += [f"**{workload}**", candidates_table(closed, workload, (*_CLOSED_COLUMNS, *_LATENCY_COLUMNS))]
        opened = {name: each for name, each in figures.items() if _load(name) in _OPEN}
        if table := candidates_table(opened, workload, (*_LATENCY_COLUMNS, Quantity.REFUSED, Quantity.LAG)):
            parts += [f"**{workload}**, calls at random times", table]
        parts += [f"**{workload}**, the engine's steps", candidates_table(figures, workload, _STEP_COLUMNS)]
        for columns in (_NEWCOMER_COLUMNS, (Quantity.WRITES,)):
            if table := candidates_table(figures, workload, columns):
                parts.append(table)
    parts += ["**decoder**, a step of 16 rows by what they have read", contexts_table(contexts)]
    same = [f"- {name}: {100 * share:.0f} %" for name, share in agreements.items()]
    parts += ["Answers with the very tokens that PyTorch writes:\n\n" + "\n".join(same)]
    parts += ["Set up as:\n\n" + "\n".join(f"- {each}" for each in chosen)]
    return "\n\n".join(parts)


def contexts_table(contexts: Mapping[str, Mapping[str, float]]) -> str:
    """A step by the length of its texts."""
    lines = ["| tokens in each row | step ms | kept MiB | copied bytes a step |", "|---:|---:|---:|---:|"]
    lines += [
        f"| {context} | {1000 * each['step_seconds']:.1f} | {each['kept_bytes'] / 2**20:.0f} "
        f"| {each['copied_bytes']:.0f} |"
        for context, each in contexts.items()
    ]
    return "\n".join(lines)


def listing(figures: Mapping[str, Spread]) -> str:
    """All figures, for the terminal."""
    return "\n".join(f"{name:90} {each}" for name, each in figures.items())


def _load(name: str) -> str:
    return name.split(" | ")[2]
