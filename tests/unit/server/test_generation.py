"""Iteration-level batching: who joins, who leaves, and who is answered when."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest
from fakes import EOS, POISON, POISON_LATER, VOCAB, EchoModel, FakeClock, Gate, WorkersClock
from headwaiter_server.errors import DeadlineExceededError, EngineError
from headwaiter_server.generation.sequence import FinishReason, Generated
from headwaiter_server.model.contract import FloatArray
from headwaiter_server.scheduling.calls import Terms
from hypothesis import given, settings
from hypothesis import strategies as st

from .scheduler import scheduler


def tokens(results: list[Generated]) -> list[list[int]]:
    return [result.token_ids for result in results]


async def test_short_text_leaves_before_the_long_one_ends() -> None:
    """A text of three steps is answered after its third step beside one of twenty, and later steps run fewer rows."""
    async with scheduler() as parts:
        short, long = parts.submit([5, 6]), parts.submit(range(10, 29))
        steps_when_answered = []
        short.future.add_done_callback(lambda _: steps_when_answered.append(len(parts.model.steps)))
        assert tokens(await short.future) == [[5, 6]]
        assert tokens(await long.future) == [list(range(10, 29))]
        assert parts.model.steps == [2, 2, 2] + [1] * 17
        assert steps_when_answered[0] in {3, 4}  # the fourth step may have begun when the callback runs


async def test_newcomer_joins_a_running_batch() -> None:
    """A text that arrives in the middle of another's generation is decoded with it from the next step on."""
    gate = Gate()
    model = EchoModel(on_step=gate)
    async with scheduler(model) as parts:
        first = parts.submit(range(10, 20))
        await gate.entered()
        second = parts.submit([7, 8])
        gate.open()
        assert tokens(await second.future) == [[7, 8]]
        assert not first.over
        await first.future
        assert model.steps == [1, 2, 2, 2] + [1] * 7


async def test_fifo_fills_a_batch_only_when_it_is_empty() -> None:
    """With static batching, a newcomer waits until the last text of the running batch is done."""
    gate = Gate()
    model = EchoModel(on_step=gate)
    async with scheduler(model, batching="fifo") as parts:
        first = parts.submit(range(10, 15))
        await gate.entered()
        second = parts.submit([7])
        gate.open()
        await second.future
        assert first.over
        assert model.steps == [1] * 8


async def test_no_batching_runs_one_text_at_a_time() -> None:
    """With batching off, no step ever has two rows."""
    async with scheduler(batching="none") as parts:
        calls = [parts.submit([4, 5]) for _ in range(5)]
        await asyncio.gather(*(call.future for call in calls))
        assert set(parts.model.steps) == {1}


async def test_length_limit_ends_a_generation() -> None:
    """A text stops at its limit of new tokens and says so."""
    async with scheduler() as parts:
        (cut,) = await parts.submit(range(10, 20), max_new_tokens=3).future
        assert (cut.token_ids, cut.finish_reason) == ([10, 11, 12], FinishReason.LENGTH)
        (whole,) = await parts.submit(range(10, 20), max_new_tokens=11).future
        assert whole.finish_reason is FinishReason.END_OF_SEQUENCE
        assert len(parts.model.steps) == 3 + 11


async def test_rows_never_exceed_the_budget() -> None:
    """However many texts wait, a step has at most the budget's rows, and joining costs at most its tokens."""
    async with scheduler(rows=4, tokens=12) as parts:
        calls = [parts.submit([9] * length) for length in (1, 5, 3, 9, 2, 20, 4, 1, 1, 6, 7)]
        await asyncio.gather(*(call.future for call in calls))
        assert max(parts.model.steps) <= 4
        assert all(facts.prefill_tokens <= 12 or facts.joined == 1 for facts in parts.iterations)


async def test_two_workers_share_what_waits() -> None:
    """With two idle workers, the texts of one call are split between them instead of queueing behind one."""
    barrier = threading.Barrier(2, timeout=10)
    first_step = threading.local()

    def meet() -> None:
        if not getattr(first_step, "done", False):
            first_step.done = True
            barrier.wait()

    async with scheduler(EchoModel(on_step=meet), workers=2, rows=16) as parts:
        await parts.submit(*([3, 4] for _ in range(16))).future
        assert parts.model.steps[:2] == [8, 8]


