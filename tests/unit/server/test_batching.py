"""Encoder lanes: which texts share a run, who is answered, and what never reaches the engine."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Sequence
from typing import cast

import numpy as np
import pytest
from fakes import POISON, FakeClock, Gate, MirrorModel
from headwaiter_server.batching.lane import LoneRuns
from headwaiter_server.batching.task import Answer, CloseReason, RunFacts
from headwaiter_server.encoding import Encoding
from headwaiter_server.errors import DeadlineExceededError, DrainingError, EngineError, HeadwaiterError
from headwaiter_server.model.contract import Cancellation, EncoderModel, FloatArray, RefusedInputError
from headwaiter_server.model.encoder import Head, PackedEncoder, PaddedEncoder
from headwaiter_server.scheduling.calls import Call, Terms
from headwaiter_server.scheduling.policy import Budget
from hypothesis import given, settings
from hypothesis import strategies as st

from .encoder_scheduler import encoder_scheduler, of_lengths, text
from .graphs import encodings, endless_bytes, expected, opened, packed_bytes, padded_bytes

EMBED = Head("embedding", "unit_embedding")


async def settled(*calls: Call[Answer]) -> list[list[Answer] | BaseException]:
    """All answers; a call that is never answered fails the test instead of hanging it."""
    async with asyncio.timeout(20):
        return await asyncio.gather(*(call.future for call in calls), return_exceptions=True)


def values(answers: list[Answer] | BaseException) -> list[list[float]]:
    assert isinstance(answers, list), answers
    return [answer.values.tolist() for answer in answers]


def lengths(model: MirrorModel) -> list[list[int]]:
    return [[len(ids) for ids in run] for run in model.runs]


async def runs_of(model: MirrorModel, sizes: list[int], **options: object) -> list[list[int]]:
    """Lengths of the texts of each run, when all of them wait while the only worker is busy."""
    gate = Gate()
    model.on_run = gate
    async with encoder_scheduler(model, **options) as parts:  # type: ignore[arg-type]
        first = parts.submit(text(1))
        await gate.entered()
        calls = [parts.submit(source) for source in of_lengths(sizes)]
        gate.open()
        await settled(first, *calls)
    return lengths(model)[1:]


async def test_packed_run_takes_texts_in_order_up_to_its_tokens() -> None:
    """A packed run is filled in the order of the policy, whatever the lengths; a text over the budget runs alone."""
    runs = await runs_of(MirrorModel(), [40, 30, 20, 20, 500, 60, 41], tokens=100)
    assert runs == [[40, 30, 20], [20], [500], [60], [41]]


async def test_rows_bound_a_run_too() -> None:
    """However few tokens they have, a run has at most the budget's rows."""
    assert await runs_of(MirrorModel(), [1] * 10, rows=4) == [[1] * 4, [1] * 4, [1] * 2]


async def test_padded_run_takes_texts_of_like_length() -> None:
    """A padded run takes the first text's likes, wherever they wait, and leaves the others their places."""
    runs = await runs_of(MirrorModel(packed=False), [10, 100, 11, 12, 99, 9, 101], tokens=1000, run_tokens=5)
    assert runs == [[10, 11, 12, 9], [100, 99, 101]]


async def test_padded_run_counts_its_padding() -> None:
    """A padded run's budget is its rows times its longest text."""
    runs = await runs_of(MirrorModel(packed=False), [30, 30, 40, 30], tokens=100, run_tokens=1000)
    assert runs == [[30, 30, 30], [40]]


async def test_fifo_takes_32_as_they_come() -> None:
    """The baseline takes 32 texts in order, whatever padding them costs."""
    sizes = [1, 100] * 35
    runs = await runs_of(MirrorModel(packed=False), sizes, tokens=50, batching="fifo")
    assert runs == [sizes[:32], sizes[32:64], sizes[64:]]


async def test_fifo_of_a_packed_graph_is_bounded() -> None:
    """Packed, 32 of the longest texts would need gigabytes for their attention: the run is closed before."""
    assert await runs_of(MirrorModel(), [600] * 4, batching="fifo") == [[600] * 3, [600]]


async def test_no_batching_runs_one_text_at_a_time() -> None:
    """With batching off, every run has one text."""
    assert await runs_of(MirrorModel(), [3, 4, 5], batching="none") == [[3], [4], [5]]


async def test_idle_workers_share_what_waits() -> None:
    """Two idle workers get half of the tokens each, instead of one of them all and the other none."""
    barrier = threading.Barrier(2, timeout=10)
    model = MirrorModel(on_run=lambda: cast("None", barrier.wait()))
    async with encoder_scheduler(model, workers=2, tokens=1000, run_tokens=10) as parts:
        await settled(parts.submit(*of_lengths([20] * 8)))
    assert lengths(model) == [[20] * 4] * 2


