"""What each call costs: every second of processor time is charged once, to the texts that it was spent on."""

from __future__ import annotations

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import pytest
from fakes import POISON_LATER, FakeClock, Gate
from headwaiter_server.batching.lane import LoneRuns
from headwaiter_server.encoding import Encoding
from headwaiter_server.scheduling.calls import Call, Terms
from headwaiter_server.scheduling.spending import Spending

from .burning import POISON, BurningEncoder, BurningModel, Ledger
from .encoder_scheduler import EncoderScheduler, encoder_scheduler
from .engines import ThreadClock
from .scheduler import scheduler

TOKEN_SECONDS = 0.25


@pytest.fixture
def ledger(monkeypatch: pytest.MonkeyPatch) -> Ledger:
    """An account of processor time that passes only when engines say so."""
    clock = ThreadClock()
    monkeypatch.setattr(time, "thread_time", clock)

    def spend(seconds: float) -> float:
        before = clock()
        clock.spend(seconds)
        return clock() - before

    return Ledger(spend)


def numbered(number: int, length: int = 1) -> Encoding:
    """A text that goes by its number."""
    return Encoding([number, *[7] * (length - 1)])


def charged(call: Call[object]) -> float:
    return call.terms.spending.seconds


async def over(*calls: Call[object]) -> None:
    """Return when all are answered, whatever with."""
    async with asyncio.timeout(20):
        await asyncio.gather(*(call.future for call in calls), return_exceptions=True)


def submitted(parts: EncoderScheduler, *sources: Encoding, deadline: float = 1e9) -> Call[object]:
    return parts.submit(*sources, terms=Terms(parts.dispatcher.clock(), deadline))  # type: ignore[return-value]


def test_what_is_written_off_is_noted_once_before_and_after() -> None:
    """What was spent before a call was given up is noted at once, what is spent afterwards when it comes."""
    spending, noted = Spending(), list[float]()
    spending.add(1.0)
    spending.add(2.0)
    spending.write_off(noted.append)
    spending.add(4.0)
    assert noted == [3.0, 4.0]
    assert spending.seconds == 0.0


def test_terms_that_are_copied_begin_with_nothing_spent() -> None:
    """Messages of one stream share their terms, and none pays for another."""
    terms = Terms(0.0)
    terms.spending.add(1.0)
    assert replace(terms, arrived=1.0).spending.seconds == 0.0


async def test_run_is_charged_by_tokens(ledger: Ledger) -> None:
    """Of a run, each text costs its call its part of the tokens, and a call pays for all of its texts."""
    async with encoder_scheduler(BurningEncoder(ledger, TOKEN_SECONDS)) as parts:
        calls = [submitted(parts, numbered(10, 4)), submitted(parts, numbered(11, 12), numbered(12, 8))]
        await over(*calls)
    assert [charged(call) for call in calls] == [1.0, 5.0]
    assert [run.cpu_seconds for run in parts.runs] == [6.0]


async def test_padded_run_is_charged_by_tokens_too(ledger: Ledger) -> None:
    """Padding is everybody's: a long text of a padded run costs more than a short one, as in a packed run."""
    async with encoder_scheduler(BurningEncoder(ledger, TOKEN_SECONDS, packed=False), run_tokens=100) as parts:
        calls = [submitted(parts, numbered(10, 4)), submitted(parts, numbered(11, 12))]
        await over(*calls)
    assert [charged(call) for call in calls] == [1.0, 3.0]


async def test_threads_of_a_run_count_each(ledger: Ledger) -> None:
    """A run on several threads takes as many processors; so does a run that has the server to itself."""
    model = BurningEncoder(ledger, TOKEN_SECONDS)
    async with encoder_scheduler(model, threads=2) as parts:
        pair = submitted(parts, numbered(10, 2), numbered(11, 2))
        await over(pair)
        parts.lane.lone_runs = LoneRuns(model, threads=4, workers=1, from_tokens=1)
        alone = submitted(parts, numbered(12, 4))
        await over(alone)
    assert [charged(call) for call in (pair, alone)] == [2 * 1.0, 4 * 1.0]
    assert [run.cpu_seconds for run in parts.runs] == [2.0, 4.0]


@pytest.mark.parametrize("seed", range(6))
async def test_every_try_of_a_run_that_is_halved_is_charged(ledger: Ledger, seed: int) -> None:
    """Texts pay for each try they were in, also for those that raised, and nobody for a try without them."""
    dice = random.Random(seed)
    sources = [numbered(POISON if dice.random() < 0.2 else 100 + each, dice.randint(1, 9)) for each in range(20)]
    async with encoder_scheduler(BurningEncoder(ledger, TOKEN_SECONDS)) as parts:
        calls = [submitted(parts, source) for source in sources]
        await over(*calls)
    by_text = dict.fromkeys((source.ids[0] for source in sources), 0.0)
    for source, call in zip(sources, calls, strict=True):
        by_text[source.ids[0]] += charged(call)
    assert by_text == pytest.approx({text: ledger.of(text) for text in by_text}, rel=1e-9)
    assert sum(run.cpu_seconds for run in parts.runs) == pytest.approx(ledger.total)
    assert ledger.total > TOKEN_SECONDS * sum(map(len, sources)) or POISON not in by_text