async def test_poisoned_newcomer_fails_alone() -> None:
    """A text that makes the encoder raise fails; those that joined with it are answered."""
    async with scheduler() as parts:
        calls = [parts.submit([POISON] if index == 3 else [index + 10, 50]) for index in range(8)]
        answers = await asyncio.gather(*(call.future for call in calls), return_exceptions=True)
        assert isinstance(answers[3], EngineError)
        assert "secret" not in str(answers[3])
        for index in (0, 1, 2, 4, 5, 6, 7):
            assert tokens(answers[index]) == [[index + 10, 50]]  # type: ignore[arg-type]
        assert len(parts.failures) == 1


async def test_poison_in_a_step_fails_alone() -> None:
    """A text that makes a later step raise fails; its batch-mates end with the right tokens."""
    async with scheduler() as parts:
        calls = [parts.submit([POISON_LATER, 7] if index in {2, 5} else [index + 10, 50, 51]) for index in range(8)]
        answers = await asyncio.gather(*(call.future for call in calls), return_exceptions=True)
        assert [isinstance(answer, EngineError) for answer in answers] == [index in {2, 5} for index in range(8)]
        assert tokens(answers[0]) == [[10, 50, 51]]  # type: ignore[arg-type]
        assert tokens(answers[7]) == [[17, 50, 51]]  # type: ignore[arg-type]


async def test_one_bad_text_fails_its_own_call_only() -> None:
    """A call of several texts fails as a whole if one of them does; other calls do not notice."""
    async with scheduler() as parts:
        bad, good = parts.submit([5], [POISON], [6]), parts.submit([7], [8])
        with pytest.raises(EngineError):
            await bad.future
        assert tokens(await good.future) == [[7], [8]]


async def test_text_that_is_being_encoded_is_running() -> None:
    """From its submission to its answer a text either waits or runs, also while it joins a batch."""
    gate, model = Gate(), EchoModel()
    model.on_join = gate
    async with scheduler(model) as parts:
        calls = [parts.submit([5, 6]), parts.submit([7])]
        assert (parts.lane.waiting, parts.lane.running) == (2, 0)
        await gate.entered()
        assert (parts.lane.waiting, parts.lane.running) == (0, 2)
        gate.open()
        for call in calls:
            await call.future
        assert (parts.lane.waiting, parts.lane.running) == (0, 0)


async def test_cancelled_text_leaves_the_running_batch() -> None:
    """A generation whose caller has gone is not decoded any further, and its batch-mate is."""
    gate = Gate()
    model = EchoModel(on_step=gate)
    async with scheduler(model) as parts:
        gone, stays = parts.submit(range(10, 40)), parts.submit(range(40, 45))
        await gate.entered()
        gone.future.cancel()
        gate.open()
        assert tokens(await stays.future) == [list(range(40, 45))]
        assert model.steps == [2] + [1] * 5
        assert parts.lane.running == 0


async def test_expired_text_never_reaches_the_engine() -> None:
    """A text whose deadline passes while it waits is answered DEADLINE_EXCEEDED and never encoded."""
    clock = FakeClock()
    gate = Gate()
    model = EchoModel(on_step=gate)
    async with scheduler(model, rows=1, clock=clock) as parts:
        running = parts.submit([10, 11])
        await gate.entered()
        late = parts.submit([20], terms=Terms(clock.now, deadline=clock.now + 1.0))
        in_time = parts.submit([30], terms=Terms(clock.now, deadline=clock.now + 100.0))
        clock.advance(2.0)
        gate.open()
        with pytest.raises(DeadlineExceededError):
            await late.future
        await asyncio.gather(running.future, in_time.future)
        assert [20] not in model.joins


async def test_expired_generation_leaves_the_running_batch() -> None:
    """A generation whose deadline passes between two steps is answered and decoded no further."""
    clock = FakeClock()
    model = EchoModel(on_step=lambda: clock.advance(1.0))
    async with scheduler(model, clock=clock) as parts:
        late = parts.submit(range(10, 60), terms=Terms(clock.now, deadline=clock.now + 3.5))
        with pytest.raises(DeadlineExceededError):
            await late.future
        other = parts.submit([5])
        await other.future
        assert len(model.steps) == 4 + 2


