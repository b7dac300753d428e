"""Room in the cache: what is set aside is never more than there is, nobody makes way, and nobody is overtaken."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable
from random import Random
from typing import cast

import pytest
from fakes import EchoModel, EchoRows, FakeClock, Gate, Turnstile, dice
from headwaiter_server.encoding import Encoding
from headwaiter_server.errors import EngineError, HeadwaiterError, InvalidRequestError
from headwaiter_server.generation.decoding import MOST_BEAMS, Decoding
from headwaiter_server.generation.running import RunningBatch
from headwaiter_server.generation.sequence import GenerationTask
from headwaiter_server.scheduling.calls import Terms

from .scheduler import Scheduler, scheduler

# What the echo model keeps of a token.
TOKEN = EchoModel.token_bytes


def rows_of(batch: RunningBatch) -> list[list[int]]:
    """What each row has read."""
    return cast("EchoRows", batch._engine._rows)._read


async def empty(parts: Scheduler) -> None:
    """Return when nobody waits or runs; nothing must be set aside then."""
    async with asyncio.timeout(10):
        while parts.lane.running or parts.lane.waiting or parts.dispatcher.busy_workers:
            await asyncio.sleep(0)
    assert (parts.lane.reserved_bytes, parts.lane.used_rows) == (0, 0)


@pytest.mark.parametrize("seed", range(12))
async def test_no_batch_ever_holds_more_than_its_room(seed: int) -> None:
    """Whatever comes and goes, what is set aside is within the room, and what is held within what is set aside."""
    random = Random(seed)
    workers, room = random.randint(1, 2), 150 * TOKEN
    model = EchoModel(decoder_only=random.random() < 0.5, distribution=dice(seed, end=1.0))
    async with scheduler(model, rows=8, workers=workers, cache_bytes=room * workers) as parts:

        def look() -> None:
            for batch in parts.lane._batches:
                held = sum([len(read) for read in rows_of(batch)]) * TOKEN
                # A row that nobody has may have read a token for nobody.
                assert held <= batch.reserved_bytes + 8 * TOKEN
                assert batch.reserved_bytes <= room

        model.on_step = look
        calls = []
        for number in range(60):
            decoding = Decoding(random.randint(1, 30), num_beams=random.choice([1, 1, 1, 2, 3]))
            calls.append(parts.submit([10 + number % 50] * random.randint(1, 12), decoding=decoding))
            for _ in range(random.randint(0, 4)):
                await asyncio.sleep(0)
            if random.random() < 0.2:
                random.choice(calls).future.cancel()
        answers = await asyncio.gather(*(call.future for call in calls), return_exceptions=True)
        assert all(isinstance(each, list | asyncio.CancelledError) for each in answers)
        assert max(facts.reserved_bytes for facts in parts.iterations) <= room
        assert not parts.failures
        await empty(parts)


REFUSED = [
    (Decoding(101), 1, "texts[4]", r"needs up to 808 bytes .* for 101 tokens, the limit is 800 \(--kv-cache-bytes\); "),
    (Decoding(101), 1, "texts[4]", "; a smaller max_new_tokens needs less$"),
    (Decoding(40, num_beams=3), 1, "texts[4]", r"with 3 beams, the limit is 800 \(--kv-cache-bytes\)"),
    (Decoding(1, num_beams=5), 1, "num_beams", r"is 5, the limit is 4 \(--max-batch-rows\)"),
    (Decoding(1001), 1, "max_new_tokens", "is 1001, the limit beside 0 tokens is 1000"),
]


@pytest.mark.parametrize(("decoding", "length", "field", "problem"), REFUSED)
async def test_what_could_never_fit_is_refused(decoding: Decoding, length: int, field: str, problem: str) -> None:
    """It names the field and the limit, and it never waits; whoever submits it all the same keeps nobody waiting."""
    model = EchoModel(max_total_tokens=1000)
    model.source_token_bytes = 0
    async with scheduler(model, rows=4, cache_bytes=100 * TOKEN) as parts:
        task = GenerationTask(Encoding([5] * length), decoding)
        with pytest.raises(InvalidRequestError, match=problem) as refused:
            parts.lane.check(task, "texts[4]")
        assert refused.value.field == field
        with pytest.raises(InvalidRequestError):
            await parts.submit([5] * length, decoding=decoding).future
        assert [each.token_ids for each in await parts.submit([5]).future] == [[5]]


async def test_a_refusal_tells_of_the_parts_of_workers() -> None:
    """A text must fit into a part of what is set; where it asks for one token, fewer are not proposed."""
    async with scheduler(EchoModel(decoder_only=True), workers=2, cache_bytes=200 * TOKEN) as parts:
        task = GenerationTask(Encoding([5] * 100), Decoding(1))
        with pytest.raises(InvalidRequestError, match=r"is 800 \(each of 2 workers' part of --kv-cache-bytes\)$"):
            parts.lane.check(task, "texts[0]")


async def test_text_that_fills_the_model_leaves_no_room_to_go_on() -> None:
    """A prompt of as many tokens as a row has is refused as such, one token shorter it is answered."""
    async with scheduler(EchoModel(decoder_only=True, max_total_tokens=20)) as parts:
        full = GenerationTask(Encoding([5] * 20), Decoding(1))
        with pytest.raises(InvalidRequestError, match="has 20 tokens, the limit is 19") as refused:
            parts.lane.check(full, "texts[0]")
        assert refused.value.field == "texts[0]"
        (last,) = await parts.submit([5] * 19, max_new_tokens=1).future
        assert last.token_ids == [5]


async def test_large_text_is_not_overtaken_by_small_ones() -> None:
    """Those who come behind one that does not fit in yet wait for it, although they would fit."""
    gate = Turnstile()
    model = EchoModel(gate)
    model.source_token_bytes = 0
    async with scheduler(model, cache_bytes=100 * TOKEN) as parts:
        first = [parts.submit([10 + number] * 9, max_new_tokens=30) for number in range(3)]
        await gate.entered()
        large = parts.submit([20] * 9, max_new_tokens=95)
        small = [parts.submit([30 + number], max_new_tokens=2) for number in range(5)]
        gate.let(10_000)
        await asyncio.gather(*(call.future for call in (*first, large, *small)))
        assert [source[0] for source in model.joins] == [10, 11, 12, 20, 30, 31, 32, 33, 34]
        assert any(facts.short_of_room for facts in parts.iterations)


async def test_large_text_gets_its_turn_while_small_ones_keep_coming() -> None:
    """However many small ones come after it, it begins once those are done that were there before it."""
    model = EchoModel()
    model.source_token_bytes = 0
    async with scheduler(model, cache_bytes=100 * TOKEN) as parts:
        small = [parts.submit([10] * 5, max_new_tokens=30) for _ in range(3)]
        await asyncio.sleep(0)
        large = parts.submit([20] * 5, max_new_tokens=100)
        while not large.over:
            small.append(parts.submit([11] * 5, max_new_tokens=30))
            await asyncio.sleep(0)
            assert len(small) < 10_000
        await asyncio.gather(*(call.future for call in small))
        joined = [source[0] for source in model.joins]
        assert joined.index(20) == 3


async def test_beams_wait_for_as_many_rows() -> None:
    """A text with beams begins when there is a row for each of them, and is not overtaken meanwhile."""
    gate = Turnstile()
    model = EchoModel(gate, distribution=dice(1, end=-50.0))
    async with scheduler(model, rows=4) as parts:
        long, *short = (parts.submit([5], max_new_tokens=limit) for limit in (10, 2, 2))
        await gate.entered()
        beams = parts.submit([40, 41], decoding=Decoding(5, num_beams=3))
        late = parts.submit([50], max_new_tokens=2)
        gate.let(10_000)
        await asyncio.gather(*(call.future for call in (long, *short, beams, late)))
        assert [source[0] for source in model.joins] == [5, 5, 5, 40, 50]
        assert not any(facts.short_of_room for facts in parts.iterations)
        assert max(facts.rows + facts.dummy_rows for facts in parts.iterations) <= 4


PHASES = {
    "before its prompt is read": (0, None),
    "in the middle of its prompt": (1, None),
    "in its first step": (None, 0),
    "in a later step": (None, 3),
}


def held(gate: Gate, number: int | None) -> Callable[[], None]:
    """Holds the engine in a run of this number."""
    runs = 0

    def run() -> None:
        nonlocal runs
        if runs == number:
            gate()
        runs += 1

    return run


@pytest.mark.parametrize("end", ["cancelled", "expired"])
@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("phase", PHASES)
async def test_text_that_is_not_wanted_leaves_its_room_at_once(phase: str, beams: int, end: str) -> None:
    """Wherever it was, one iteration later its rows and its room are free, for one that needs all of them."""
    part, step = PHASES[phase]
    gate, clock = Gate(), FakeClock()
    model = EchoModel(held(gate, step), decoder_only=True, distribution=dice(1, end=-50.0))
    model.on_join = held(gate, part)
    async with scheduler(model, rows=4, cache_bytes=150 * beams * TOKEN, clock=clock) as parts:
        terms = Terms(clock.now, deadline=clock.now + 10.0)
        gone = parts.submit([20] * 100, decoding=Decoding(40, num_beams=beams), terms=terms)
        await gate.entered()
        other = parts.submit([30] * 100, decoding=Decoding(40, num_beams=beams))
        if end == "cancelled":
            gone.future.cancel()
        else:
            clock.advance(20.0)
        before = len(parts.iterations)
        gate.open()
        while parts.lane.waiting:
            await asyncio.sleep(0)
        assert len(parts.iterations) <= before + 2
        with pytest.raises((asyncio.CancelledError, HeadwaiterError)):
            await gone.future
        (answer,) = await other.future
        assert len(answer.token_ids) == 40
        await empty(parts)


async def test_batch_whose_state_is_lost_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """When an iteration breaks, everybody in it is answered, and its rows, memory and room are there for others."""
    batches: list[weakref.ref[RunningBatch]] = []

    def broken(self: RunningBatch, *_: object) -> None:
        batches.append(weakref.ref(self))
        raise ZeroDivisionError

    async with scheduler(rows=4) as parts:
        call = parts.submit(range(20, 40))
        waiting = [parts.submit([30, 31], decoding=Decoding(5, num_beams=2)) for _ in range(3)]
        while not parts.model.steps:
            await asyncio.sleep(0)
        with monkeypatch.context() as patched:
            patched.setattr(RunningBatch, "_accept", broken)
            with pytest.raises(EngineError):
                await call.future
        assert batches
        await asyncio.gather(*(each.future for each in waiting), return_exceptions=True)
        assert (parts.lane.reserved_bytes, parts.lane.used_rows, parts.lane.running) == (0, 0, 0)
        (after,) = await parts.submit([50, 51]).future
        assert after.token_ids == [50, 51]
        gc.collect()  # of what the log has shown of the frames that the error passed through
        assert [batch() for batch in batches] == [None] * len(batches)
        assert not parts.crashes


async def test_text_that_runs_alone_has_as_many_beams_as_any() -> None:
    """Without batching there are rows for the beams of one text, however many rows there might be."""
    async with scheduler(EchoModel(distribution=dice(4)), rows=64, batching="none") as parts:
        assert parts.lane.rows == MOST_BEAMS
        calls = [parts.submit([20, 21], decoding=Decoding(5, num_beams=MOST_BEAMS)) for _ in range(2)]
        for call in calls:
            assert len((await call.future)[0].hypotheses) == 1
        assert all(facts.joined <= 1 for facts in parts.iterations)


async def test_text_that_is_cancelled_while_it_waits_lets_the_next_one_in() -> None:
    """Whoever did not fit in and has gone keeps nobody from the room that there is."""
    gate = Turnstile()
    model = EchoModel(gate)
    model.source_token_bytes = 0
    async with scheduler(model, cache_bytes=100 * TOKEN) as parts:
        running = parts.submit(range(10, 40), max_new_tokens=50)
        await gate.entered()
        large, small = parts.submit([20], max_new_tokens=90), parts.submit([30], max_new_tokens=20)
        gate.let()
        await gate.entered()
        assert parts.lane.waiting == 2
        large.future.cancel()
        gate.let(10_000)
        await small.future
        assert not running.over
        await running.future
        await empty(parts)
