"""Requests of tensors in the lane that texts wait in, too: who shares a run, and that each gets its own answer."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from fakes import Gate
from headwaiter_server.batching.lane import TensorLane
from headwaiter_server.batching.sharing import LikeTensors
from headwaiter_server.batching.task import CloseReason, RunAnswer, RunFacts, TensorTask
from headwaiter_server.config import Batching
from headwaiter_server.errors import DeadlineUnreachableError, EngineError
from headwaiter_server.model.contract import Array, Cancellation, RefusedInputError, TensorSpec
from headwaiter_server.model.tensors import TensorModel, TensorRows, Tensors, rows_of
from headwaiter_server.scheduling.calls import Call, Pending, Terms
from headwaiter_server.scheduling.cost import PackedCost, Prices
from headwaiter_server.scheduling.dispatcher import Dispatcher
from headwaiter_server.scheduling.forecast import Forecast
from headwaiter_server.scheduling.policy import Budget
from headwaiter_server.scheduling.shares import FairShares
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .tensor_graphs import doubled, picked, tensor_model


class Watched:
    """A model that tells what shared a run, and can be held in one."""

    packed = True

    def __init__(self, model: TensorModel) -> None:
        self.model = model
        self.signature = model.signature
        self.runs: list[list[tuple[int, ...]]] = []
        self.hold: Gate | None = None
        self.under_way = self.most_under_way = 0
        self._lock = threading.Lock()

    def run(
        self,
        sources: Sequence[TensorRows],
        wanted: Sequence[tuple[str, ...]],
        /,
        cancellation: Cancellation | None = None,
    ) -> list[Tensors]:
        with self._lock:
            self.under_way += 1
            self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            if self.hold is not None:
                self.hold()
            answers = self.model.run(sources, wanted, cancellation)
        finally:
            with self._lock:
                self.under_way -= 1
        with self._lock:
            self.runs.append([next(iter(each.arrays.values())).shape for each in sources])
        return answers


@dataclass
class Scheduler:
    """A dispatcher, its lane, and what they reported."""

    dispatcher: Dispatcher
    lane: TensorLane
    model: Watched
    runs: list[RunFacts] = field(default_factory=list)
    failures: list[BaseException] = field(default_factory=list)

    def submit(
        self, array: Array, wanted: tuple[str, ...] = (), terms: Terms | None = None
    ) -> Call[RunAnswer[Tensors]]:
        """Submit one request."""
        now = self.dispatcher.clock()
        call: Call[RunAnswer[Tensors]] = Call(terms or Terms(now), 1, now, asyncio.get_running_loop().create_future())
        signature = self.model.signature
        source = rows_of(signature, {signature.inputs[0].name: array})
        names = wanted or tuple(each.name for each in signature.outputs)
        self.lane.submit([Pending(call, 0, TensorTask(source, names), len(source))])
        self.dispatcher.wake()
        return call


@asynccontextmanager
async def scheduler(
    model: TensorModel, *, workers: int = 1, rows: int = 1000, budget: int = 64, batching: Batching = "auto"
) -> AsyncIterator[Scheduler]:
    runs: list[RunFacts] = []
    failures: list[BaseException] = []
    dispatcher = Dispatcher(workers, on_crash=lambda: None)

    class Observer:
        def run_finished(self, facts: RunFacts) -> None:
            runs.append(facts)

    watched = Watched(model)
    lane = TensorLane(
        watched,
        budget=Budget(rows, budget),
        run_tokens=1.0,
        batching=batching,
        threads=1,
        shares=FairShares(),
        numbers=itertools.count(1),
        clock=time.monotonic,
        observer=Observer(),
        on_failure=failures.append,
    )
    lane.sharing = LikeTensors(model.signature.max_batch_size)
    dispatcher.add_lane(lane)
    try:
        yield Scheduler(dispatcher, lane, watched, runs, failures)
    finally:
        assert await dispatcher.close(10)


async def held(parts: Scheduler, array: Array) -> tuple[Gate, Call[RunAnswer[Tensors]]]:
    """Keep the one worker busy with a request, so that those that follow wait together."""
    parts.model.hold = gate = Gate()
    call = parts.submit(array)
    await gate.entered()
    return gate, call


def rows(count: int, length: int, start: float = 0.0) -> Array:
    return np.arange(count * length, dtype=np.float32).reshape(count, length) + np.float32(start)


async def answers(*calls: Call[RunAnswer[Tensors]]) -> list[Tensors]:
    async with asyncio.timeout(10):
        return [(await call.future)[0].values for call in calls]


MIX = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 3)), min_size=1, max_size=24)


@settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(mix=MIX, workers=st.integers(1, 3), batching=st.sampled_from(["auto", "fifo", "none"]))
def test_each_request_gets_its_own_rows(mix: list[tuple[int, int]], workers: int, batching: Batching) -> None:
    """For any mix of row counts and shapes: like ones share runs, none is split, none is over the budget."""

    async def play() -> None:
        async with scheduler(
            tensor_model(doubled(), max_batch_size=8), workers=workers, budget=8, batching=batching
        ) as parts:
            inputs = [rows(count, length, 100.0 * index) for index, (count, length) in enumerate(mix)]
            found = await answers(*[parts.submit(each) for each in inputs])
            for x, answer in zip(inputs, found, strict=True):
                np.testing.assert_allclose(answer["double"], 2 * x, rtol=1e-6)
                np.testing.assert_allclose(answer["sum"], x.sum(1), rtol=1e-5)
            for run in parts.model.runs:
                assert len({shape[1] for shape in run}) == 1
                assert len(run) == 1 or sum(shape[0] for shape in run) <= 8
            assert sum(len(run) for run in parts.model.runs) == len(mix)
            assert sum(facts.rows for facts in parts.runs) == sum(count for count, _ in mix)
            assert {(facts.tokens, facts.padding_tokens) for facts in parts.runs} == {(0, 0)}

    asyncio.run(play())


async def test_requests_of_like_shapes_share_a_run() -> None:
    """Others are passed over, and keep their place."""
    async with scheduler(tensor_model(doubled())) as parts:
        gate, first = await held(parts, rows(1, 9))
        calls = [parts.submit(rows(count, length)) for count, length in [(1, 3), (2, 5), (4, 3), (1, 5)]]
        gate.open()
        await answers(first, *calls)
    assert parts.model.runs == [[(1, 9)], [(1, 3), (4, 3)], [(2, 5), (1, 5)]]
    assert [facts.rows for facts in parts.runs] == [1, 5, 3]
    assert [(await call.future)[0].batch_size for call in calls] == [5, 3, 5, 3]


async def test_run_holds_no_more_rows_than_its_budget() -> None:
    """Whole requests only; one over the budget runs alone."""
    async with scheduler(tensor_model(doubled()), budget=4) as parts:
        gate, first = await held(parts, rows(1, 2))
        calls = [parts.submit(rows(count, 2)) for count in (3, 1, 2, 3, 9)]
        gate.open()
        await answers(first, *calls)
    assert [[shape[0] for shape in run] for run in parts.model.runs] == [[1], [3, 1], [2], [3], [9]]
    assert [facts.reason for facts in parts.runs[-1:]] == [CloseReason.ALONE]


@pytest.mark.parametrize("batching", ["auto", "fifo"])
async def test_model_whose_rows_lean_on_one_another_runs_each_request_alone(batching: Batching) -> None:
    async with scheduler(tensor_model(doubled(), joined=False), batching=batching) as parts:
        gate, first = await held(parts, rows(1, 2))
        calls = [parts.submit(rows(count, 2)) for count in (2, 1, 1)]
        gate.open()
        await answers(first, *calls)
    assert [len(run) for run in parts.model.runs] == [1, 1, 1, 1]


async def test_one_bad_request_never_fails_its_batch_mates() -> None:
    """An index that the graph has no row for makes the whole run raise."""
    index = [TensorSpec("index", "INT64", (-1,))]
    model = tensor_model(picked(), inputs=index, outputs=[TensorSpec("y", "FP32", (-1, 2))])
    async with scheduler(model) as parts:
        gate, first = await held(parts, np.array([0]))
        calls = [parts.submit(np.array(each)) for each in ([1, 2], [7], [3], [0, 0, 0])]
        gate.open()
        good = await answers(first, calls[0], *calls[2:])
        with pytest.raises(EngineError) as failed:
            await calls[1].future
    assert isinstance(failed.value.__cause__, RefusedInputError)
    assert [answer["y"][:, 0].tolist() for answer in good] == [[0], [2, 4], [6], [0, 0, 0]]
    # It is the caller's fault, and no failure of the engine.
    assert not parts.failures


async def test_cancelled_request_never_runs_and_harms_nobody() -> None:
    async with scheduler(tensor_model(doubled())) as parts:
        gate, first = await held(parts, rows(1, 2))
        gone, stays = parts.submit(rows(1, 2)), parts.submit(rows(2, 2))
        gone.future.cancel()
        gate.open()
        await answers(first, stays)
    assert parts.model.runs == [[(1, 2)], [(2, 2)]]


async def test_run_that_nobody_waits_for_is_no_failure() -> None:
    async with scheduler(tensor_model(doubled())) as parts:
        gate, first = await held(parts, rows(1, 2))
        first.future.cancel()
        await asyncio.sleep(0)
        gate.open()
        await answers(parts.submit(rows(1, 2)))
    assert not parts.failures
    assert parts.runs[0].abandoned


async def test_request_that_would_be_too_late_is_refused_by_its_rows() -> None:
    """Ten rows of a second each are not there in five; one is."""
    async with scheduler(tensor_model(doubled())) as parts:
        forecast = Forecast(1)
        parts.lane.forecast = forecast.model(Prices(PackedCost(0.0, 1.0, 0.0), 64))
        now = parts.dispatcher.clock()
        with pytest.raises(DeadlineUnreachableError):
            parts.submit(rows(20, 2), terms=Terms(now, deadline=now + 5))
        await answers(parts.submit(rows(1, 2), terms=Terms(now, deadline=now + 5)))


async def test_no_more_runs_at_one_time_than_are_set() -> None:
    async with scheduler(tensor_model(doubled(), joined=False), workers=3) as parts:
        parts.lane.most_runs = 2
        gate, first = await held(parts, rows(1, 2))
        calls = [parts.submit(rows(1, 2)) for _ in range(4)]
        gate.open()
        await answers(first, *calls)
    assert parts.model.most_under_way <= 2
    assert len(parts.model.runs) == 5


async def test_what_one_of_a_run_wants_costs_the_others_nothing() -> None:
    """Each gets the outputs that it asked for, in its own order, and no others."""
    async with scheduler(tensor_model(doubled())) as parts:
        gate, first = await held(parts, rows(1, 2))
        one, two = parts.submit(rows(1, 2), ("sum",)), parts.submit(rows(1, 2), ("sum", "double"))
        gate.open()
        _, of_one, of_two = await answers(first, one, two)
    assert (list(of_one), list(of_two)) == (["sum"], ["sum", "double"])
    assert len(parts.model.runs) == 2


def test_signatures_say_what_the_lane_is_told() -> None:
    signature = tensor_model(doubled()).signature
    assert rows_of(signature, {"x": rows(3, 2)}).likeness is not None
    assert rows_of(replace(signature, joined=False), {"x": rows(3, 2)}).likeness is None
    without = rows_of(replace(signature, max_batch_size=0), {"x": rows(3, 2)})
    assert (without.likeness, len(without)) == (None, 1)
