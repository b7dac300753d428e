"""What runs tell of themselves: how long they were waited for, and when tokens came."""

from __future__ import annotations

import asyncio
import random

import pytest
from fakes import EOS, EchoModel, FakeClock, Gate, MirrorModel
from headwaiter_server.scheduling.calls import Terms

from .encoder_scheduler import encoder_scheduler, text
from .scheduler import scheduler


async def test_run_waits_from_its_oldest_text_while_a_worker_is_idle() -> None:
    """What passes between a text's arrival before an idle worker and its run is the run's wait."""
    clock = FakeClock()
    async with encoder_scheduler(MirrorModel(), clock=clock) as parts:
        first = parts.submit(text(5))
        clock.advance(2.0)
        second = parts.submit(text(6))
        clock.advance(0.5)
        await asyncio.gather(first.future, second.future)
    assert [run.wait_seconds for run in parts.runs] == [2.5]


async def test_run_does_not_wait_while_every_worker_is_busy() -> None:
    """Time in which no worker was idle is queueing, not the run's wait."""
    clock, gate = FakeClock(), Gate()
    model = MirrorModel(on_run=gate)
    async with encoder_scheduler(model, clock=clock) as parts:
        first = parts.submit(text(5))
        await gate.entered()
        second = parts.submit(text(6))
        clock.advance(3.0)
        gate.open()
        await asyncio.gather(first.future, second.future)
    assert [run.wait_seconds for run in parts.runs] == [0.0, 0.0]


async def test_first_and_next_tokens_are_timed() -> None:
    """The first token counts from the call's arrival, each later one from the one before; the end is no token."""
    clock = FakeClock()
    async with scheduler(EchoModel(on_step=lambda: clock.advance(0.5)), clock=clock) as parts:
        terms = Terms(clock.now - 1.0)
        calls = [parts.submit([5], terms=terms), parts.submit([6, 7, 8])]
        await asyncio.gather(*(call.future for call in calls))
    told = [(facts.first_tokens, facts.next_tokens, facts.token_seconds) for facts in parts.iterations]
    assert [(firsts, following) for firsts, following, _ in told] == [([1.5, 0.5], 0), ([], 1), ([], 1), ([], 0)]
    assert [seconds for _, following, seconds in told if following] == [0.5, 0.5]


async def test_answer_without_tokens_has_no_first_one() -> None:
    """A text that generates nothing but the end has waited for no token."""
    async with scheduler() as parts:
        await parts.submit([EOS]).future
    assert [(facts.first_tokens, facts.next_tokens) for facts in parts.iterations] == [([], 0)]


@pytest.mark.parametrize("seed", range(5))
async def test_every_token_is_timed_once(seed: int) -> None:
    """With texts that end by themselves or at their limit, first and next tokens are all that were generated."""
    dice = random.Random(seed)
    async with scheduler(rows=5, workers=2) as parts:
        calls = [
            parts.submit(
                [*(dice.randint(3, 90) for _ in range(dice.randint(0, 9))), EOS], max_new_tokens=dice.randint(1, 8)
            )
            for _ in range(40)
        ]
        answers = await asyncio.gather(*(call.future for call in calls))
    lengths = [len(result.token_ids) for (result,) in answers]
    assert sum(len(facts.first_tokens) for facts in parts.iterations) == sum(length > 0 for length in lengths)
    assert sum(facts.next_tokens for facts in parts.iterations) == sum(max(0, length - 1) for length in lengths)


async def test_iteration_waits_from_the_end_of_the_one_before() -> None:
    """A batch that goes on could go on as soon as its last iteration was over and a worker idle."""
    clock, gate = FakeClock(), Gate()
    steps = 0

    def step() -> None:
        nonlocal steps
        steps += 1
        clock.advance(1.0)
        if steps == 2:
            gate()

    async with scheduler(EchoModel(on_step=step), clock=clock) as parts:
        call = parts.submit([5, 6])
        clock.advance(0.25)
        await gate.entered()
        gate.open()
        await call.future
    assert [facts.wait_seconds for facts in parts.iterations] == [0.25, 0.0, 0.0]
