"""Calls are due when the load says so, whatever the number of processes."""

from __future__ import annotations

import itertools
import statistics

import pytest
from headwaiter_load import schedules
from headwaiter_load.schedules import Open, Replay
from hypothesis import given
from hypothesis import strategies as st

RATES = st.floats(0.1, 10_000, allow_nan=False)


def first(load: Open | Replay, count: int) -> list[float]:
    """The first times of a schedule."""
    return list(itertools.islice(schedules.due_times(load), count))


@given(rate=RATES, count=st.integers(2, 500))
def test_constant_calls_come_evenly(rate: float, count: int) -> None:
    """Call number n is due after n gaps of 1 / rate, without drift."""
    times = first(Open("constant", rate), count)
    assert times == [number / rate for number in range(count)]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_poisson_calls_come_at_their_rate_and_at_random(seed: int) -> None:
    """Gaps have the mean 1 / rate and, as of a Poisson process, a deviation of the same size and no memory."""
    times = first(Open("poisson", 250.0, seed=seed), 40_000)
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert statistics.fmean(gaps) == pytest.approx(1 / 250, rel=0.02)
    assert statistics.stdev(gaps) == pytest.approx(1 / 250, rel=0.03)
    assert abs(statistics.correlation(gaps[:-1], gaps[1:])) < 0.02
    in_seconds = [len(list(group)) for _, group in itertools.groupby(times[:-1], key=int)][:-1]
    assert statistics.variance(in_seconds) == pytest.approx(statistics.fmean(in_seconds), rel=0.3)


@given(rate=RATES, seed=st.integers(0, 1000), size=st.integers(2, 20))
def test_bursts_are_whole_and_come_in_order(rate: float, seed: int, size: int) -> None:
    """Calls of a burst are due at the same time, bursts at different ones."""
    times = first(Open("bursty", rate, size, seed), 10 * size)
    groups = [list(group) for _, group in itertools.groupby(times)]
    assert [len(group) for group in groups] == [size] * 10
    assert times == sorted(times)


def test_bursty_calls_keep_the_mean_rate() -> None:
    """Bursts of ten come a tenth as often as single calls would."""
    times = first(Open("bursty", 500.0, 10, seed=3), 100_000)
    assert len(times) / times[-1] == pytest.approx(500, rel=0.03)


@given(st.lists(st.floats(0, 1e6, allow_nan=False), max_size=50).map(sorted))
def test_a_trace_is_replayed_exactly(offsets: list[float]) -> None:
    """A trace's own times, to the last bit, and then no more."""
    load = Replay(tuple(offsets), (None,) * len(offsets))
    assert list(schedules.due_times(load)) == offsets


@given(st.integers(1, 9), st.integers(0, 100), st.sampled_from(["constant", "poisson", "bursty"]))
def test_processes_share_one_schedule(processes: int, seed: int, arrivals: schedules.Arrivals) -> None:
    """What all processes send together is the schedule of one, call for call."""
    load = Open(arrivals, 100.0, 1 if arrivals != "bursty" else 4, seed)
    whole = list(enumerate(first(load, 60)))
    shares = [list(schedules.share(first(load, 60), number, processes)) for number in range(processes)]
    assert sorted(itertools.chain.from_iterable(shares)) == whole


@given(st.integers(1, 500), st.integers(1, 20))
def test_callers_add_up(outstanding: int, processes: int) -> None:
    """No caller is lost between processes, and no process has two more than another."""
    callers = [schedules.callers(outstanding, number, processes) for number in range(processes)]
    assert sum(callers) == outstanding
    assert max(callers) - min(callers) <= 1


def test_the_same_seed_gives_the_same_schedule() -> None:
    """A run can be repeated; another seed is another run."""
    assert first(Open("poisson", 10, seed=1), 50) == first(Open("poisson", 10, seed=1), 50)
    assert first(Open("poisson", 10, seed=1), 50) != first(Open("poisson", 10, seed=2), 50)