async def test_little_work_is_not_split() -> None:
    """What costs less than starting a run is not split, though workers are idle."""
    model = MirrorModel()
    async with encoder_scheduler(model, workers=2, run_tokens=10) as parts:
        await settled(parts.submit(*of_lengths([2] * 5)))
    assert lengths(model) == [[2] * 5]


async def test_budget_can_be_changed_while_serving() -> None:
    """A budget that is set anew holds for the next run."""
    model = MirrorModel()
    async with encoder_scheduler(model, tokens=100) as parts:
        await settled(parts.submit(*of_lengths([10] * 4)))
        parts.lane.budget = Budget(64, 20)
        await settled(parts.submit(*of_lengths([10] * 4)))
    assert lengths(model) == [[10] * 4, [10, 10], [10, 10]]


async def test_lone_text_is_run_with_all_threads() -> None:
    """A long text that finds the whole server idle is run by the other model; with company, or short, it is not."""
    model, lone = MirrorModel(), MirrorModel()
    async with encoder_scheduler(model, workers=2) as parts:
        parts.lane.lone_runs = LoneRuns(lone, threads=2, workers=2, from_tokens=50)
        await settled(parts.submit(*of_lengths([60])))
        assert (lengths(model), lengths(lone)) == ([], [[60]])
        await settled(parts.submit(*of_lengths([40])))
        await settled(parts.submit(*of_lengths([60, 70])))
        assert sorted(lengths(model)) == [[40], [60], [70]]
        gate = Gate()
        model.on_run = gate
        first = parts.submit(*of_lengths([5]))
        await gate.entered()
        second = parts.submit(*of_lengths([80]))
        await asyncio.sleep(0)
        gate.open()
        await settled(first, second)
    assert lengths(lone) == [[60]]


async def test_reasons_and_padding_are_told() -> None:
    """Each run says why it held no more, and what it computed beyond its texts' tokens."""
    model = MirrorModel(packed=False)
    gate = Gate()
    model.on_run = gate
    async with encoder_scheduler(model, tokens=100, run_tokens=20) as parts:
        calls = [parts.submit(text(1))]
        await gate.entered()
        calls += [parts.submit(source) for source in of_lengths([40, 35, 30, 400])]
        gate.open()
        await settled(*calls)
    told = [(run.rows, run.tokens, run.padding_tokens, run.reason) for run in parts.runs]
    assert told == [
        (1, 1, 0, CloseReason.EMPTY),
        (2, 75, 5, CloseReason.BUDGET),
        (1, 30, 0, CloseReason.BUDGET),
        (1, 400, 0, CloseReason.ALONE),
    ]
    assert [run.batch_id for run in parts.runs] == [1, 2, 3, 4]


async def test_facts_ride_with_the_answer() -> None:
    """An answer says how long it waited and ran, and what shared its run."""
    clock = FakeClock()
    model = MirrorModel(on_run=lambda: clock.advance(0.5))
    async with encoder_scheduler(model, clock=clock) as parts:
        first, second = parts.submit(text(5, 6)), parts.submit(text(7, 8, 9), raw=True)
        clock.advance(2.0)
        (one,), (other,) = await first.future, await second.future
    assert (one.values.tolist(), other.values.tolist()) == ([5, 6], [-7, -8, -9])
    for answer in (one, other):
        assert (answer.queue_seconds, answer.inference_seconds) == (2.0, 0.5)
        assert (answer.batch_size, answer.batch_tokens, answer.batch_id) == (2, 5, 1)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("packed", [True, False])
async def test_random_cancels_expiry_and_poison_leave_nobody_waiting(seed: int, *, packed: bool) -> None:
    """With callers that go or expire at random among poisoned and healthy texts, everybody is answered, rightly."""
    dice = random.Random(seed)
    clock = FakeClock()
    async with encoder_scheduler(MirrorModel(packed=packed), workers=2, tokens=60, clock=clock) as parts:
        calls: list[tuple[Call[Answer], list[Encoding]]] = []
        for _ in range(150):
            sources = [
                text(POISON)
                if dice.random() < 0.05
                else text(*(dice.randrange(100, 999) for _ in range(dice.randint(1, 30))))
                for _ in range(dice.choice([1, 1, 1, 5]))
            ]
            deadline = clock.now + 0.5 if dice.random() < 0.2 else clock.now + 1e6
            calls.append((parts.submit(*sources, terms=Terms(clock.now, deadline)), sources))
            if dice.random() < 0.3:
                dice.choice(calls)[0].future.cancel()
            if dice.random() < 0.3:
                clock.advance(dice.random())
                await asyncio.sleep(0)
        for (call, sources), answer in zip(calls, await settled(*(call for call, _ in calls)), strict=True):
            if isinstance(answer, EngineError):
                assert any(source.ids[0] == POISON for source in sources)
            elif isinstance(answer, DeadlineExceededError):
                assert call.terms.deadline <= clock.now
            elif not isinstance(answer, asyncio.CancelledError):
                assert values(answer) == [source.ids for source in sources]
        await parts.quiet()
        assert not parts.crashes


