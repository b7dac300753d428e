"""Fair shares: what each caller was served while it waits."""

from __future__ import annotations

import pytest
from headwaiter_server.scheduling.shares import FairShares


def test_newcomers_start_level_with_the_least_served() -> None:
    """Whoever comes has neither a lead over those who wait nor anything to make up for."""
    shares = FairShares()
    for key in ("much", "little", "much", "little"):
        shares.enter(key)
    shares.leave("much", 50)
    shares.leave("little", 20)
    assert shares.served("new") == 20
    shares.enter("new")
    assert (shares.served("much"), shares.served("little"), shares.served("new")) == (50, 20, 20)


def test_charges_count_like_tokens_of_entries() -> None:
    """What is charged beside the entries moves a caller back as far as they do."""
    shares = FairShares()
    shares.enter("a")
    shares.enter("b")
    shares.charge("a", 30)
    assert (shares.served("a"), shares.served("b")) == (30, 0)
    shares.charge("b", 40)
    shares.enter("c")
    assert shares.served("c") == 30


def test_who_does_not_wait_is_not_charged() -> None:
    """A caller with nothing waiting is not remembered, and begins level with the others when it comes back."""
    shares = FairShares()
    shares.charge("nobody", 100)
    shares.enter("other")
    shares.enter("gone")
    shares.leave("gone", 5)
    shares.charge("gone", 100)
    assert shares.served("nobody") == shares.served("gone") == 0


def test_caller_with_a_short_queue_goes_on_from_where_it_was() -> None:
    """Who has nothing waiting for a moment is not new for its next text: its weight counts, however it sends."""
    shares, served = FairShares(), {"queue": 0, "one by one": 0}
    shares.enter("queue", 10)
    for _ in range(400):
        shares.enter("one by one", 10, 0.5)
        key = min(served, key=shares.served)
        if key == "queue":
            shares.enter(key, 10)
        shares.leave(key, 10, 0.5 if key == "one by one" else 1.0)
        served[key] += 10
        if key == "queue":
            shares.leave("one by one", 0)
    assert served["queue"] / served["one by one"] == pytest.approx(2, rel=0.1)


def test_newcomer_has_a_lead_of_a_few_texts() -> None:
    """What comes at once from somebody who was away is served before a flood goes on; then they take turns."""
    shares = FairShares()
    for _ in range(20):
        shares.enter("flood", 10)
    for _ in range(10):
        shares.leave("flood", 10)
    order = []
    for _ in range(8):
        shares.enter("rare", 10)
    for _ in range(10):
        key = min(("flood", "rare"), key=lambda key: (shares.served(key), key))
        shares.leave(key, 10)
        order.append(key)
    assert order[:4] == ["rare"] * 4
    assert sorted(order[4:8]) == ["flood", "flood", "rare", "rare"]


def test_of_many_newcomers_few_have_a_lead() -> None:
    """However many new names come at once, most of them start level with who waits."""
    shares = FairShares()
    for _ in range(20):
        shares.enter("old", 10)
    for _ in range(10):
        shares.leave("old", 10)
    for number in range(100):
        shares.enter(f"new {number}", 10)
    assert sum(shares.served(f"new {number}") < shares.served("old") for number in range(100)) == 16


def test_priority_leaves_no_debt() -> None:
    """What somebody was served by its priority, before others of fewer tokens, is not held against it later."""
    shares = FairShares()
    shares.enter("low", 10)
    for _ in range(100):
        shares.enter("high", 10)
    for _ in range(100):
        shares.leave("high", 10)
    shares.enter("high", 10)
    assert shares.served("high") <= 10


def test_callers_that_have_gone_are_forgotten() -> None:
    """Names come and go, and the tables stay small; when nobody waits, they are empty."""
    shares = FairShares()
    shares.enter("stays", 10)
    for number in range(10_000):
        shares.enter(f"goes {number}", 10)
        shares.leave(f"goes {number}", 10)
    assert len(shares._gone) <= 1024
    shares.leave("stays", 10)
    assert not shares._gone
    assert not shares._served


def test_callers_that_have_gone_are_looked_through_seldom() -> None:
    """Also where nearly all that are remembered matter, most that go find room: none has its call pay for a search."""
    shares = FairShares()
    shares.enter("stays", 10)
    for number in range(1023):
        shares.enter(f"served {number}", 10)
    for number in range(1023):
        shares.leave(f"served {number}", 100)
    for name in ("fills", "overflows"):
        shares.enter(name, 10)
        shares.leave(name, 0)
    assert len(shares._gone) <= 512


def test_leaving_without_having_entered_is_nothing() -> None:
    """A key that is not known is no reason to fail those who wait."""
    FairShares().leave("nobody", 3)


def test_twice_the_weight_is_served_twice_as_much() -> None:
    """Of callers that always have something waiting, each is served by its weight, whatever its texts cost."""
    shares, served = FairShares(), {"heavy": 0, "light": 0, "large": 0}
    weights, costs = {"heavy": 2.0, "light": 1.0, "large": 0.5}, {"heavy": 5, "light": 5, "large": 20}
    for key in served:
        shares.enter(key)
    for _ in range(700):
        key = min(served, key=shares.served)
        shares.enter(key)
        shares.leave(key, costs[key], weights[key])
        served[key] += costs[key]
    assert served["heavy"] / served["light"] == pytest.approx(2, rel=0.03)
    assert served["light"] / served["large"] == pytest.approx(2, rel=0.03)


def test_generated_tokens_count_by_weight_too() -> None:
    """What is charged beside the entries is divided likewise."""
    shares = FairShares()
    shares.enter("a")
    shares.charge("a", 30, 3.0)
    assert shares.served("a") == 10
