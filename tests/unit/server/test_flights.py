"""Calls that ask for one text at one time share its run, and nobody is the worse for it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from fakes import POISON, EchoModel, FakeClock, Gate, MirrorModel
from headwaiter_server.encoding import Encoding
from headwaiter_server.errors import DeadlineExceededError, DrainingError, EngineError, QueueFullError
from headwaiter_server.model.contract import Cancellation, FloatArray
from headwaiter_server.scheduling.cost import PackedCost, Prices
from headwaiter_server.scheduling.forecast import Forecast

from .encoder_scheduler import EncoderScheduler, text
from .remembering import Asking, Remembering, generated, ids, remembering, remembering_generator


async def test_same_texts_at_one_time_run_once() -> None:
    """Calls that ask for a text that is being computed wait for it, and are told how long that took for them."""
    gate, clock = Gate(), FakeClock()
    model = MirrorModel(gate)
    async with remembering(model, clock=clock) as it:
        leader = it.ask(text(5), text(6))
        await gate.entered()
        clock.advance(2.0)
        follower = it.ask(text(6), text(5))
        await it.begun()
        clock.advance(1.0)
        gate.open()
        first, second = await leader.task, await follower.task
        assert (ids(first), ids(second)) == ([[5], [6]], [[6], [5]])
        assert model.runs == [[[5], [6]]]
        assert (first[0].queue_seconds, first[0].inference_seconds) == (0.0, 3.0)
        assert (second[0].queue_seconds, second[0].inference_seconds) == (0.0, 1.0)
        assert (follower.hits, follower.misses, follower.terms.trail.started) == (2, 0, None)
        assert not it.on_their_way()


async def waiting_pair(it: Remembering, gate: Gate, *, started: bool) -> tuple[Asking, Asking]:
    """A call and its follower, in a run that is held; or waiting behind one."""
    if not started:
        it.ask(text(1))
        await gate.entered()
    leader = it.ask(text(5))
    if started:
        await gate.entered()
    await it.begun()
    follower = it.ask(text(5))
    await it.begun()
    assert (follower.hits, it.on_their_way()) == (1, 1 if started else 2)
    return leader, follower


@pytest.mark.parametrize("started", [True, False])
async def test_leader_that_goes_leaves_its_followers_alone(started: bool) -> None:  # noqa: FBT001 - a parameter
    """The text of a caller who cancels goes on for the others: in its run, or in its place in the queue."""
    gate = Gate()
    model = MirrorModel(gate)
    async with remembering(model) as it:
        leader, follower = await waiting_pair(it, gate, started=started)
        leader.cancel()
        await it.begun()
        gate.open()
        assert ids(await follower.task) == [[5]]
        with pytest.raises(asyncio.CancelledError):
            await leader.task
        assert sum(runs.count([5]) for runs in model.runs) == 1


@pytest.mark.parametrize("started", [True, False])
async def test_follower_that_goes_leaves_its_leader_alone(started: bool) -> None:  # noqa: FBT001 - a parameter
    """The text of a call goes on although somebody who had joined it cancels."""
    gate = Gate()
    model = MirrorModel(gate)
    async with remembering(model) as it:
        leader, follower = await waiting_pair(it, gate, started=started)
        follower.cancel()
        await it.begun()
        gate.open()
        assert ids(await leader.task) == [[5]]


async def test_text_that_everybody_has_left_never_runs() -> None:
    """When the last who waits for it goes, a text leaves the queue; a later caller begins anew."""
    gate = Gate()
    model = MirrorModel(gate)
    async with remembering(model) as it:
        leader, follower = await waiting_pair(it, gate, started=False)
        leader.cancel()
        follower.cancel()
        await it.begun()
        assert it.on_their_way() == 1
        gate.open()
        await it.quiet()
        assert model.runs == [[[1]]]
        assert ids(await it.ask(text(5)).task) == [[5]]


async def test_run_that_everybody_has_left_is_ended_early() -> None:
    """As without a cache, nobody computes for nobody; while one of them waits, the run goes on."""
    gate, requested = Gate(), []

    class Ending(MirrorModel):
        def run(
            self, sources: Sequence[Encoding], raw: Sequence[bool], cancellation: Cancellation | None = None
        ) -> list[FloatArray]:
            gate()
            requested.append(cancellation is not None and cancellation.requested)
            return super().run(sources, raw)

    model = Ending()
    async with remembering(model) as it:
        leader, follower = await waiting_pair(it, gate, started=True)
        leader.cancel()
        await it.begun()
        follower.cancel()
        await it.begun()
        gate.open()
        await it.quiet()
        assert requested == [True]


async def test_deadline_of_the_leader_is_not_that_of_its_followers() -> None:
    """A text whose first caller's deadline passes in the queue still runs for those whose has not."""
    gate, clock = Gate(), FakeClock()
    model = MirrorModel(gate)
    async with remembering(model, clock=clock) as it:
        busy = it.ask(text(1))
        await gate.entered()
        leader = it.ask(text(5), seconds=5)
        await it.begun()
        follower = it.ask(text(5), seconds=50)
        patient = it.ask(text(5))
        await it.begun()
        assert (follower.hits, patient.hits) == (1, 1)
        clock.advance(10)
        leader.cancel()
        gate.open()
        for call in (busy, follower, patient):
            await call.task
        assert model.runs == [[[1]], [[5]]]


