"""What was answered before, or is being answered for others, does not run again; and nobody's answer is any other."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from collections.abc import Sequence

import numpy as np
import pytest
from fakes import POISON, EchoModel, Gate, MirrorModel
from headwaiter_server.encoding import Encoding
from headwaiter_server.errors import EngineError
from headwaiter_server.lifecycle.catalog import Catalog
from headwaiter_server.metrics import Metrics
from headwaiter_server.model.contract import Cancellation, FloatArray
from headwaiter_server.pipeline import Pipeline, ResponseCache, Timings

from .encoder_scheduler import encoder_scheduler, text
from .remembering import Remembering, generated, ids, remembering, remembering_generator


async def test_answer_is_given_again_without_a_run() -> None:
    """The second call for a text gets the same answer, for no run and no time."""
    model = MirrorModel()
    async with remembering(model) as it:
        first, second = it.ask(text(5, 6)), None
        assert ids(await first.task) == [[5, 6]]
        second = it.ask(text(5, 6))
        answers = await second.task
        assert ids(answers) == [[5, 6]]
        assert model.runs == [[[5, 6]]]
        assert (first.hits, first.misses, second.hits, second.misses) == (0, 1, 1, 0)
        assert second.terms.trail.started is None
        assert Timings.of(0.5, answers) == Timings(0.5, 0.0, 0.0, 0, 0, 0)
        assert (it.counted("hit"), it.counted("miss")) == (1, 1)


async def test_only_what_is_not_there_runs() -> None:
    """Of a call's texts those that are remembered are given, the others run, and each stands in its place."""
    model = MirrorModel()
    async with remembering(model) as it:
        await it.ask(text(5), text(6)).task
        call = it.ask(text(7), text(6), text(8), text(5))
        answers = await call.task
        assert ids(answers) == [[7], [6], [8], [5]]
        assert model.runs[1:] == [[[7], [8]]]
        assert (call.hits, call.misses) == (2, 2)
        # Times are those of what ran.
        assert Timings.of(0.0, answers).batch_id == 2
        assert Timings.of(0.0, answers).batch_size == 2


async def test_same_texts_of_one_call_run_once() -> None:
    """A call that sends a text three times has it computed once."""
    model = MirrorModel()
    async with remembering(model) as it:
        call = it.ask(text(5), text(6), text(5), text(5))
        assert ids(await call.task) == [[5], [6], [5], [5]]
        assert model.runs == [[[5], [6]]]
        assert (call.hits, call.misses) == (2, 2)


async def test_whatever_changes_an_answer_is_part_of_the_question() -> None:
    """The raw answer, other type ids and another model's answer are not taken for each other."""
    model, other = MirrorModel(), MirrorModel()
    async with remembering(model) as it, remembering(other) as there:
        assert ids(await it.ask(text(5)).task) == [[5]]
        assert ids(await it.ask(text(5), raw=True).task) == [[-5]]
        for types in ([0], [1], None):
            await it.ask(Encoding([5], types)).task
        assert len(model.runs) == 4
        it.cache.open(there.parts.lane, "other")
        there.pipeline._cache = it.cache
        await there.ask(text(5)).task
        assert other.runs == [[[5]]]


async def test_limit_of_new_tokens_is_part_of_the_question() -> None:
    """A text that was generated up to one limit says nothing of another limit."""
    model = EchoModel()
    async with remembering_generator(model) as it:
        assert generated(await it.generate([5, 6, 7]).task) == [[5, 6, 7]]
        assert generated(await it.generate([5, 6, 7], limit=2).task) == [[5, 6]]
        assert generated(await it.generate([5, 6, 7]).task) == [[5, 6, 7]]
        assert model.joins == [[5, 6, 7], [5, 6, 7]]


async def test_no_reply_can_alter_what_is_kept() -> None:
    """Arrays cannot be written to, neither the leader's nor a follower's nor a later caller's; lists are copies."""
    async with remembering(MirrorModel()) as it:
        both = it.ask(text(5)), it.ask(text(5))
        for call in (*both, it.ask(text(5))):
            (answer,) = await call.task
            with pytest.raises(ValueError, match="read-only"):
                answer.values[0] = 7
            with pytest.raises(ValueError, match="WRITEABLE"):
                answer.values.setflags(write=True)
    async with remembering_generator(EchoModel()) as it:
        for _ in range(3):
            (answer,) = await it.generate([5, 6]).task
            assert answer.token_ids == [5, 6]
            answer.token_ids.clear()


async def test_errors_are_not_remembered() -> None:
    """A text on which the model failed is tried again; the others of its call are remembered."""
    failing = True

    def fail() -> None:
        if failing:
            raise MemoryError("no memory")

    model = MirrorModel(fail)
    async with remembering(model) as it:
        with pytest.raises(EngineError):
            await it.ask(text(5)).task
        assert len(it.parts.failures) == 1
        failing = False
        assert ids(await it.ask(text(5)).task) == [[5]]
        with pytest.raises(EngineError):
            await it.ask(text(6), text(POISON)).task
        last = it.ask(text(6))
        assert ids(await last.task) == [[6]]
        assert last.hits == 1
        assert it.cache.entries == 2


