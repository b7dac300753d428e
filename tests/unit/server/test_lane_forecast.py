"""An encoder's lane and the forecast: calls are refused before they wait, and whatever ends a call ends its price."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Sequence

import numpy as np
import pytest
from fakes import POISON, FakeClock, MirrorModel
from headwaiter_server.batching.task import Answer
from headwaiter_server.config import Batching
from headwaiter_server.encoding import Encoding
from headwaiter_server.errors import DeadlineUnreachableError, EngineError, OverloadedError, QueueFullError
from headwaiter_server.model.contract import Cancellation, FloatArray
from headwaiter_server.scheduling.calls import Call, Terms
from headwaiter_server.scheduling.cost import PackedCost, Prices
from headwaiter_server.scheduling.forecast import Forecast, ModelForecast

from .encoder_scheduler import EncoderScheduler, encoder_scheduler, of_lengths, text

# A token costs 10 ms, and a run at the budget 1 s.
PRICES = Prices(PackedCost(0.0, 0.01, 0.0), 100)
BAD = 666


class Gate:
    """A model that answers when it is let to, and fails on one token."""

    packed = True

    def __init__(self) -> None:
        self.open = threading.Event()
        self.runs: list[int] = []

    def run(
        self, sources: Sequence[Encoding], raw: Sequence[bool], cancellation: Cancellation | None = None
    ) -> list[FloatArray]:
        """See `EncoderModel`."""
        assert self.open.wait(10)
        self.runs.append(len(sources))
        if any(BAD in source.ids for source in sources):
            raise RuntimeError("bad token")
        return [np.zeros(1, np.float32) for _ in sources]


def bounded(parts: EncoderScheduler, max_queue_seconds: float = 1.5) -> tuple[Forecast, ModelForecast]:
    """Have the lane refuse calls by a forecast."""
    forecast = Forecast(parts.dispatcher.workers, max_queue_seconds)
    model = forecast.model(PRICES)
    parts.lane.forecast = model
    return forecast, model


async def test_call_is_refused_before_any_of_its_texts_waits() -> None:
    """All texts of a call or none: a refused one leaves nothing behind, and a later one is taken when there is room."""
    gate, clock = Gate(), FakeClock(0.0)
    async with encoder_scheduler(gate, tokens=100, clock=clock) as parts:
        forecast, _ = bounded(parts)
        first = parts.submit(*of_lengths([50, 50]))
        await asyncio.sleep(0)  # it runs
        second = parts.submit(*of_lengths([100]))
        with pytest.raises(QueueFullError, match=r"the wait would be 2 s, the limit is 1.5 s") as refused:
            parts.submit(*of_lengths([1, 1, 1]))
        assert refused.value.retry_after_seconds == pytest.approx(0.5)
        assert parts.lane.waiting == 1
        clock.advance(0.6)
        third = parts.submit(*of_lengths([1]))
        gate.open.set()
        await asyncio.gather(first.future, second.future, third.future)
        await parts.quiet()
        assert forecast.wait_seconds(clock()) == 0
        assert gate.runs == [2, 1, 1]


async def test_lane_refuses_calls_unread_while_it_refuses_others() -> None:
    """By its own clock; without a forecast it refuses nobody."""
    gate, clock = Gate(), FakeClock(0.0)
    async with encoder_scheduler(gate, tokens=100, clock=clock) as parts:
        parts.lane.foresee(Terms(0.0), 1)
        bounded(parts)
        waiting = [parts.submit(*of_lengths([100])) for _ in range(2)]
        parts.lane.foresee(Terms(0.0), 1)
        with pytest.raises(QueueFullError):
            parts.submit(*of_lengths([1]))
        with pytest.raises(QueueFullError):
            parts.lane.foresee(Terms(0.0), 1)
        clock.advance(1.1)
        parts.lane.foresee(Terms(0.0), 1)
        gate.open.set()
        await asyncio.gather(*(call.future for call in waiting))


async def test_call_that_would_be_late_never_reaches_the_model() -> None:
    """By the prediction its answer would come too late: it is refused instead of run."""
    gate, clock = Gate(), FakeClock(0.0)
    async with encoder_scheduler(gate, tokens=100, clock=clock) as parts:
        bounded(parts, max_queue_seconds=100)
        first = parts.submit(*of_lengths([100]), terms=Terms(0.0, deadline=3.0))
        await asyncio.sleep(0)
        with pytest.raises(DeadlineUnreachableError):
            parts.submit(*of_lengths([100]), terms=Terms(0.0, deadline=1.9))
        second = parts.submit(*of_lengths([100]), terms=Terms(0.0, deadline=2.1))
        gate.open.set()
        await asyncio.gather(first.future, second.future)
        assert gate.runs == [1, 1]


async def test_price_ends_with_the_call_however_it_ends() -> None:
    """Cancelled while it waits or runs, failed by the model or by the server: nothing stays counted."""
    gate = Gate()
    async with encoder_scheduler(gate, tokens=100) as parts:
        forecast, _ = bounded(parts, max_queue_seconds=100)
        running, bad, waiting = parts.submit(text(1)), parts.submit(text(BAD)), parts.submit(*of_lengths([90, 90]))
        await asyncio.sleep(0)
        cancelled = parts.submit(*of_lengths([90, 90]))
        assert forecast.waiting.seconds > 0
        cancelled.future.cancel()
        running.future.cancel()
        gate.open.set()
        await waiting.future
        with pytest.raises(EngineError):
            await bad.future
        failed = parts.submit(*of_lengths([90, 90]))
        parts.dispatcher.fail_all(EngineError("the server ends"))
        with pytest.raises(EngineError, match="the server ends"):
            await failed.future
        await parts.quiet()
        await asyncio.sleep(0)  # what ends with a call ends on the loop's next turn
        assert forecast.waiting.seconds == 0
        assert not forecast.runs
        assert forecast.wait_seconds(0.0) == 0


async def test_only_whole_good_runs_teach() -> None:
    """What a run that failed took is no measure of what others take; what a good one took is."""
    gate, clock = Gate(), FakeClock(0.0)
    async with encoder_scheduler(gate, tokens=100, clock=clock) as parts:
        _, model = bounded(parts, max_queue_seconds=100)
        bad = parts.submit(text(*[BAD] * 100))
        await asyncio.sleep(0)
        clock.advance(5.0)
        gate.open.set()
        with pytest.raises(EngineError):
            await bad.future
        await parts.quiet()
        assert model.drift == 1
        gate.open.clear()
        good = parts.submit(*of_lengths([100]))
        await asyncio.sleep(0)
        clock.advance(3.0)
        gate.open.set()
        await good.future
        await parts.quiet()
        assert model.drift == pytest.approx(1 + (3 - 1) / 16)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("packed", [True, False])
async def test_nothing_stays_priced_after_any_mix_of_ends(seed: int, *, packed: bool) -> None:
    """Answered, refused, cancelled, expired, failed alone or with everybody: in the end no work is counted any more."""
    dice = random.Random(seed)
    clock = FakeClock(0.0)
    calls: list[Call[Answer]] = []
    refused = 0
    async with encoder_scheduler(MirrorModel(packed=packed), workers=2, tokens=100, clock=clock) as parts:
        forecast, model = bounded(parts, max_queue_seconds=4)
        for turn in range(300):
            sizes = [dice.choice([1, 7, 33, 99, 150]) for _ in range(dice.choice([1, 1, 2, 6]))]
            sources = [text(POISON, *[5] * size) if dice.random() < 0.05 else text(*[6] * size) for size in sizes]
            terms = Terms(
                clock.now,
                clock.now + dice.choice([1.0, 10.0, 1e6]),
                priority=dice.randint(3, 5),
                fairness_key=dice.choice(["", "a", "b"]),
            )
            try:
                calls.append(parts.submit(*sources, terms=terms))
            except OverloadedError:
                refused += 1
            if calls and dice.random() < 0.2:
                dice.choice(calls).future.cancel()
            if turn == 200:
                parts.dispatcher.fail_all(EngineError("for everybody"))
            if dice.random() < 0.4:
                clock.advance(dice.random())
                await asyncio.sleep(0)
        # One that nobody is before, and that is late before anybody can take it.
        calls.append(parts.submit(text(6), terms=Terms(clock.now, clock.now + 1000, priority=1)))
        clock.advance(2000)
        async with asyncio.timeout(20):
            answers = await asyncio.gather(*(call.future for call in calls), return_exceptions=True)
        await parts.quiet()
        await asyncio.sleep(0)  # what ends with a call ends on the loop's next turn
        kinds = {type(answer).__name__ for answer in answers}
        assert {"list", "CancelledError", "EngineError", "DeadlineExceededError"} <= kinds
        assert refused
        assert forecast.waiting.seconds == 0
        assert forecast.wait_seconds(clock()) == 0
        assert not forecast.runs
        assert not model._open
        assert not parts.lane._forecast_runs


@pytest.mark.parametrize(("batching", "most_texts"), [("auto", 5), ("fifo", 32), ("none", 1)])
async def test_lane_says_how_many_texts_share_a_run(batching: Batching, most_texts: int) -> None:
    """However runs are made: their texts are priced by it."""
    async with encoder_scheduler(MirrorModel(), rows=5, batching=batching) as parts:
        assert parts.lane.most_texts == most_texts