async def test_bad_text_fails_alone() -> None:
    """A text that makes its run raise fails, without a word of why; its batch-mates are answered with their own."""
    async with encoder_scheduler(MirrorModel()) as parts:
        answers = await settled(
            *(parts.submit(text(POISON if number in {2, 5} else number + 10)) for number in range(8))
        )
    for number, answer in enumerate(answers):
        if number in {2, 5}:
            assert isinstance(answer, EngineError)
            assert "secret" not in str(answer)
        else:
            assert values(answer) == [[number + 10]]
    assert [str(failure) for failure in parts.failures] == ["secret poison in a run"] * 2


async def test_expired_and_cancelled_texts_never_reach_the_engine() -> None:
    """Of texts that wait, those whose callers have gone or whose deadlines have passed are dropped unrun."""
    clock = FakeClock()
    gate = Gate()
    model = MirrorModel(on_run=gate)
    async with encoder_scheduler(model, clock=clock) as parts:
        first = parts.submit(text(1))
        await gate.entered()
        late = parts.submit(text(2), terms=Terms(clock.now, deadline=clock.now + 1))
        gone, stays = parts.submit(text(3)), parts.submit(text(4))
        gone.future.cancel()
        clock.advance(2)
        gate.open()
        answers = await settled(first, late, gone, stays)
    assert isinstance(answers[1], DeadlineExceededError)
    assert [run[0][0] for run in model.runs] == [1, 4]


async def test_texts_that_die_between_choice_and_run_never_reach_the_engine() -> None:
    """Whoever goes, or expires, after the run was put together but before its worker began is not run either."""
    clock = FakeClock()
    model = MirrorModel()
    async with encoder_scheduler(model, clock=clock) as parts:
        gone, late, stays = (
            parts.submit(text(number), terms=Terms(clock.now, deadline))
            for number, deadline in [(1, 1e9), (2, clock.now + 1), (3, 1e9)]
        )
        batch = parts.lane.take(clock.now, 1)
        assert batch is not None
        gone.future.cancel()
        clock.advance(2)
        batch.execute()
        batch.settle()
        answers = await settled(gone, late, stays)
    assert model.runs == [[[3]]]
    assert isinstance(answers[1], DeadlineExceededError)
    assert values(answers[2]) == [[3]]
    assert parts.lane.running == 0


async def test_run_whose_callers_have_all_gone_ends_early() -> None:
    """A real run of a minute ends when its last caller goes, counts as no failure, and the next text is answered."""
    endless = PackedEncoder(opened(endless_bytes()), EMBED)
    quick = PackedEncoder(opened(packed_bytes()), EMBED)
    begun = threading.Event()

    class Model:
        packed = True

        def run(
            self, sources: Sequence[Encoding], raw: Sequence[bool], cancellation: Cancellation | None = None
        ) -> list[FloatArray]:
            begun.set()
            return (endless if len(sources) > 1 else quick).run(sources, raw, cancellation)

    async with encoder_scheduler(Model()) as parts:
        calls = [parts.submit(source) for source in encodings([2, 3])]
        await asyncio.to_thread(begun.wait, 10)
        calls[0].future.cancel()
        await asyncio.sleep(0)
        assert parts.lane.running == 2
        calls[1].future.cancel()
        await parts.quiet()
        assert [run.abandoned for run in parts.runs] == [True]
        assert not parts.failures
        (source,) = encodings([4])
        (answer,) = await settled(parts.submit(source, raw=True))
        assert values(answer) == [expected(source).tolist()]


async def test_one_remaining_caller_keeps_the_run() -> None:
    """As long as one caller of a run is there, it goes on; a call of several texts counts as one caller."""
    gate = Gate()
    model = MirrorModel(on_run=gate)
    async with encoder_scheduler(model) as parts:
        gone, stays = parts.submit(text(1), text(2), text(3)), parts.submit(text(4))
        await gate.entered()
        gone.future.cancel()
        await asyncio.sleep(0)
        gate.open()
        _, answer = await settled(gone, stays)
        assert values(answer) == [[4]]
        assert not parts.runs[0].abandoned


async def test_engine_that_always_raises_answers_everybody() -> None:
    """If every run raises, every call is answered with an error and the next one is tried afresh."""

    def fail() -> None:
        raise MemoryError("no memory")

    model = MirrorModel(on_run=fail)
    async with encoder_scheduler(model) as parts:
        answers = await settled(*(parts.submit(text(number)) for number in range(10)))
        assert all(isinstance(answer, EngineError) for answer in answers)
        model.on_run = lambda: None
        (answer,) = await settled(parts.submit(text(5)))
        assert values(answer) == [[5]]


