"""The scheduling policy: pure, so every rule is a table of what waits and what comes out."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from headwaiter_server.errors import DeadlineExceededError
from headwaiter_server.scheduling.calls import DEFAULT_PRIORITY, NO_DEADLINE, Call, Pending, Terms
from headwaiter_server.scheduling.policy import (
    PATIENCE_SECONDS,
    PROMOTION_SECONDS,
    Backlog,
    Budget,
    FairShares,
)
from hypothesis import given
from hypothesis import strategies as st

NOW = 1000.0
EVERYTHING = Budget(rows=10_000, tokens=1_000_000)

Entry = Pending[str, str]


@pytest.fixture(autouse=True)
def event_loop_for_futures() -> Iterator[None]:
    """Futures need a loop to belong to; nothing here runs on it."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield
    asyncio.set_event_loop(None)
    loop.close()


def entry(
    name: str,
    *,
    tokens: int = 1,
    arrived: float = NOW,
    deadline: float = NO_DEADLINE,
    priority: int = DEFAULT_PRIORITY,
    fairness_key: str = "",
) -> Entry:
    future: asyncio.Future[list[str]] = asyncio.get_event_loop_policy().get_event_loop().create_future()
    return Pending(Call(Terms(arrived, deadline, priority, fairness_key), 1, arrived, future), 0, name, tokens)


def backlog(*entries: Entry, shares: FairShares | None = None) -> Backlog:
    queue = Backlog(shares or FairShares())
    for each in entries:
        queue.push(each)
    return queue


def names(entries: list[Any]) -> list[str]:
    return [each.payload for each in entries]


def test_earliest_deadline_goes_first() -> None:
    """Of equal rank, the text whose deadline comes first runs first."""
    queue = backlog(entry("late", deadline=NOW + 9), entry("soon", deadline=NOW + 1), entry("mid", deadline=NOW + 5))
    assert names(queue.take(NOW, EVERYTHING)) == ["soon", "mid", "late"]


def test_equal_deadlines_keep_arrival_order() -> None:
    """Without anything to tell them apart, texts run in the order in which they came."""
    queue = backlog(*(entry(str(number)) for number in range(20)))
    assert names(queue.take(NOW, EVERYTHING)) == [str(number) for number in range(20)]


def test_no_deadline_counts_as_patience() -> None:
    """A text without a deadline stands where one due after its patience would."""
    queue = backlog(
        entry("after", deadline=NOW + PATIENCE_SECONDS + 1),
        entry("patient"),
        entry("before", deadline=NOW + PATIENCE_SECONDS - 1),
    )
    assert names(queue.take(NOW, EVERYTHING)) == ["before", "patient", "after"]


def test_priority_comes_before_deadline() -> None:
    """A higher level runs first even if its deadline is later."""
    queue = backlog(entry("low", priority=5, deadline=NOW + 1), entry("high", priority=1, deadline=NOW + 100))
    assert names(queue.take(NOW, EVERYTHING)) == ["high", "low"]


def test_waiting_promotes_a_level() -> None:
    """A text that has waited for a promotion interval competes one level higher, where its earlier deadline wins."""
    old = entry("old", priority=2, arrived=NOW - PROMOTION_SECONDS)
    queue = backlog(entry("new", priority=1), old)
    assert names(queue.take(NOW, EVERYTHING)) == ["old", "new"]
    queue = backlog(entry("new", priority=1), entry("old", priority=2, arrived=NOW - PROMOTION_SECONDS + 0.1))
    assert names(queue.take(NOW, EVERYTHING)) == ["new", "old"]


def test_least_served_caller_goes_first() -> None:
    """A caller with a hundred texts waiting lets one with a single text through after one of its own."""
    queue = backlog(*(entry(f"heavy{n}", fairness_key="heavy") for n in range(100)))
    assert names(queue.take(NOW, Budget(10, 1000))) == [f"heavy{n}" for n in range(10)]
    queue.push(entry("light0", fairness_key="light"))
    queue.push(entry("light1", fairness_key="light"))
    assert set(names(queue.take(NOW, Budget(4, 1000)))) >= {"light0", "light1"}


def test_shares_count_tokens_not_texts() -> None:
    """A caller of long texts gets fewer of them through than a caller of short ones."""
    queue = backlog(
        *(entry("long", tokens=10, fairness_key="a") for _ in range(50)),
        *(entry("short", tokens=1, fairness_key="b") for _ in range(50)),
    )
    taken = names(queue.take(NOW, Budget(44, 1000)))
    assert taken.count("short") == pytest.approx(10 * taken.count("long"), abs=10)