async def test_text_that_expires_on_its_way_to_the_worker_never_reaches_the_engine() -> None:
    """Its deadline passes after the dispatcher has looked, before the run begins: it is answered, and not encoded."""
    clock = WorkersClock(ahead_seconds=2.0)
    model = EchoModel()
    async with scheduler(model, clock=clock) as parts:
        late = parts.submit([20], terms=Terms(clock.now, deadline=clock.now + 1.0))
        in_time = parts.submit([30], terms=Terms(clock.now, deadline=clock.now + 100.0))
        with pytest.raises(DeadlineExceededError):
            await late.future
        await in_time.future
        assert model.joins == [[30]]
        assert (parts.lane.running, parts.lane.used_rows, parts.lane.reserved_bytes) == (0, 0, 0)


async def test_generation_that_expires_on_its_way_to_the_worker_is_decoded_no_further() -> None:
    """As of a text that is new, of one that has rows: they are free at once."""
    clock = WorkersClock(ahead_seconds=0.0)

    def second_step_comes_late() -> None:
        clock.ahead_seconds = 2.0

    model = EchoModel(on_step=second_step_comes_late)
    async with scheduler(model, clock=clock) as parts:
        late = parts.submit(range(10, 60), terms=Terms(clock.now, deadline=clock.now + 1.0))
        with pytest.raises(DeadlineExceededError):
            await late.future
        assert len(model.steps) == 1
        assert (parts.lane.running, parts.lane.used_rows, parts.lane.reserved_bytes) == (0, 0, 0)


async def test_facts_ride_with_the_result() -> None:
    """A result says how long it waited and ran, the largest batch it shared, and the number of its first run."""
    clock = FakeClock()
    model = EchoModel(on_step=lambda: clock.advance(0.5))
    async with scheduler(model, clock=clock) as parts:
        first, second = parts.submit([5]), parts.submit([6, 7, 8])
        clock.advance(2.0)
        (one,), (other,) = await first.future, await second.future
        assert (one.queue_seconds, one.inference_seconds) == (2.0, 1.0)
        assert (other.queue_seconds, other.inference_seconds) == (2.0, 2.0)
        assert one.batch_size == other.batch_size == 2
        assert one.batch_tokens == 1 + 3 + 2
        assert one.batch_id == other.batch_id == 1


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(st.integers(3, 97), min_size=1, max_size=12), min_size=1, max_size=40),
    st.integers(1, 9),
    st.integers(1, 3),
)
def test_every_text_gets_its_own_answer(sources: list[list[int]], rows: int, workers: int) -> None:
    """For any mix of lengths and batch sizes, row i belongs to request i: each text is echoed to its own caller."""

    async def run() -> None:
        async with scheduler(rows=rows, workers=workers) as parts:
            calls = [parts.submit(source) for source in sources]
            answers = await asyncio.gather(*(call.future for call in calls))
            assert [tokens(answer) for answer in answers] == [[source] for source in sources]

    asyncio.run(run())


def wordy(source: list[int], generated: list[int]) -> FloatArray:
    """As many tokens as a text's first one says, however short the text."""
    logits = np.zeros(VOCAB, np.float32)
    logits[50 if len(generated) < source[0] else EOS] = 1.0
    return logits


async def test_fair_shares_count_what_is_generated() -> None:
    """A caller of short texts with long answers gets as many tokens as one of long texts with short answers."""
    gate = Gate()
    model = EchoModel(on_step=gate, distribution=wordy)
    async with scheduler(model, rows=1) as parts:
        talker, reader = Terms(0.0, fairness_key="talker"), Terms(0.0, fairness_key="reader")
        calls = [parts.submit([1])]
        await gate.entered()
        calls += [parts.submit(*[[20]] * 40, terms=talker), parts.submit(*[[1] * 20] * 40, terms=reader)]
        gate.open()
        await asyncio.gather(*(call.future for call in calls))
    first = [len(source) for source in model.joins[1:31]]
    assert abs(first.count(1) - first.count(20)) <= 2


async def test_fifo_fills_a_batch_however_long_its_prompts_are() -> None:
    """What may be read in one iteration spreads the reading of a static batch, and does not make it smaller."""
    async with scheduler(EchoModel(decoder_only=True), rows=6, tokens=64, batching="fifo") as parts:
        calls = [parts.submit([10 + number] * 70) for number in range(6)]
        answers = await asyncio.gather(*(call.future for call in calls))
        assert [tokens(answer) for answer in answers] == [[[10 + number] * 70] for number in range(6)]
        assert max(facts.rows for facts in parts.iterations) == 6
        assert max(facts.prefill_tokens for facts in parts.iterations) <= 64 + 64
