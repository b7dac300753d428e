"""Kill -9, in a short form: clients of two replicas see nothing of it, and nothing is left behind."""

from __future__ import annotations

from pathlib import Path

from unit.server.test_load_encoder import Made

from .cancels_calls import EMBEDDER, GENERATOR
from .kills import kill_at_random
from .kills_killer import MOMENTS

# One while it serves, one while it tries its models, one while it swaps one.
KILLS = 3


async def test_kills_fail_no_call_and_leave_nothing_behind(tmp_path: Path, models_dir: Path) -> None:
    """Each replica comes back at its addresses; its children die with it, and its files are in nobody's way."""
    made = Made(tmp_path / "made")
    made.write()
    result = await kill_at_random(
        tmp_path,
        made.folder,
        models_dir / "pronounce",
        {EMBEDDER: ["w1", "w2 w3", "w4 w5 w6"], GENERATOR: ["headwaiter", "soup"]},
        kills=KILLS,
        calls_per_second=30,
        reconnect_ms=(100, 200),
        life_seconds=0.3,
        baselines=0,
        flags=("--lame-duck-seconds", "0", "--calibration", "off"),
        seed=1,
    )
    assert result.problems == []
    assert result.litter == []
    assert result.calls
    assert result.kills.total() >= KILLS
    assert set(result.kills) <= set(MOMENTS)
