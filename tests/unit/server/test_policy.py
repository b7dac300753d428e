"""The scheduling policy: pure, so every rule is a table of what waits and what comes out."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from headwaiter_server.batching.likeness import LikeLength
from headwaiter_server.errors import DeadlineExceededError
from headwaiter_server.scheduling.calls import DEFAULT_PRIORITY, NO_DEADLINE, Call, Pending, Terms
from headwaiter_server.scheduling.policy import (
    PATIENCE_SECONDS,
    PROMOTION_SECONDS,
    Backlog,
    Budget,
)
from headwaiter_server.scheduling.shares import FairShares
from hypothesis import given
from hypothesis import strategies as st

NOW = 1000.0
EVERYTHING = Budget(rows=10_000, tokens=1_000_000)
OURS = {Backlog.__module__, FairShares.__module__}

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
    """A text without a deadline, or with a later one, stands where one due after its patience would."""
    queue = backlog(
        entry("patient"),
        entry("generous", deadline=NOW + PATIENCE_SECONDS + 1),
        entry("before", deadline=NOW + PATIENCE_SECONDS - 1),
    )
    assert names(queue.take(NOW, EVERYTHING)) == ["before", "patient", "generous"]


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


def names_of_b(taken: list[str]) -> int:
    return sum(name.startswith("b") for name in taken)


def test_idle_callers_earn_no_credit() -> None:
    """A caller that comes back after a pause has a newcomer's lead of four texts, however long it was away."""
    shares = FairShares()
    queue = backlog(*(entry(f"a{n}", fairness_key="a") for n in range(40)), shares=shares)
    queue.take(NOW, Budget(20, 1000))
    for n in range(20):
        queue.push(entry(f"b{n}", fairness_key="b"))
    taken = names(queue.take(NOW, Budget(20, 1000)))
    assert names_of_b(taken[:4]) == 4
    assert names_of_b(taken[4:]) == 8


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


def test_old_text_lifts_no_newcomer_over_a_higher_level() -> None:
    """A low text that has waited long goes first; the fresh ones of its level stay behind the higher level."""
    for key in ("", "another"):
        queue = backlog(
            *(entry(f"old{n}", priority=16, arrived=NOW - 100, deadline=NOW + 3600) for n in range(2)),
            *(entry(f"fresh{n}", priority=16, deadline=NOW + 1, fairness_key=key) for n in range(5)),
            *(entry(f"urgent{n}", priority=1) for n in range(5)),
        )
        taken = names(queue.take(NOW, EVERYTHING))
        assert taken[:7] == ["old0", "old1", *(f"urgent{n}" for n in range(5))]
        assert len(taken) == 12


def test_rank_of_a_newcomer_is_its_own_level() -> None:
    """Towards other models too, an old text lifts nobody but itself."""
    shares = FairShares()
    shares.enter("unserved")  # elsewhere
    queue = backlog(*(entry("heavy", fairness_key="heavy", arrived=NOW - 60) for _ in range(3)), shares=shares)
    assert queue.rank(NOW) == (DEFAULT_PRIORITY - 12, 0.0, NOW - 60 + PATIENCE_SECONDS, 1)
    queue.take(NOW, Budget(1, 1000))
    queue.push(entry("light", fairness_key="light"))
    assert queue.rank(NOW) == (DEFAULT_PRIORITY, 0.0, NOW + PATIENCE_SECONDS, 4)


def test_fair_shares_hold_among_those_who_compete_by_promotion() -> None:
    """Where another level stands between, the old texts of a level's callers still share by what each was served."""
    queue = backlog(
        *(entry(f"heavy{n}", fairness_key="heavy", arrived=NOW - 60) for n in range(20)),
        *(entry(f"light{n}", fairness_key="light", arrived=NOW - 30) for n in range(5)),
        entry("fresh", fairness_key="light"),
        entry("urgent", priority=1),
    )
    taken = names(queue.take(NOW, Budget(10, 1000)))
    assert sum(name.startswith("light") for name in taken) == 5
    assert names(queue.take(NOW, EVERYTHING))[-2:] == ["urgent", "fresh"]


