"""What is chosen once before the rounds, so that every rival takes part at its best: budgets, threads, pools."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.progress import Progress

from benchmarks.encoders.candidates import Bundles, PoolChoice, afternoon_server, pool_choices
from benchmarks.encoders.figures import CLOSED, WORKLOADS, Load
from benchmarks.servers import run_json


@dataclass(frozen=True)
class Effort:
    """How much is measured.

    Attributes:
        workloads: Which.
        counts: Texts of each workload in one measurement.
        limit_seconds: When a slow candidate stops taking further texts.
        open_seconds: Length of an open loop.
        search_seconds: For each choice that is tried, in each pass.
        search_passes: How often each of the offline ideal's rules is tried.
        own_cost_calls: Calls to the null model and the echo.
        budgets: Tokens a run that are tried for the offline ideal.
        quick: Whether this is to show that everything works, rather than to measure.
    """

    workloads: tuple[str, ...]
    counts: dict[str, int]
    limit_seconds: float
    open_seconds: float
    search_seconds: float
    search_passes: int
    own_cost_calls: int
    budgets: tuple[int, ...]
    quick: bool


FULL = Effort(
    workloads=WORKLOADS,
    counts={"short": 960, "mixed": 360, "uniform": 480},
    limit_seconds=5.0,
    open_seconds=6.0,
    search_seconds=1.5,
    search_passes=2,
    own_cost_calls=6000,
    budgets=(48, 64, 96, 128, 192, 256),
    quick=False,
)
QUICK = Effort(
    workloads=("short", "mixed"),
    counts={"short": 256, "mixed": 96, "uniform": 96},
    limit_seconds=1.5,
    open_seconds=2.0,
    search_seconds=0.5,
    search_passes=1,
    own_cost_calls=2000,
    budgets=(64, 128),
    quick=True,
)


def best_rules(bundle: Path, variant: str, texts: Path, workload: str, effort: Effort) -> list[str]:
    """Batching rules of the offline ideal, the fastest first."""
    rules = ["rows:1", *(f"tokens:{budget}" for budget in effort.budgets)]
    speeds = dict.fromkeys(rules, 0.0)
    for order in range(effort.search_passes):
        figures = run_json(
            "benchmarks.encoders.offline", "side-by-side", bundle, "--variant", variant, "--texts", texts,
            "--workload", workload, "--order", order, "--limit-seconds", effort.search_seconds, "--rules", *rules,
        )  # fmt: skip
        for rule in rules:
            speeds[rule] += figures[rule]["texts_per_second"]
    return sorted(rules, key=lambda rule: -speeds[rule])


def best_pools(bundles: Bundles, texts: Path, effort: Effort, progress: Progress) -> dict[str, PoolChoice]:
    """The afternoon's server at its fastest, for each workload by itself."""
    outstanding, _ = CLOSED[Load.MANY]
    best: dict[str, tuple[float, PoolChoice]] = {}
    for choice in progress.track(pool_choices(quick=effort.quick), description="the afternoon's server"):
        with afternoon_server(bundles, choice) as server:
            for workload in effort.workloads:
                figures = run_json(
                    "benchmarks.encoders.load", "closed", server.target, "--texts", texts, "--workload", workload,
                    "--count", effort.counts[workload], "--outstanding", outstanding,
                    "--limit-seconds", effort.search_seconds,
                )  # fmt: skip
                speed = figures["texts_per_second"]
                if workload not in best or speed > best[workload][0]:
                    best[workload] = (speed, choice)
    return {workload: choice for workload, (_, choice) in best.items()}
