"""One caller sends far more than its share, in whole servers in virtual time: the others hardly notice."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

import pytest
from headwaiter_server.scheduling.cost import PackedCost, Prices
from headwaiter_server.scheduling.forecast import Forecast

from .simulation import Request, Server, poisson

SECONDS = 20.0
OTHERS = tuple(f"other {number}" for number in range(4))
RATIO = 100


@dataclass(frozen=True)
class Engine:
    """A model on a server.

    Attributes:
        cost: Of its runs.
        budget: Tokens of a run.
        texts: Of a run.
        workers: Of the server.
        rate: Calls a second of each of the others, of one text of ten tokens.
    """

    cost: PackedCost
    budget: int
    texts: float
    workers: int
    rate: float


ENGINES = {
    "one text of 10 ms": Engine(PackedCost(0.01, 0.0, 0.0), 10, 1, 1, 10.0),
    "small encoder": Engine(PackedCost(0.001, 0.00028, 2e-7), 96, 96, 2, 50.0),
}


def serve(engine: Engine, rates: Mapping[str, float], weights: Mapping[str, float] | None = None) -> list[Request]:
    """Calls of some callers, each at its rate, at the same times whoever else calls."""
    requests = []
    for number, (key, rate) in enumerate(rates.items()):
        for request in poisson(random.Random(number), rate, SECONDS, lambda: [10]):
            request.key, request.timeout = key, 1.0
            request.weight = (weights or {}).get(key, 1.0)
            requests.append(request)
    prices = Prices(engine.cost, engine.budget, most_texts=engine.texts)
    Server(Forecast(engine.workers), prices, lambda lengths, _: engine.cost.seconds(sum(lengths))).serve(requests)
    return requests


def p99_seconds(requests: list[Request]) -> float:
    times = sorted(request.answered - request.arrives for request in requests if request.answered is not None)
    return times[int(len(times) * 0.99)]


@pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES)
def test_flood_neither_refuses_the_others_nor_slows_them_down(engine: Engine) -> None:
    """A hundred times as many calls as each of the others: these are all answered, in at most twice the time."""
    rates = dict.fromkeys(OTHERS, engine.rate)
    without = serve(engine, rates)
    requests = serve(engine, {**rates, "flood": RATIO * engine.rate})
    beside = [request for request in requests if request.key != "flood"]
    flood = [request for request in requests if request.key == "flood"]
    assert len(beside) == len(without)
    assert all(request.in_time for request in without)
    assert [request.refused for request in beside if not request.in_time] == []
    assert any(request.refused for request in flood)
    if engine.texts == 1:
        # Elsewhere the flood also makes runs longer, which are not broken off for anybody.
        assert p99_seconds(beside) <= 1.75 * p99_seconds(without)


@pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES)
def test_floods_are_served_by_their_weights(engine: Engine) -> None:
    """Of callers that all want more than there is, one with three times the weight gets three times as much."""
    weights = {"heavy": 3.0, "light": 1.0}
    requests = serve(engine, dict.fromkeys(weights, RATIO * engine.rate), weights)
    heavy, light = (sum(each.in_time for each in requests if each.key == key) for key in weights)
    assert heavy / light == pytest.approx(3, rel=0.1)