def test_heavy_caller_overtakes_no_light_one_when_no_level_stands_between() -> None:
    """The promoted backlog of one caller takes turns with the fresh texts of another, whatever waits further down."""
    queue = backlog(
        *(entry(f"heavy{n}", fairness_key="heavy", arrived=NOW - 60) for n in range(100)),
        *(entry(f"light{n}", fairness_key="light") for n in range(5)),
        entry("below", priority=9, fairness_key="below"),
    )
    taken = names(queue.take(NOW, Budget(10, 1000)))
    assert {f"light{n}" for n in range(5)} <= set(taken)
    assert "below" not in taken


def test_long_deadline_stands_no_further_back_than_none() -> None:
    """A generous deadline does not let a stream of impatient newcomers overtake for as long as it allows."""
    queue = backlog(entry("generous", deadline=NOW + 3600))
    now, taken = NOW, []
    while "generous" not in taken:
        now += 1.0
        queue.push(entry("hasty", arrived=now, deadline=now + 5))
        taken += names(queue.take(now, Budget(1, 1000)))
        assert now <= NOW + PATIENCE_SECONDS + 2


@pytest.mark.parametrize("priority", [1, 4, 16])
def test_nobody_starves_behind_any_level(priority: int) -> None:
    """Whatever its level and deadline, a text is taken though every level above it is kept full."""
    queue = backlog(entry("old", priority=priority, deadline=NOW + 3600, fairness_key="old"))
    now, taken = NOW, []
    while "old" not in taken:
        now += 1.0
        for level in range(1, priority + 1):
            queue.push(entry("new", priority=level, arrived=now, deadline=now + 1.5, fairness_key=str(level)))
        taken += names(queue.take(now, Budget(1, 100)))
        assert now <= NOW + (priority + 1) * PROMOTION_SECONDS + PATIENCE_SECONDS


class Even:
    """A run that takes what costs an even number of tokens, up to some; and notes who asked to join it."""

    def __init__(self, most: int = 1000, *, broken: bool = False) -> None:
        self.most, self.broken = most, broken
        self.asked: list[str] = []
        self.joined = 0

    @property
    def full(self) -> bool:
        return self.joined == self.most

    def join(self, candidate: Entry) -> bool:
        self.asked.append(candidate.payload)
        if self.broken and self.joined:
            raise ZeroDivisionError
        if candidate.cost_tokens % 2:
            return False
        self.joined += 1
        return True


def test_who_does_not_suit_a_run_is_passed_over_and_keeps_its_place() -> None:
    """A choosy run takes those that suit it, in order; the others are the next run's, in the order they had."""
    queue = backlog(*(entry(str(number), tokens=number, fairness_key=str(number % 3)) for number in range(2, 12)))
    assert sorted(names(queue.take(NOW, EVERYTHING, Even())), key=int) == ["2", "4", "6", "8", "10"]
    assert len(queue) == 5
    assert queue.waiting_tokens == 3 + 5 + 7 + 9 + 11
    assert sorted(names(queue.take(NOW, EVERYTHING)), key=int) == ["3", "5", "7", "9", "11"]
    assert (len(queue), queue.waiting_tokens, queue.rank(NOW)) == (0, 0, None)


def test_passing_over_again_and_again_leaves_no_trail() -> None:
    """Texts that no run wants stay in their order, once each, however often they are passed over."""
    queue = backlog(*(entry(str(number), tokens=1, arrived=NOW - number) for number in range(20)))
    size = deep_size(queue)
    for _ in range(50):
        assert queue.take(NOW, EVERYTHING, Even()) == []
    assert deep_size(queue) <= size + 10
    # Oldest first, as the policy has it for patience that ends sooner.
    assert names(queue.take(NOW, EVERYTHING)) == [str(number) for number in reversed(range(20))]


def test_passing_over_looks_at_other_levels_too() -> None:
    """If nobody of the first level suits a run, those of the next are asked, and a level is not forgotten for it."""
    queue = backlog(entry("high", tokens=1, priority=1), entry("low", tokens=2, priority=9))
    assert names(queue.take(NOW, EVERYTHING, Even())) == ["low"]
    assert names(queue.take(NOW, EVERYTHING, Even())) == []
    assert names(queue.take(NOW, EVERYTHING)) == ["high"]


def test_full_run_asks_nobody_any_more() -> None:
    """Once a run is full, nobody else is looked at."""
    queue = backlog(*(entry(str(number), tokens=2) for number in range(50)))
    mates = Even(most=3)
    assert names(queue.take(NOW, EVERYTHING, mates)) == mates.asked == ["0", "1", "2"]