async def test_texts_that_never_ran_cost_nothing(ledger: Ledger) -> None:
    """A call that is cancelled or expires while it waits has cost nothing, and its mates do not pay less."""
    clock, gate = FakeClock(), Gate()
    model = BurningEncoder(ledger, TOKEN_SECONDS)
    model.on_run = lambda _: gate()
    async with encoder_scheduler(model, clock=clock) as parts:
        first = submitted(parts, numbered(10, 4))
        await gate.entered()
        gone, late, stays = (
            submitted(parts, numbered(number, 4), deadline=deadline)
            for number, deadline in ((11, 1e9), (12, clock.now + 1), (13, 1e9))
        )
        gone.future.cancel()
        clock.advance(2)
        gate.open()
        await over(first, gone, late, stays)
    assert [charged(call) for call in (first, gone, late, stays)] == [1.0, 0.0, 0.0, 1.0]


async def test_call_that_ends_between_its_runs_and_in_one_pays_for_both(ledger: Ledger) -> None:
    """Of a call of many texts, those that had run are paid for when it is given up, and those in a run afterwards."""
    gate, noted = Gate(), list[float]()
    model = BurningEncoder(ledger, TOKEN_SECONDS)

    def hold_the_second(sources: Sequence[Encoding]) -> None:
        if sources[0].ids[0] == 11:
            gate()

    model.on_run = hold_the_second
    async with encoder_scheduler(model, tokens=10) as parts:
        call = submitted(parts, *(numbered(number, 8) for number in (10, 11, 12)))
        await gate.entered()
        call.future.cancel()
        call.terms.spending.write_off(noted.append)
        gate.open()
        await parts.quiet()
    assert noted == [2.0, 2.0]
    assert 12 not in ledger.spent


async def test_iteration_is_charged_by_what_it_did(ledger: Ledger) -> None:
    """Who joins pays for the encoding by source tokens, and every row for its part of each step it was in."""
    async with scheduler(BurningModel(ledger, TOKEN_SECONDS)) as parts:
        calls = [parts.submit([10, 3]), parts.submit([11, 3, 3, 3, 3])]
        await over(*calls)  # type: ignore[arg-type]
    # Source tokens, and steps: one for each token and one for the end.
    assert [charged(call) for call in calls] == [TOKEN_SECONDS * (2 + 3), TOKEN_SECONDS * (5 + 6)]  # type: ignore[arg-type]
    assert sum(facts.cpu_seconds for facts in parts.iterations) == ledger.total


@pytest.mark.parametrize("seed", range(8))
async def test_generations_pay_for_themselves_in_any_mix_of_ends(ledger: Ledger, seed: int) -> None:
    """With texts that join, finish, fail, expire and are cancelled at random, each call pays for its texts alone."""
    dice = random.Random(seed)
    clock = FakeClock()
    model = BurningModel(ledger, TOKEN_SECONDS)
    written_off: defaultdict[int, list[float]] = defaultdict(list)
    calls = []
    async with scheduler(model, rows=6, workers=2, clock=clock) as parts:
        for number in range(10, 70):
            source = [number, *(dice.randint(3, 90) for _ in range(dice.randint(1, 12)))]
            if dice.random() < 0.1:
                source = [POISON_LATER, *source]
            sources = [source, [number, 5]] if dice.random() < 0.3 else [source]
            deadline = clock.now + 0.5 if dice.random() < 0.2 else 1e9
            call = parts.submit(*sources, max_new_tokens=10, terms=Terms(clock.now, deadline))
            calls.append((call, sources))
            for _ in range(dice.randint(0, 3)):
                await asyncio.sleep(0)
            if dice.random() < 0.4:
                victim = dice.choice(calls)[0]
                if victim.future.cancel():
                    victim.terms.spending.write_off(written_off[id(victim)].append)
            clock.advance(dice.random() / 20)
        await over(*(call for call, _ in calls))  # type: ignore[arg-type]
        async with asyncio.timeout(10):
            while parts.lane.running or parts.dispatcher.busy_workers:
                await asyncio.sleep(0)
    paid = [charged(call) + sum(written_off[id(call)]) for call, _ in calls]  # type: ignore[arg-type]
    # A text that fails later has the poison's number instead of its own.
    for seconds, (_, sources) in zip(paid, calls, strict=True):
        if all(source[0] != POISON_LATER for source in sources):
            assert seconds == pytest.approx(ledger.of(sources[0][0]))
    assert sum(paid) == pytest.approx(ledger.total)
    assert sum(facts.cpu_seconds for facts in parts.iterations) == pytest.approx(ledger.total)