async def test_text_expires_with_the_last_deadline() -> None:
    """When every deadline has passed the text is not run, and all are told."""
    gate, clock = Gate(), FakeClock()
    model = MirrorModel(gate)
    async with remembering(model, clock=clock) as it:
        busy = it.ask(text(1))
        await gate.entered()
        calls = [it.ask(text(5), seconds=seconds) for seconds in (5, 8)]
        await it.begun()
        clock.advance(9)
        gate.open()
        await busy.task
        for call in calls:
            with pytest.raises(DeadlineExceededError):
                await call.task
        assert model.runs == [[[1]]]
        assert not it.on_their_way()


async def test_follower_waits_no_longer_than_its_own_deadline() -> None:
    """A follower's deadline ends its wait, however long the run of its leader takes."""
    gate = Gate()
    async with remembering(MirrorModel(gate)) as it:
        leader = it.ask(text(5))
        await gate.entered()
        follower = it.ask(text(5), seconds=0.05)
        with pytest.raises(DeadlineExceededError):
            await follower.task
        gate.open()
        assert ids(await leader.task) == [[5]]


@pytest.mark.parametrize(
    "terms", [{"priority": 1}, {"fairness_key": "other"}, {"seconds": 20.0}], ids=["priority", "share", "deadline"]
)
async def test_nobody_waits_behind_whom_it_comes_before(terms: dict[str, Any]) -> None:
    """A call that would be served sooner than the one that asked first has its own place; its answer serves both."""
    gate = Gate()
    model = MirrorModel(gate)
    async with remembering(model) as it:
        it.ask(text(1))
        await gate.entered()
        slow = it.ask(text(5))
        await it.begun()
        urgent = it.ask(text(5), **terms)
        await it.begun()
        assert (urgent.hits, urgent.misses, it.on_their_way()) == (0, 1, 3)
        gate.open()
        assert ids(await urgent.task) == ids(await slow.task) == [[5]]
        await it.quiet()
        assert not it.on_their_way()


async def test_text_that_was_answered_meanwhile_does_not_run() -> None:
    """Of two places of one text in the queue the first to run answers both."""
    gate = Gate()
    model = MirrorModel(gate)
    async with remembering(model, rows=1) as it:
        it.ask(text(1))
        await gate.entered()
        slow = it.ask(text(5))
        await it.begun()
        urgent = it.ask(text(5), priority=1)
        await it.begun()
        gate.open()
        await asyncio.gather(slow.task, urgent.task)
        await it.quiet()
        assert model.runs == [[[1]], [[5]]]


async def test_run_goes_on_while_one_is_left() -> None:
    """A run is not ended early for a leader who goes."""
    gate, requested = Gate(), []

    class Ending(MirrorModel):
        def run(
            self, sources: Sequence[Encoding], raw: Sequence[bool], cancellation: Cancellation | None = None
        ) -> list[FloatArray]:
            gate()
            requested.append(cancellation is not None and cancellation.requested)
            return super().run(sources, raw)

    async with remembering(Ending()) as it:
        leader, follower = await waiting_pair(it, gate, started=True)
        leader.cancel()
        await it.begun()
        gate.open()
        await follower.task
        assert requested == [False]