def test_search_for_mates_is_bounded() -> None:
    """However many wait, a run passes over a bounded number of them."""
    queue = backlog(*(entry(str(number), tokens=1) for number in range(10_000)))
    mates = Even()
    assert queue.take(NOW, EVERYTHING, mates) == []
    assert len(mates.asked) < 100
    assert len(queue) == 10_000


def test_whoever_was_chosen_is_found_though_choosing_broke() -> None:
    """If choosing raises half-way, those already chosen can still be answered."""
    queue = backlog(*(entry(str(number), tokens=2) for number in range(4)))
    with pytest.raises(ZeroDivisionError):
        queue.take(NOW, EVERYTHING, Even(broken=True))
    assert sorted(names(queue.clear())) == ["0", "1", "2", "3"]


@given(
    st.lists(st.tuples(st.integers(1, 20), st.integers(1, 3), st.sampled_from("abc")), max_size=60),
    st.integers(1, 60),
)
def test_choosy_runs_lose_nobody(texts: list[tuple[int, int, str]], tokens: int) -> None:
    """For any mix of texts, runs of like length take every text exactly once, and the first is the policy's."""
    loop = asyncio.new_event_loop()
    queue = Backlog(FairShares())
    for number, (cost, priority, key) in enumerate(texts):
        queue.push(Pending(Call(Terms(NOW, NO_DEADLINE, priority, key), 1, NOW, loop.create_future()), 0, number, cost))
    seen: list[int] = []
    while (rank := queue.rank(NOW)) is not None:
        run = queue.take(NOW, EVERYTHING, LikeLength(tokens, 4))
        assert run[0].order == rank[-1]
        longest = max(each.cost_tokens for each in run)
        assert len(run) == 1 or len(run) * longest <= tokens
        seen += [each.payload for each in run]
    loop.close()
    assert sorted(seen) == list(range(len(texts)))
    assert queue.waiting_tokens == 0


def test_clear_hands_out_every_entry_though_the_shares_are_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is wrong with the bookkeeping, whoever waits can be answered, and nothing stays."""
    queue = backlog(entry("a"), entry("b", priority=1), entry("c", fairness_key="x"))

    def broken(*_: object) -> None:
        raise KeyError

    monkeypatch.setattr(FairShares, "leave", broken)
    assert sorted(names(queue.clear())) == ["a", "b", "c"]
    assert len(queue) == 0
    assert queue.rank(NOW) is None


class CountingShares(FairShares):
    """Counts how often a count is looked up, and forgets none of it."""

    def __init__(self) -> None:
        super().__init__()
        self.lookups = 0

    def served(self, key: str) -> float:
        self.lookups += 1
        return super().served(key)


def test_a_row_costs_no_look_at_every_caller() -> None:
    """Each caller's head is looked at once for a run, and again only for those who were served."""
    shares = CountingShares()
    callers, rows = 500, 100
    queue = backlog(*(entry("x", fairness_key=str(n % callers)) for n in range(3 * callers)), shares=shares)
    assert len(queue.take(NOW, Budget(rows, 1_000_000))) == rows
    assert shares.lookups <= callers + 4 * rows


def test_what_was_taken_is_not_kept() -> None:
    """A caller who always has something waiting leaves no trail of what was taken."""
    shares = FairShares()
    queue = backlog(entry("first"), shares=shares)
    shares.enter("behind")
    for number in range(2000):
        queue.push(entry("next", arrived=NOW + number))
        shares.enter("guests")
        shares.leave("guests", 1)
        assert len(queue.take(NOW + number, Budget(1, 100))) == 1
    assert deep_size(queue) + deep_size(shares) < 1000


def deep_size(value: object) -> int:
    """How many things hang on an object, through its attributes and containers."""
    seen: dict[int, object] = {}
    pending = [value]
    while pending:
        each = pending.pop()
        if id(each) in seen or type(each).__module__ not in {"builtins", "collections", *OURS}:
            continue
        seen[id(each)] = each
        if isinstance(each, dict):
            pending += [*each, *each.values()]
        elif isinstance(each, (list, tuple)):
            pending += each
        elif type(each).__module__ in OURS:
            attributes = [*getattr(each, "__dict__", ()), *getattr(type(each), "__slots__", ())]
            pending += [getattr(each, name) for name in attributes]
    return len(seen)


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