def test_idle_callers_earn_no_credit() -> None:
    """A caller that comes back after a pause starts level with the others instead of ahead of them."""
    shares = FairShares()
    queue = backlog(*(entry(f"a{n}", fairness_key="a") for n in range(40)), shares=shares)
    queue.take(NOW, Budget(20, 1000))
    for n in range(20):
        queue.push(entry(f"b{n}", fairness_key="b"))
    taken = names(queue.take(NOW, Budget(20, 1000)))
    assert sum(name.startswith("a") for name in taken) == 10


def test_fair_shares_hold_within_a_promoted_level() -> None:
    """Old texts of a heavy caller promote the whole level; they do not overtake the level's other callers."""
    queue = backlog(*(entry(f"heavy{n}", fairness_key="heavy", arrived=NOW - 60) for n in range(100)))
    queue.take(NOW, Budget(10, 1000))
    queue.push(entry("light", fairness_key="light"))
    assert "light" in names(queue.take(NOW, Budget(2, 1000)))


def test_budget_of_tokens_bounds_a_run() -> None:
    """A run stops before the text that would exceed its tokens, which then runs first next time."""
    queue = backlog(entry("a", tokens=60), entry("b", tokens=30), entry("c", tokens=20), entry("d", tokens=1))
    assert names(queue.take(NOW, Budget(8, 100))) == ["a", "b"]
    assert names(queue.take(NOW, Budget(8, 100))) == ["c", "d"]


def test_a_text_over_the_budget_runs_alone() -> None:
    """A text of more tokens than a run may have is not starved and not mixed: it runs by itself."""
    queue = backlog(entry("huge", tokens=500), entry("small", tokens=1))
    assert names(queue.take(NOW, Budget(8, 100))) == ["huge"]
    assert names(queue.take(NOW, Budget(8, 100))) == ["small"]


def test_expired_texts_are_answered_and_dropped() -> None:
    """A text whose deadline has passed is never taken, and its caller is told."""
    expired = entry("expired", deadline=NOW)
    queue = backlog(expired, entry("alive"))
    assert names(queue.take(NOW, EVERYTHING)) == ["alive"]
    assert isinstance(expired.call.future.exception(), DeadlineExceededError)
    assert len(queue) == 0


def test_cancelled_texts_are_dropped() -> None:
    """A text whose caller has gone is never taken."""
    gone = entry("gone")
    queue = backlog(gone, entry("alive"))
    gone.call.future.cancel()
    assert queue.rank(NOW) is not None
    assert names(queue.take(NOW, EVERYTHING)) == ["alive"]


def test_rank_is_none_when_only_the_dead_wait() -> None:
    """A queue of dead texts asks for no worker and is left empty."""
    gone = entry("gone")
    queue = backlog(gone)
    gone.call.future.cancel()
    assert queue.rank(NOW) is None
    assert len(queue) == 0


def test_clear_gives_back_every_entry() -> None:
    """Clearing returns each entry once and leaves nothing to take."""
    queue = backlog(entry("a"), entry("b", priority=1), entry("c", fairness_key="x"))
    assert sorted(names(queue.clear())) == ["a", "b", "c"]
    assert queue.take(NOW, EVERYTHING) == []


def test_old_text_outlives_a_stream_of_urgent_ones() -> None:
    """However many urgent higher-level texts keep coming, an old low-level text is served."""
    queue = backlog(entry("old", priority=8, fairness_key="patient"))
    now, taken = NOW, []
    for number in range(200):
        now += 1.0
        queue.push(entry(f"urgent{number}", priority=1, arrived=now, deadline=now + 1.5, fairness_key="pushy"))
        taken += names(queue.take(now, Budget(1, 100)))
        if "old" in taken:
            break
    assert "old" in taken
    assert now - NOW <= 8 * PROMOTION_SECONDS


@given(
    st.lists(
        st.tuples(
            st.integers(1, 200),
            st.integers(1, 5),
            st.sampled_from(["", "a", "b", "c"]),
            st.one_of(st.just(NO_DEADLINE), st.floats(NOW + 1, NOW + 100)),
        ),
        max_size=60,
    ),
    st.integers(1, 12),
    st.integers(1, 300),
)
def test_every_text_is_taken_exactly_once_within_budget(
    texts: list[tuple[int, int, str, float]], rows: int, tokens: int
) -> None:
    """For any mix of texts and any budget: nothing is lost, nothing comes twice, no run exceeds its budget."""
    loop = asyncio.new_event_loop()
    queue = Backlog(FairShares())
    for number, (cost, priority, key, deadline) in enumerate(texts):
        terms = Terms(NOW, deadline, priority, key)
        queue.push(Pending(Call(terms, 1, NOW, loop.create_future()), 0, number, cost))
    seen: list[int] = []
    while run := queue.take(NOW, Budget(rows, tokens)):
        assert len(run) <= rows
        assert len(run) == 1 or sum(each.cost_tokens for each in run) <= tokens
        seen += [each.payload for each in run]
    loop.close()
    assert sorted(seen) == list(range(len(texts)))
