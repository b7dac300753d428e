"""One request in a hundred makes every run fail that it is in: nobody but its caller notices."""

from __future__ import annotations

from pathlib import Path

import pytest
from reliability.poison import KINDS, poison
from reliability.poison_models import write_models


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_models(tmp_path_factory.mktemp("poison"))


@pytest.mark.parametrize(("kind", "count"), [("texts", 2000), ("tensors, refused", 600), ("tensors, passed on", 1200)])
def test_healthy_requests_get_their_own_answers(repository: Path, kind: str, count: int) -> None:
    """And poisoned ones what they should: an error with an id of its own, the field, or the answer to what they are."""
    assert kind in KINDS
    tally = poison(repository, kind, count)
    assert tally.healthy + tally.poisoned == count
    assert (tally.wrong, tally.unlike, tally.reused_ids) == (0, 0, 0), tally.examples
    assert tally.poisoned > 0
    assert tally.shared > tally.healthy / 2
