"""Fair shares: what each caller was served while it waits."""

from __future__ import annotations

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


def test_leaving_without_having_entered_is_nothing() -> None:
    """A key that is not known is no reason to fail those who wait."""
    FairShares().leave("nobody", 3)
