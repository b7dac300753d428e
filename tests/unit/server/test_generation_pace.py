"""When tokens come: newcomers soon, those who are under way steadily, whatever is being read beside them."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from fakes import EchoModel, FakeClock, Gate, Turnstile
from headwaiter_server.generation.sequence import Generated, Progress
from headwaiter_server.scheduling.calls import Call

from .scheduler import scheduler

STEP, PART = 0.05, 0.04
LONG = [11] * (64 * 6)


class Timed:
    """A model whose steps, and parts of prompts, take a known time; tests let its steps through."""

    def __init__(self, *, decoder_only: bool) -> None:
        self.clock = FakeClock()
        self.gate = Turnstile()
        self.model = EchoModel(self._step, decoder_only=decoder_only)
        self.model.on_join = lambda: self.clock.advance(PART)

    def _step(self) -> None:
        self.gate()
        self.clock.advance(STEP)


def gaps(generated: Generated) -> list[float]:
    """Times between tokens."""
    times = generated.token_times
    return [after - before for before, after in itertools.pairwise(times)]


async def first_token_seconds(call: Call[Generated], arrived: float) -> float:
    (generated,) = await call.future
    return generated.token_times[0] - arrived


@pytest.mark.parametrize("decoder_only", [False, True], ids=["encoder", "decoder only"])
async def test_newcomer_gets_its_first_token_after_two_steps_and_its_own_prompt(*, decoder_only: bool) -> None:
    """Whoever comes just as a step begins, and finds a row free, waits for it, and for the one after its prompt."""
    timed = Timed(decoder_only=decoder_only)
    async with scheduler(timed.model, clock=timed.clock) as parts:
        running = [parts.submit(range(10, 40)) for _ in range(5)]
        for _ in range(3):  # all of them are under way
            await timed.gate.entered()
            timed.gate.let()
        await timed.gate.entered()
        arrived = timed.clock.now
        newcomer = parts.submit([50, 51])
        timed.gate.let(100)
        assert await first_token_seconds(newcomer, arrived) == pytest.approx(2 * STEP + PART)
        assert not any(call.over for call in running)
        await asyncio.gather(*(call.future for call in running))


async def test_text_that_is_alone_gets_its_first_token_with_the_last_of_its_prompt() -> None:
    """Where nobody waits for a step, a prompt is read in one go, and its first token waits for no step either."""
    timed = Timed(decoder_only=True)
    timed.gate.let(10_000)
    async with scheduler(timed.model, clock=timed.clock) as parts:
        arrived = timed.clock.now
        assert await first_token_seconds(parts.submit(LONG, max_new_tokens=3), arrived) == pytest.approx(6 * PART)
        assert [(facts.prefill_tokens, facts.rows) for facts in parts.iterations] == [(384, 0), (0, 1), (0, 1)]


async def test_long_prompt_leaves_the_others_their_pace() -> None:
    """While it is read, those who are under way get a token after each part, and it loses no turn."""
    timed = Timed(decoder_only=True)
    async with scheduler(timed.model, clock=timed.clock) as parts:
        others = [parts.submit(range(10, 50)) for _ in range(3)]
        for _ in range(5):
            await timed.gate.entered()
            timed.gate.let()
        await timed.gate.entered()
        arrived = timed.clock.now
        long = parts.submit(LONG, max_new_tokens=2)
        timed.gate.let(1000)
        assert await first_token_seconds(long, arrived) == pytest.approx(STEP + 6 * (STEP + PART))
        answers = await asyncio.gather(*(call.future for call in others))
    for (generated,) in answers:
        assert generated.token_ids == list(range(10, 50))
        assert max(gaps(generated)[5:]) <= STEP + PART + 1e-9


async def test_short_prompt_does_not_wait_for_a_long_one() -> None:
    """Behind a prompt that takes many iterations, a newcomer has its first token in its own first one."""
    timed = Timed(decoder_only=True)
    async with scheduler(timed.model, clock=timed.clock) as parts:
        other = parts.submit(range(10, 90))
        await timed.gate.entered()
        long = parts.submit(LONG, max_new_tokens=2)
        timed.gate.let(2)
        for _ in range(2):
            await timed.gate.entered()
        arrived = timed.clock.now
        short = parts.submit([60, 61])
        timed.gate.let(1000)
        # Its own prompt, and a part of the long one, which was there first.
        assert await first_token_seconds(short, arrived) == pytest.approx(2 * STEP + 2 * PART)
        assert not long.over
        await asyncio.gather(other.future, long.future)


@pytest.mark.parametrize("tokens", [1, 64, 1000])
async def test_long_prompt_is_not_overtaken_for_ever(tokens: int) -> None:
    """However many short ones keep coming, and how little is read at once, it is read by a part in each iteration."""
    timed = Timed(decoder_only=True)
    timed.gate.let(10_000)
    async with scheduler(timed.model, rows=64, tokens=tokens, clock=timed.clock) as parts:
        long: list[Call[Generated]] = []
        short: list[Call[Generated]] = []

        def more(_: Progress) -> None:  # after each iteration
            if not long:
                long.append(parts.submit(LONG, max_new_tokens=1))
            short.extend(parts.submit([60, 61], max_new_tokens=2) for _ in range(3))

        feeder = parts.submit(range(10, 60), watch=more)
        while not long:
            await asyncio.sleep(0)
        before = len(parts.iterations)
        await long[0].future
        assert len(parts.iterations) - before <= 6
        await asyncio.gather(feeder.future, *(call.future for call in short))


@pytest.mark.parametrize("decoder_only", [False, True], ids=["encoder", "decoder only"])
async def test_pieces_come_step_by_step(*, decoder_only: bool) -> None:
    """Whoever watches is told of each token in the iteration that it came in, a step after the one before."""
    timed = Timed(decoder_only=decoder_only)
    told: list[Progress] = []
    async with scheduler(timed.model, clock=timed.clock) as parts:
        call = parts.submit([20, 21, 22, 23], watch=told.append)
        first = 1 if decoder_only else 0  # it comes with the prompt
        for tokens in range(5 - first):
            await timed.gate.entered()
            assert len(told) == tokens + first
            timed.gate.let()
        (generated,) = await call.future
    assert [each.tokens[0].token_id for each in told] == generated.token_ids == [20, 21, 22, 23]
    assert tuple(each.seconds for each in told) == generated.token_times
    assert gaps(generated) == pytest.approx([STEP] * 3)


async def test_slow_step_does_not_hold_the_event_loop() -> None:
    """While a step goes on, the event loop does what it likes."""
    gate = Gate()
    async with scheduler(EchoModel(gate)) as parts:
        call = parts.submit([5])
        await gate.entered()
        for _ in range(1000):
            await asyncio.sleep(0)
        assert not call.over
        gate.open()
        await call.future


async def test_batch_that_starts_reads_no_more_than_a_step_takes_before_it_steps() -> None:
    """Of many prompts that come at once, the first text goes on while the others are still being read."""
    timed = Timed(decoder_only=True)
    timed.gate.let(10_000)
    async with scheduler(timed.model, rows=16, clock=timed.clock) as parts:
        await parts.submit([5]).future  # so that the length of a step is known
        calls = [parts.submit([20 + number] * 60) for number in range(10)]
        answers = await asyncio.gather(*(call.future for call in calls))
    for (generated,) in answers:
        assert max(gaps(generated)) <= STEP + PART + 1e-9
