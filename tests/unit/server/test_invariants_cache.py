"""Invariants 1 and 2 with answers remembered: everybody is answered once, rightly, whatever happens to the others."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass

from fakes import POISON, EchoModel, MirrorModel
from headwaiter_server.encoding import Encoding
from headwaiter_server.errors import DeadlineExceededError, EngineError
from headwaiter_server.scheduling.calls import NO_DEADLINE
from hypothesis import given, settings
from hypothesis import strategies as st

from .remembering import Answers, Asking, Remembering, generated, ids, remembering, remembering_generator

# Few texts, so that many calls ask for the same.
TEXTS = st.sampled_from([3, 4, 5, 6, 7, POISON])


@dataclass(frozen=True)
class Arrival:
    """A call.

    Attributes:
        texts: What it asks for.
        raw: Whether it wants raw answers.
        priority: Its priority.
        key: Its fairness key.
        seconds: Until its deadline.
        turns: Turns of the event loop until the next call.
        cancels: Which of the calls so far is cancelled after it, if any.
    """

    texts: list[int]
    raw: bool
    priority: int
    key: str
    seconds: float
    turns: int
    cancels: int | None


ARRIVALS = st.lists(
    st.builds(
        Arrival,
        st.lists(TEXTS, min_size=1, max_size=4),
        st.booleans(),
        st.sampled_from([4, 4, 4, 1]),
        st.sampled_from(["", "", "other"]),
        st.sampled_from([NO_DEADLINE, NO_DEADLINE, NO_DEADLINE, 0.002, 0.5]),
        st.integers(0, 4),
        st.none() | st.integers(0, 30),
    ),
    min_size=1,
    max_size=25,
)


@settings(max_examples=120, deadline=None)
@given(
    ARRIVALS, st.integers(1, 3), st.sampled_from([1, 2, 64]), st.sampled_from([0, 600, 1200, 1 << 20]), st.integers()
)
def test_everybody_is_answered_once_and_rightly(
    arrivals: list[Arrival], workers: int, rows: int, max_bytes: int, seed: int
) -> None:
    """Calls for the same few texts, cancelled and expiring at random, with an engine that fails now and then."""
    dice = random.Random(seed)

    def fail_sometimes() -> None:
        if dice.random() < 0.05:
            raise MemoryError("no memory")

    async def run() -> None:
        model = MirrorModel(fail_sometimes)
        async with remembering(model, workers=workers, rows=rows, max_bytes=max_bytes) as it:
            calls: list[tuple[Asking, Arrival]] = []
            cancelled: set[int] = set()
            for arrival in arrivals:
                sources = [Encoding([number]) for number in arrival.texts]
                asking = it.ask(
                    *sources,
                    raw=arrival.raw,
                    seconds=arrival.seconds,
                    priority=arrival.priority,
                    fairness_key=arrival.key,
                )
                calls.append((asking, arrival))
                if arrival.cancels is not None:
                    calls[arrival.cancels % len(calls)][0].cancel()
                    cancelled.add(arrival.cancels % len(calls))
                for _ in range(arrival.turns):
                    await asyncio.sleep(0)
            async with asyncio.timeout(20):
                answers = await asyncio.gather(*(call.task for call, _ in calls), return_exceptions=True)
            for number, (answer, (_, arrival)) in enumerate(zip(answers, calls, strict=True)):
                check(answer, arrival, cancelled=number in cancelled)
            await nothing_is_left(it)

    asyncio.run(run())


def check(answer: Answers | BaseException, arrival: Arrival, *, cancelled: bool) -> None:
    """Hold an answer to what was asked."""
    if isinstance(answer, asyncio.CancelledError):
        assert cancelled
    elif isinstance(answer, DeadlineExceededError):
        assert arrival.seconds < NO_DEADLINE
    elif not isinstance(answer, EngineError):
        assert not isinstance(answer, BaseException), answer
        sign = -1 if arrival.raw else 1
        assert ids(answer) == [[sign * each] for each in arrival.texts]
        assert POISON not in arrival.texts


async def nothing_is_left(it: Remembering) -> None:
    """Nothing waits, nothing is on its way, and the bytes are those of the answers that are there."""
    await it.quiet()
    shelf = it.cache.shelf(it.parts.lane)
    assert shelf is not None
    assert not shelf._flights
    assert it.cache.size_bytes == sum(kept.size_bytes for kept in shelf.answers.values()) <= it.cache.max_bytes
    assert it.cache.entries == len(shelf.answers)
    assert not it.parts.crashes


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.lists(st.sampled_from([[3], [4, 5], [6, 7, 8], [POISON]]), min_size=1, max_size=3),
            st.integers(1, 4),
            st.integers(0, 3),
            st.none() | st.integers(0, 30),
        ),
        min_size=1,
        max_size=20,
    )
)
def test_generations_are_answered_once_and_rightly(
    arrivals: list[tuple[list[list[int]], int, int, int | None]],
) -> None:
    """The same for a model that generates, with limits that cut some of the answers short."""

    async def run() -> None:
        async with remembering_generator(EchoModel()) as it:
            calls: list[Asking] = []
            cancelled: set[int] = set()
            for sources, limit, turns, cancels in arrivals:
                calls.append(it.generate(*sources, limit=limit))
                if cancels is not None:
                    calls[cancels % len(calls)].cancel()
                    cancelled.add(cancels % len(calls))
                for _ in range(turns):
                    await asyncio.sleep(0)
            async with asyncio.timeout(20):
                answers = await asyncio.gather(*(call.task for call in calls), return_exceptions=True)
            for number, (answer, (sources, limit, _, _)) in enumerate(zip(answers, arrivals, strict=True)):
                if isinstance(answer, asyncio.CancelledError):
                    assert number in cancelled
                elif isinstance(answer, EngineError):
                    assert [POISON] in sources
                else:
                    assert not isinstance(answer, BaseException), answer
                    assert generated(answer) == [source[:limit] for source in sources]
            await nothing_is_left(it)

    asyncio.run(run())


async def test_texts_of_many_calls_at_one_time_run_once() -> None:
    """However many calls ask for a text while it waits or runs, no run holds it a second time."""
    model = MirrorModel()
    async with remembering(model, workers=3, rows=4) as it:
        dice = random.Random(7)
        calls = []
        for _ in range(300):
            wanted = [dice.randrange(3, 40) for _ in range(dice.randrange(1, 5))]
            calls.append((it.ask(*(Encoding([number]) for number in wanted)), wanted))
            if dice.random() < 0.2:
                await asyncio.sleep(0)
        for call, wanted in calls:
            assert ids(await call.task) == [[number] for number in wanted]
        ran = [source[0] for run in model.runs for source in run]
        assert len(ran) == len(set(ran)) == 37
        assert sum(call.hits for call, _ in calls) == sum(len(wanted) for _, wanted in calls) - 37