async def test_refused_call_leaves_nothing_behind() -> None:
    """A call that the forecast refuses begins nothing that others could wait for, and joins nobody."""
    gate, clock = Gate(), FakeClock(0.0)
    model = MirrorModel(gate)
    async with remembering(model, clock=clock) as it:
        assert isinstance(it.parts, EncoderScheduler)
        forecast = Forecast(1, 0.3)
        # A token costs 10 ms, and a run at the budget 1 s.
        it.parts.lane.forecast = forecast.model(Prices(PackedCost(0.0, 0.01, 0.0), 100))
        busy = it.ask(text(1))
        await gate.entered()
        first = it.ask(text(*[5] * 20))
        await it.begun()
        second = it.ask(text(*[6] * 20), text(*[5] * 20))
        await it.begun()
        refused = it.ask(text(*[5] * 20), text(*[7] * 20))
        with pytest.raises(QueueFullError):
            await refused.task
        assert (refused.hits, refused.misses) == (0, 0)
        assert it.on_their_way() == 3
        gate.open()
        for call in (busy, first, second):
            await call.task
        await it.quiet()
        assert (forecast.waiting.seconds, len(forecast.runs), it.on_their_way()) == (0.0, 0, 0)
        assert sum(len(run) for run in model.runs) == 3


async def test_follower_is_not_priced() -> None:
    """Who waits for a text that runs anyway is taken in, although nothing else would be."""
    gate, clock = Gate(), FakeClock(0.0)
    async with remembering(MirrorModel(gate), clock=clock) as it:
        assert isinstance(it.parts, EncoderScheduler)
        it.parts.lane.forecast = Forecast(1, 0.3).model(Prices(PackedCost(0.0, 0.01, 0.0), 100))
        busy, first = it.ask(text(1)), it.ask(text(*[5] * 40))
        await gate.entered()
        follower = it.ask(text(*[5] * 40))
        await it.begun()
        assert follower.hits == 1
        gate.open()
        for call in (busy, first, follower):
            await call.task


async def test_failure_of_a_text_is_that_of_all_who_asked_for_it() -> None:
    """A text on which the model fails fails the calls that hold it; other texts of these calls harm nobody."""
    gate = Gate()
    model = MirrorModel(gate)
    async with remembering(model) as it:
        leader = it.ask(text(POISON), text(5), text(6))
        await gate.entered()
        poisoned, healthy = it.ask(text(7), text(POISON)), it.ask(text(5), text(6))
        await it.begun()
        assert healthy.hits == 2
        gate.open()
        for call in (leader, poisoned):
            with pytest.raises(EngineError):
                await call.task
        assert ids(await healthy.task) == [[5], [6]]
        await it.quiet()
        assert not it.on_their_way()


async def test_shutdown_answers_followers() -> None:
    """Whoever fails everybody fails those who wait for others, too."""
    gate = Gate()
    async with remembering(MirrorModel(gate)) as it:
        calls = [*await waiting_pair(it, gate, started=False), it.ask(text(1))]
        await it.begun()
        it.parts.dispatcher.fail_all(DrainingError("shutting down", 0.1))
        for call in calls:
            with pytest.raises(DrainingError):
                await call.task
        gate.open()
        await it.quiet()
        assert not it.on_their_way()


async def test_what_is_spent_is_spent_on_those_who_stay() -> None:
    """The processor time of a text whose first callers have gone is charged to another, not written off."""
    gate = Gate()

    def work() -> None:
        gate()
        sum(range(300_000))

    async with remembering(MirrorModel(work)) as it:
        leader, follower = await waiting_pair(it, gate, started=True)
        last = it.ask(text(5))
        await it.begun()
        leader.cancel()
        await it.begun()
        follower.cancel()
        await it.begun()
        before = [call.terms.spending.seconds for call in (leader, follower)]
        gate.open()
        await last.task
        assert [call.terms.spending.seconds for call in (leader, follower)] == before
        assert last.terms.spending.seconds > 0.001


async def test_generations_are_shared_and_remembered() -> None:
    """A text that is being generated is joined by others; when its first caller goes it is finished for them."""
    gate = Gate()
    model = EchoModel(on_step=gate)
    async with remembering_generator(model) as it:
        leader = it.generate([5, 6, 7])
        await gate.entered()
        follower = it.generate([8], [5, 6, 7])
        await it.begun()
        leader.cancel()
        await it.begun()
        gate.open()
        assert generated(await follower.task) == [[8], [5, 6, 7]]
        assert model.joins == [[5, 6, 7], [8]]
        later = it.generate([5, 6, 7])
        (answer,) = await later.task
        assert (answer.token_ids, answer.inference_seconds, later.hits) == ([5, 6, 7], 0.0, 1)
