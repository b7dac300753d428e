"""One client floods a server without deadlines, up to all places that it may have: none of the others is refused.

It says that it is one of them; their tokens tell them apart.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from reliability.open_loop import REFUSED
from reliability.shares import Beside, Pace, send, serving, with_tokens

_CALLS = 32
# Five times the long form's, and rates a fifth of its: what it takes to send a call does not count, on any machine. The
# others call little, so that nothing but the flood is why anybody would be refused.
_RUN_SECONDS = 0.1
_PACE = Pace(other_rate=1.0, flood_rate=100.0, deadline_seconds=10.0, lead_seconds=10.0)


@pytest.fixture(scope="module")
def beside() -> Iterator[Beside]:
    """Two clients beside one that takes all places that it can get."""
    others, flood = with_tokens()
    weights = dict.fromkeys([each.name for each in (*others, flood)], 1.0)
    with serving("--max-calls", str(_CALLS), weights=weights, run_seconds=_RUN_SECONDS) as server:
        yield send(server, others[:2], [flood], 6.0, flood_deadline=None, pace=_PACE)


def test_others_are_all_answered(beside: Beside) -> None:
    """No place, and no turn, is taken from them."""
    assert len(beside.others) > 5
    assert [each.code for each in beside.others if not each.good] == []


def test_flood_is_what_is_refused(beside: Beside) -> None:
    """It has what the others leave, and is refused the rest."""
    (flood,) = beside.flood
    codes = [each.code for each in flood]
    assert codes.count("OK") > _CALLS
    assert codes.count(REFUSED) > len(codes) / 2
    assert len(codes) == codes.count("OK") + codes.count(REFUSED)
