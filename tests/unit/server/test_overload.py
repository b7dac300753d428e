"""Admission by prediction, in whole servers in virtual time: who is let in is answered in time, and nobody idles."""

from __future__ import annotations

import random
from collections.abc import Callable
from statistics import fmean

import pytest
from headwaiter_server.scheduling.cost import PackedCost, Prices
from headwaiter_server.scheduling.forecast import Forecast

from .simulation import Request, Server, poisson

# A small encoder on two workers; a text of 15 tokens or so.
COST = PackedCost(0.001, 0.00028, 2e-7)
BELIEVED = Prices(COST, 128)
WORKERS = 2


def text(rng: random.Random) -> int:
    """Tokens of a text."""
    return max(3, min(256, int(rng.lognormvariate(2.6, 0.6))))


def capacity() -> float:
    """Texts a second, all runs full."""
    rng = random.Random(0)
    mean = fmean(text(rng) for _ in range(5000))
    return float(WORKERS * 128 / COST.seconds(128) / mean)


def served(
    load: float,
    *,
    believed: Prices = BELIEVED,
    slowness: Callable[[float], float] = lambda now: 1.0,
    noise: float = 0.0,
    seconds: float = 20.0,
    timeout: float = 1.0,
    retries: int = 0,
) -> list[Request]:
    """A server under a load, in parts of its capacity."""
    rng = random.Random(11)
    requests = list(poisson(rng, load * capacity(), seconds, lambda: [text(rng)]))
    for request in requests:
        request.timeout, request.retries = timeout, retries

    def seconds_of(lengths: list[int], now: float) -> float:
        return COST.seconds(sum(lengths)) * slowness(now) * rng.lognormvariate(0, noise)

    Server(Forecast(WORKERS), believed, seconds_of).serve(requests)
    return requests


def goodput(requests: list[Request], seconds: float = 20.0) -> float:
    """Answers in time, as a part of capacity."""
    return sum(request.in_time for request in requests) / seconds / capacity()


def late(requests: list[Request]) -> float:
    """Part of those let in who were not answered in time."""
    admitted = [request for request in requests if request.admitted is not None]
    return sum(not request.in_time for request in admitted) / len(admitted)


def p99_seconds(requests: list[Request]) -> float:
    waits = sorted(
        request.answered - request.admitted
        for request in requests
        if request.answered is not None and request.admitted is not None
    )
    return waits[int(len(waits) * 0.99)]


def test_below_capacity_nobody_is_refused() -> None:
    """At four fifths of capacity everybody is let in, and answered in time."""
    requests = served(0.8)
    assert all(request.in_time for request in requests)


@pytest.mark.parametrize(("load", "noise"), [(2.0, 0.0), (2.0, 0.3), (5.0, 0.0)])
def test_overload_leaves_goodput_at_capacity(load: float, noise: float) -> None:
    """Twice and five times too much changes nothing for those who are let in, and every refusal comes with a hint."""
    requests = served(load, noise=noise)
    assert goodput(requests) > 0.9
    assert late(requests) == 0
    refusals = [hint for request in requests for hint in request.refused]
    assert len(refusals) > (load - 1.1) / load * len(requests)
    assert min(refusals) > 0


@pytest.mark.parametrize("most_texts", [1, 3])
@pytest.mark.parametrize("load", [2.0, 10.0])
def test_runs_of_few_texts_are_not_taken_for_full_ones(most_texts: int, load: float) -> None:
    """Where few texts share a run, however short, nobody is let in who could be answered only by fuller runs."""
    cost, rng = PackedCost(0.01, 1e-5, 0.0), random.Random(5)
    rate = WORKERS * most_texts / cost.seconds(9 * most_texts)
    requests = list(poisson(rng, load * rate, 4.0, lambda: [rng.randint(3, 15)]))
    for request in requests:
        request.timeout = 1.0
    prices = Prices(cost, 512, most_texts=most_texts)
    Server(Forecast(WORKERS), prices, lambda lengths, _: cost.seconds(sum(lengths))).serve(requests)
    assert sum(request.in_time for request in requests) / 4.0 > 0.9 * rate
    assert late(requests) == 0


def test_overload_does_not_make_the_admitted_wait() -> None:
    """With a deadline of 1 s, the slowest answers under twice the capacity take twice what they do below it."""
    assert p99_seconds(served(2.0)) <= 2 * p99_seconds(served(0.8))


@pytest.mark.parametrize("factor", [0.25, 4.0])
def test_wrong_calibration_is_made_good(factor: float) -> None:
    """Figures four times too low or too high, as a busy machine gives at load, neither flood nor idle the server."""
    believed = Prices(PackedCost(COST.fixed * factor, COST.linear * factor, COST.quadratic * factor), 128)
    requests = served(2.0, believed=believed)
    assert goodput(requests) > 0.9
    assert late(requests) < 0.01


def test_server_that_thinks_itself_too_slow_recovers() -> None:
    """Figures eight times too high let nobody's deadline be met; what is run all the same proves them wrong."""
    believed = Prices(PackedCost(COST.fixed * 8, COST.linear * 8, COST.quadratic * 8), 128)
    requests = served(0.5, believed=believed, timeout=0.3)
    assert goodput(requests) > 0.48


def test_slow_spell_is_followed() -> None:
    """While the machine is three times as slow, a third as many are let in, and they are answered in time."""
    requests = served(2.0, slowness=lambda now: 3.0 if 5 < now < 15 else 1.0, noise=0.2)
    assert late(requests) < 0.02
    spell = [request for request in requests if 6 < request.arrives < 14]
    assert 0.8 / 3 < goodput(spell, seconds=8.0) < 1.1 / 3
    after = [request for request in requests if request.arrives > 16]
    assert goodput(after, seconds=4.0) > 0.85


def test_those_who_come_back_are_not_starved() -> None:
    """Who was refused and comes back when told is let in at least as often as who comes for the first time."""
    requests = served(1.2, retries=3)
    first = sum(not request.refused for request in requests) / len(requests)
    returned = [request for request in requests if request.attempts > 1]
    assert len(returned) > 100
    assert sum(request.in_time for request in returned) / len(returned) > first
    assert goodput(requests) > 0.95
    assert late(requests) < 0.01
