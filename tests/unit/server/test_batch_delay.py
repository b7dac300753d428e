"""When texts that could run wait for mates, and what ends that; time is an argument."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator

import pytest
from headwaiter_server.batching.delay import Delay
from headwaiter_server.batching.task import CloseReason
from headwaiter_server.scheduling.calls import NO_DEADLINE, Call, Pending, Terms
from headwaiter_server.scheduling.policy import Backlog, Budget, Entry
from headwaiter_server.scheduling.shares import FairShares
from hypothesis import given
from hypothesis import strategies as st

NOW = 1000.0
SECONDS = 0.5
FULL = Budget(8, 100)
# By so much a run begins before the last moment for a deadline.
MARGIN = 0.005


@pytest.fixture(autouse=True)
def event_loop_for_futures() -> Iterator[None]:
    """Futures need a loop to belong to; nothing here runs on it."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield
    asyncio.set_event_loop(None)
    loop.close()


class Waiting:
    """Texts that wait, and what keeps them."""

    def __init__(self) -> None:
        self.backlog = Backlog(FairShares())
        self.delay = Delay(self.backlog, SECONDS)

    def push(
        self,
        arrived: float = NOW,
        *,
        tokens: int = 10,
        deadline: float = NO_DEADLINE,
        priority: int = 4,
        key: str = "",
    ) -> Entry:
        future: asyncio.Future[list[str]] = asyncio.get_event_loop_policy().get_event_loop().create_future()
        entry: Entry = Pending(Call(Terms(arrived, deadline, priority, key), 1, arrived, future), 0, "", tokens)
        self.backlog.push(entry)
        return entry

    def reason(self, now: float, run_seconds: float = 0.0) -> CloseReason | None:
        return self.delay.reason_to_run(now, FULL, run_seconds)

    def take(self, now: float, rows: int = 8) -> list[Entry]:
        return self.backlog.take(now, Budget(rows, 100))


def test_nothing_waits_for_nothing() -> None:
    """Without texts there is no run and nothing to look at again."""
    waiting = Waiting()
    assert (waiting.reason(NOW), waiting.delay.until) == (None, math.inf)


def test_oldest_text_ends_the_wait_of_all() -> None:
    """Texts wait until the one that arrived first has waited for as long as it may."""
    waiting = Waiting()
    waiting.push(NOW + 0.2, priority=1)
    waiting.push(NOW, key="other")
    for now in (NOW + 0.2, NOW + 0.499):
        assert (waiting.reason(now), waiting.delay.until) == (None, NOW + SECONDS)
    assert (waiting.reason(NOW + SECONDS), waiting.delay.until) == (CloseReason.DELAY, math.inf)


def test_full_run_ends_the_wait() -> None:
    """As many tokens, or texts, as a run takes wait no longer."""
    for tokens, count in ((20, 5), (1, 8)):
        waiting = Waiting()
        for _ in range(count - 1):
            waiting.push(tokens=tokens)
        assert waiting.reason(NOW) is None
        waiting.push(tokens=tokens)
        assert waiting.reason(NOW) is CloseReason.BUDGET