async def fill(it: Remembering, numbers: Sequence[int]) -> None:
    for number in numbers:
        assert ids(await it.ask(text(number)).task) == [[number]]


async def test_least_recently_used_go_first() -> None:
    """With room for three answers the one that was not asked for longest gives way, whichever model gave it."""
    async with remembering(MirrorModel()) as it:
        await fill(it, [1])
        one = it.cache.size_bytes
        it.cache.max_bytes = 3 * one
        await fill(it, [2, 3, 1, 4])
        assert (it.cache.entries, it.cache.size_bytes, it.cache.evicted) == (3, 3 * one, 1)
        for number, there in ((1, True), (3, True), (4, True), (2, False)):
            call = it.ask(text(number))
            await call.task
            assert (call.hits == 1) is there, number
        async with remembering(MirrorModel()) as other:
            it.cache.open(other.parts.lane, "other")
            other.pipeline._cache = it.cache
            await fill(other, [7, 8])
            assert it.cache.evicted == 4
            await fill(other, [7, 8])
            assert it.cache.evicted == 4
            call = it.ask(text(2))
            await call.task
            assert call.hits == 1, "the last one asked for stays"


async def test_answer_larger_than_the_cache_is_not_kept() -> None:
    """It is given, and nothing else has to go for it."""
    async with remembering(MirrorModel()) as it:
        await fill(it, [1])
        it.cache.max_bytes = 4 * it.cache.size_bytes
        large = text(*range(3, 2000))
        assert len(ids(await it.ask(large).task)[0]) == 1997
        assert (it.cache.entries, it.cache.evicted) == (1, 0)
        call = it.ask(large)
        await call.task
        assert (call.hits, call.misses) == (0, 1)


class WideModel:
    """Answers each text with a row of one array, as real models do."""

    packed = True

    def __init__(self, width: int) -> None:
        self.width = width

    def run(
        self, sources: Sequence[Encoding], raw: Sequence[bool], cancellation: Cancellation | None = None
    ) -> list[FloatArray]:
        return list(np.ones((len(sources), self.width), np.float32))


@pytest.mark.parametrize("width", [1, 384])
async def test_bytes_are_counted_as_they_are(width: int) -> None:
    """What the cache says it takes is what Python has allocated for it, with all that stands around the answers."""
    async with remembering(WideModel(width), max_bytes=1 << 30) as it:
        await it.ask(*(text(3, number) for number in range(50))).task
        gc.collect()
        tracemalloc.start()
        try:
            before, counted = tracemalloc.get_traced_memory()[0], it.cache.size_bytes
            for start in range(1000, 5000, 50):
                await it.ask(*(text(3, number) for number in range(start, start + 50))).task
            gc.collect()
            taken, counted = tracemalloc.get_traced_memory()[0] - before, it.cache.size_bytes - counted
        finally:
            tracemalloc.stop()
        assert it.cache.entries == 4050
        assert 0.9 * counted < taken < 1.1 * counted


async def test_model_that_has_gone_is_forgotten() -> None:
    """Its answers make room, in slices; the model in its place answers anew; a late answer is not kept."""
    gate = Gate()
    model = MirrorModel(gate)
    gate.open()
    async with remembering(model) as it, remembering(MirrorModel()) as there:
        it.cache.open(there.parts.lane, "other")
        there.pipeline._cache = it.cache
        await fill(there, [1])
        kept = it.cache.size_bytes
        await fill(it, range(100, 1500))
        shelf = it.cache.shelf(it.parts.lane)
        assert shelf is not None
        it.cache.forget(it.parts.lane)
        assert (it.cache.entries, it.cache.size_bytes) == (1, kept)
        for _ in range(5):
            await asyncio.sleep(0)
        assert not shelf.answers
        it.cache.forget(it.parts.lane)
        it.cache.open(it.parts.lane, "m")
        call = it.ask(text(100))
        await call.task
        assert (call.hits, call.misses) == (0, 1)


async def test_answer_that_comes_after_its_model_has_gone_is_not_kept() -> None:
    """A run that nobody waited for may end later than its model's place."""
    gate = Gate()
    async with remembering(MirrorModel(gate)) as it:
        call = it.ask(text(5))
        await gate.entered()
        it.cache.forget(it.parts.lane)
        gate.open()
        assert ids(await call.task) == [[5]]
        assert (it.cache.entries, it.cache.size_bytes) == (0, 0)


async def test_model_that_is_not_opened_is_not_remembered() -> None:
    """Without a place in the cache, or without a cache, every call runs."""
    model = MirrorModel()
    async with encoder_scheduler(model) as parts:
        metrics = Metrics()
        for cache in (None, ResponseCache(1000, metrics)):
            it = Remembering(parts, metrics, ResponseCache(1000, metrics))
            it.pipeline = Pipeline(Catalog(), parts.dispatcher, metrics, 100, cache)
            for _ in range(2):
                call = it.ask(text(5))
                assert ids(await call.task) == [[5]]
                assert (call.hits, call.misses) == (0, 0)
    assert len(model.runs) == 4
