"""Which products become int8, and which stay fp32 because too much hangs on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from headwaiter_export.progress import Progress
from headwaiter_export.quantization.bounds import Bounds
from headwaiter_export.quantization.judge import Quality
from headwaiter_export.quantization.products import Site
from headwaiter_export.quantization.rewrite import Plan

# Below this share of the work nothing is gained: a classifier's last layer, a pooler that sees one row a text.
_SMALLEST_SHARE: Final = 0.002
# Beyond it the variant would not be worth having.
LARGEST_FP32_SHARE: Final = 0.25
# Other texts are judged in the end; what is chosen here must not sit on the edge.
_RESERVE: Final = 0.25

Plans = Mapping[Site, Plan]


@dataclass(frozen=True)
class Choice:
    """What was chosen, and why.

    Attributes:
        plans: The sites to quantize.
        reason: For people.
    """

    plans: dict[Site, Plan]
    reason: str


def worthwhile(work: Mapping[Site, int]) -> set[Site]:
    """The sites that take a share of the work; `work` is multiplications on the texts seen."""
    total = sum(work.values())
    return {site for site, own in work.items() if own >= _SMALLEST_SHARE * total}


def choose(
    plans: Plans,
    work: Mapping[Site, int],
    bounds: Bounds,
    judge: Callable[[Plans], Quality],
    progress: Progress,
) -> Choice:
    """Quantize everything, and take back what hurts most for its work until the bounds are met.

    Work is counted, not timed, so that the choice comes out the same on a busy machine.

    Args:
        plans: Every site that could be quantized.
        work: Multiplications of each site, of the whole graph.
        bounds: What to reach, with a reserve.
        judge: Quality with just these sites quantized, on texts to choose on.
        progress: Told about every trial.
    """
    chosen = dict(plans)
    progress.stage("int8: choose")
    quality = judge(chosen)
    if bounds.met_by(quality, _RESERVE):
        return Choice(chosen, "int8: every large product, because that is good enough")
    progress.stage("int8: choose what stays fp32", len(plans))
    gains: dict[Site, float] = {}
    for site in plans:
        without = judge({other: plan for other, plan in plans.items() if other != site})
        gains[site] = (without.mean_cosine - quality.mean_cosine) / work[site]
        progress.advance()
    most = LARGEST_FP32_SHARE * sum(work.values())
    spent = 0
    for site in sorted(plans, key=lambda each: gains[each], reverse=True):
        if gains[site] <= 0 or spent + work[site] > most:
            continue
        del chosen[site]
        spent += work[site]
        if bounds.met_by(judge(chosen), _RESERVE):
            return Choice(chosen, f"int8: {len(plans) - len(chosen)} of {len(plans)} inputs stay fp32 for quality")
    return Choice(chosen, f"int8: as much as may stays fp32, {spent / sum(work.values()):.0%} of the work")