async def test_token_that_the_graph_has_no_answer_to_is_a_failure_of_the_engine() -> None:
    """Unlike what a caller sends as tensors: tokens are made here, and somebody must be told."""

    def refuse() -> None:
        raise RefusedInputError("index beyond a table")

    async with encoder_scheduler(MirrorModel(on_run=refuse)) as parts:
        (answer,) = await settled(parts.submit(text(1)))
        await parts.quiet()
        assert isinstance(answer, EngineError)
        assert [type(failure) for failure in parts.failures] == [RefusedInputError]


async def test_too_few_answers_fail_the_run_and_nobody_waits() -> None:
    """A model that answers fewer texts than it was given leaves nobody waiting."""

    class Forgetful(MirrorModel):
        def run(
            self,
            sources: Sequence[Encoding],
            raw: Sequence[bool],
            cancellation: Cancellation | None = None,
        ) -> list[FloatArray]:
            return super().run(sources, raw)[:-1]

    async with encoder_scheduler(Forgetful()) as parts:
        answers = await settled(*(parts.submit(text(number)) for number in range(4)))
    assert all(isinstance(answer, EngineError) for answer in answers)


async def test_failing_everybody_reaches_those_in_a_run() -> None:
    """Whoever waits and whoever is in a run is answered at once, and the run's late results are ignored."""
    gate = Gate()
    async with encoder_scheduler(MirrorModel(on_run=gate), tokens=1) as parts:
        calls = [parts.submit(text(number)) for number in range(3)]
        await gate.entered()
        parts.dispatcher.fail_all(DrainingError("bye", 0.1))
        assert all(isinstance(answer, DrainingError) for answer in await settled(*calls))
        gate.open()
        await parts.quiet()
        assert not parts.crashes


async def test_bug_in_an_observer_fails_nobody_silently() -> None:
    """If reporting a run raises, its callers have been answered, those who wait are told, and later ones refused."""

    def broken(facts: RunFacts) -> None:
        raise ZeroDivisionError

    async with encoder_scheduler(MirrorModel(), tokens=1) as parts:
        parts.lane._observer.run_finished = broken  # type: ignore[method-assign]
        answers = await settled(*(parts.submit(text(number)) for number in range(3)))
        assert values(answers[0]) == [[0]]
        assert all(isinstance(answer, HeadwaiterError) for answer in answers[1:])
        assert parts.crashes == [True]


async def test_old_text_is_not_overtaken_for_ever_by_likes() -> None:
    """On a padded model, a long text is served although short ones, all alike, keep coming."""
    clock = FakeClock()
    model = MirrorModel(on_run=lambda: clock.advance(0.1), packed=False)
    async with encoder_scheduler(model, tokens=100, run_tokens=5, clock=clock) as parts:
        busy = [parts.submit(source) for source in of_lengths([10] * 50)]
        old = parts.submit(*of_lengths([90]))
        while not old.over:
            busy += [parts.submit(source) for source in of_lengths([10] * 10)]
            runs = len(model.runs)
            while len(model.runs) == runs and not old.over:  # ten more come with every run
                await asyncio.sleep(0)
            assert runs < 400, "it starved"
        parts.dispatcher.fail_all(EngineError("end of test"))
        await settled(old, *busy)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=40),
    st.integers(1, 9),
    st.integers(1, 150),
    st.integers(1, 3),
    st.booleans(),
)
def test_every_text_gets_its_own_answer_within_budget(
    sizes: list[int],
    rows: int,
    tokens: int,
    workers: int,
    packed: bool,  # noqa: FBT001 - drawn by hypothesis
) -> None:
    """For any mix of lengths and any budget, on real graphs: text i gets answer i, and no run exceeds its budget."""
    sources = encodings(sizes)
    graph = opened(packed_bytes() if packed else padded_bytes())
    model: EncoderModel = PackedEncoder(graph, EMBED) if packed else PaddedEncoder(graph, EMBED, pad_id=0)

    async def run() -> None:
        async with encoder_scheduler(model, rows=rows, tokens=tokens, workers=workers) as parts:
            calls = [parts.submit(source, raw=True) for source in sources]
            for source, answer in zip(sources, await settled(*calls), strict=True):
                assert isinstance(answer, list)
                np.testing.assert_allclose(answer[0].values, expected(source), rtol=1e-6)
            assert sum(facts.rows for facts in parts.runs) == len(sources)
            for facts in parts.runs:
                assert facts.rows <= rows
                assert facts.rows == 1 or facts.tokens + facts.padding_tokens <= tokens
                assert packed <= (facts.padding_tokens == 0)

    asyncio.run(run())