@pytest.mark.parametrize("tokens", [1, 20])
def test_texts_nobody_waits_for_fill_no_run(tokens: int) -> None:
    """Callers who have gone, and deadlines that have passed, end nobody's wait; those who are left still do."""
    waiting = Waiting()
    waiting.push(NOW, tokens=1)
    for gone in [waiting.push(NOW, tokens=tokens) for _ in range(6)]:
        gone.call.future.cancel()
    waiting.push(NOW, tokens=tokens, deadline=NOW, key="late")
    assert (waiting.reason(NOW), waiting.delay.until) == (None, NOW + SECONDS)
    for _ in range(7):
        waiting.push(NOW, tokens=99 // 7)
    assert waiting.reason(NOW) is CloseReason.BUDGET
    assert len(waiting.take(NOW)) == 8


def test_long_text_never_waits() -> None:
    """A text that fills a run by itself has nobody to wait for."""
    waiting = Waiting()
    waiting.push(tokens=500)
    assert waiting.reason(NOW) is CloseReason.BUDGET


def test_what_a_full_run_leaves_over_waits_on() -> None:
    """The rest is held to its own arrival, and to what comes after it."""
    waiting = Waiting()
    for _ in range(9):
        waiting.push(tokens=10)
    waiting.push(NOW + 0.1, tokens=20)
    assert waiting.reason(NOW + 0.1) is CloseReason.BUDGET
    assert len(waiting.take(NOW + 0.1)) == 8
    assert (waiting.reason(NOW + 0.1), waiting.delay.until) == (None, NOW + SECONDS)
    waiting.take(NOW + 0.1, rows=1)
    assert (waiting.reason(NOW + 0.1), waiting.delay.until) == (None, NOW + 0.1 + SECONDS)


def test_deadline_ends_the_wait_in_time_for_a_full_run() -> None:
    """Texts wait only so long that a run that begins then still answers the most urgent of them."""
    waiting = Waiting()
    waiting.push(NOW)
    waiting.push(NOW, deadline=NOW + 0.3, key="urgent")
    latest = NOW + 0.3 - 0.1 - MARGIN
    assert waiting.reason(NOW, 0.1) is None
    assert waiting.delay.until == pytest.approx(latest)
    assert waiting.reason(latest + 1e-6, 0.1) is CloseReason.DEADLINE


def test_late_deadline_changes_nothing() -> None:
    """Where there is time enough, the wait is that of the oldest text."""
    waiting = Waiting()
    waiting.push(NOW, deadline=NOW + 2.0)
    assert (waiting.reason(NOW, 0.1), waiting.delay.until) == (None, NOW + SECONDS)
    assert waiting.reason(NOW + SECONDS, 0.1) is CloseReason.DELAY


def test_whoever_is_let_go_takes_the_others_along() -> None:
    """Those that waited beside the oldest one go too, also in a later run; who comes afterwards waits for itself."""
    waiting = Waiting()
    for late in range(4):
        waiting.push(NOW + late / 10)
    assert waiting.reason(NOW + SECONDS) is CloseReason.DELAY
    assert len(waiting.take(NOW + SECONDS, rows=2)) == 2
    newcomer = waiting.push(NOW + SECONDS)
    assert waiting.reason(NOW + SECONDS) is CloseReason.DELAY
    assert newcomer not in waiting.take(NOW + SECONDS, rows=2)
    assert (waiting.reason(NOW + SECONDS), waiting.delay.until) == (None, NOW + 2 * SECONDS)


def test_text_whose_caller_has_gone_keeps_nobody_and_hurries_nobody() -> None:
    """When the oldest is cancelled, the next one waits for as long as it would have by itself, and no longer."""
    waiting = Waiting()
    gone = waiting.push(NOW)
    waiting.push(NOW + 0.3)
    assert waiting.reason(NOW + 0.3) is None
    gone.call.future.cancel()
    assert (waiting.reason(NOW + SECONDS), waiting.delay.until) == (None, NOW + 0.3 + SECONDS)
    assert waiting.reason(NOW + 0.3 + SECONDS) is CloseReason.DELAY


def test_deadline_of_a_cancelled_text_hurries_nobody() -> None:
    """Nor does the deadline of a caller who has gone."""
    waiting = Waiting()
    waiting.push(NOW)
    waiting.push(NOW, deadline=NOW + 0.1, key="gone").call.future.cancel()
    assert (waiting.reason(NOW), waiting.delay.until) == (None, NOW + SECONDS)


def test_after_the_end_nothing_waits() -> None:
    """A server that shuts down keeps nobody waiting."""
    waiting = Waiting()
    waiting.push(NOW)
    assert waiting.reason(NOW) is None
    waiting.delay.end()
    assert waiting.reason(NOW) is CloseReason.DELAY
    waiting.take(NOW)
    waiting.push(NOW + 1)
    assert waiting.reason(NOW + 1) is CloseReason.DELAY


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["push", "push", "push", "cancel", "take", "pass"]),
            st.integers(0, 1 << 16),
            st.floats(0, 0.3),
        ),
        max_size=60,
    )
)
def test_nobody_waits_longer_than_told_and_nobody_is_forgotten(steps: list[tuple[str, int, float]]) -> None:
    """Whatever comes, goes and runs: what is kept is alive, not full, and looked at before its time is over."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    waiting, entries, now = Waiting(), list[Entry](), NOW
    for step, number, seconds in steps:
        if step == "push":
            deadline = now + seconds if number % 3 == 0 else NO_DEADLINE
            entries.append(
                waiting.push(
                    now, tokens=1 + number % 30, deadline=deadline, priority=1 + number % 3, key=str(number % 2)
                )
            )
        elif step == "cancel" and entries:
            entries.pop(number % len(entries)).call.future.cancel()
        elif step == "take" and waiting.reason(now) is not None:
            taken = waiting.take(now, rows=1 + number % 4)
            entries = [entry for entry in entries if entry not in taken]
        else:
            now += seconds
        reason = waiting.reason(now)
        alive = [entry for entry in entries if not entry.call.dead(now)]
        if not alive:
            assert (reason, waiting.delay.until) == (None, math.inf)
        elif reason is None:
            ends = min(entry.call.terms.arrived + SECONDS for entry in alive)
            latest = min(entry.call.terms.deadline for entry in alive) - MARGIN
            assert now < waiting.delay.until == pytest.approx(min(ends, latest))
            assert len(alive) < FULL.rows
            assert sum(entry.cost_tokens for entry in alive) < FULL.tokens
        else:
            assert waiting.delay.until == math.inf
    loop.close()
