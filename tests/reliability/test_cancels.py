"""Deadlines and cancellation, in a short form: calls given up at random points leave nothing and change nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from unit.server.test_load_encoder import Made

from .cancels import figures, give_up
from .cancels_calls import EMBEDDER, GENERATOR, KINDS
from .cancels_chaos import CANCEL, DEADLINE, DROP

CANCELS = 1000
# So that a run of a model that small is long enough to be given up in it.
RUN_SECONDS = 0.004


@pytest.fixture
def repository(tmp_path: Path, models_dir: Path) -> Path:
    """A small encoder, and the pronounce model."""
    folder = tmp_path / "models"
    Made(folder / EMBEDDER).write()
    (folder / GENERATOR).symlink_to((models_dir / "pronounce").resolve())
    return folder


async def test_calls_given_up_leave_nothing_and_change_nothing(repository: Path, tmp_path: Path) -> None:
    """A thousand, in every way, of every kind: nothing is held or left, mates get golden answers, no dead text runs."""
    texts = {
        EMBEDDER: [" ".join(f"w{1 + (start + step) % 14}" for step in range(1 + start)) for start in range(14)],
        GENERATOR: ["headwaiter", "soup", "a", "restaurant", "queue", "thorough"],
    }
    result = await give_up(repository, tmp_path / "kept", texts, cancels=CANCELS, run_seconds=RUN_SECONDS, seed=1)
    assert result.seen.problems == []
    assert result.left == {}
    assert result.before == result.after
    assert {way for way, _ in result.seen.given_up} == {CANCEL, DEADLINE, DROP}
    assert {kind for _, kind in result.seen.given_up} == {kind.name for kind in KINDS}
    assert {"while it waited", "while it ran"} <= set(result.watch.points)
    assert [figure.name for figure in figures(result) if figure.reached is False and figure.unit != "s"] == []
