"""Calibration finds the cost of an engine, and plans by it."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from headwaiter_server.encoding import Encoding
from headwaiter_server.lifecycle.calibration import Asked, Calibrator
from headwaiter_server.lifecycle.plan import CalibrationPlan, describe, guess
from headwaiter_server.scheduling.cost import PackedCost, PaddedCost

from .engines import CostlyEncoder, ThreadClock

LONGEST = 256
TRUE = PackedCost(0.001, 0.0003, 2e-7)


def packed(factor: float = 1.0, fixed: float = TRUE.fixed, quadratic: float = TRUE.quadratic) -> CostlyEncoder:
    cost = PackedCost(fixed, TRUE.linear, quadratic)
    return CostlyEncoder(ThreadClock(), lambda lengths: factor * cost.seconds(sum(lengths)))


def calibrate(
    engine: CostlyEncoder,
    lone: CostlyEncoder | None = None,
    *,
    workers: int = 2,
    longest: int = LONGEST,
    resident: Callable[[], int] = lambda: 0,
) -> CalibrationPlan:
    if lone is not None:
        lone.clock = engine.clock
    calibrator = Calibrator(workers, engine.clock, resident)

    def make_text(tokens: int) -> Encoding:
        return Encoding([7] * tokens)

    plan = calibrator.measure(engine, longest, make_text)
    return plan if lone is None else calibrator.measure_lone(plan, engine, lone, longest, make_text)


def test_packed_cost_of_an_engine_is_found() -> None:
    """The cost that the engine has is the cost of the plan, and its knee the budget."""
    plan = calibrate(packed())
    assert isinstance(plan.cost, PackedCost)
    for tokens in (8, 100, 512):
        assert plan.cost.seconds(tokens) == pytest.approx(TRUE.seconds(tokens), rel=1e-3)
    assert 96 <= plan.budget_tokens <= 512


def test_padded_cost_of_an_engine_is_found() -> None:
    """A padded model is measured by rows and longest text."""
    true = PaddedCost(0.002, 0.0003, 1e-6)
    engine = CostlyEncoder(ThreadClock(), lambda lengths: true.seconds(len(lengths), max(lengths)), packed=False)
    plan = calibrate(engine)
    assert isinstance(plan.cost, PaddedCost)
    assert plan.cost.seconds(7, 100) == pytest.approx(true.seconds(7, 100), rel=1e-3)


def test_other_engines_get_other_budgets() -> None:
    """An engine that is dear to start gets larger runs, one that is dear for pairs of tokens smaller ones."""
    usual = calibrate(packed()).budget_tokens
    assert calibrate(packed(fixed=0.02)).budget_tokens > usual
    assert calibrate(packed(fixed=0.02, quadratic=1e-5)).budget_tokens < calibrate(packed(fixed=0.02)).budget_tokens


def test_every_worker_runs_at_the_same_time() -> None:
    """Each size is measured on all workers; with one processor's worth of quota, on one."""
    for workers in (1, 3):
        engine = packed()
        calibrate(engine, workers=workers)
        counts = {tuple(lengths): 0 for lengths in engine.runs}
        for lengths in engine.runs:
            counts[tuple(lengths)] += 1
        assert all(count % workers == 0 for count in counts.values())


def test_texts_are_no_longer_than_the_model_takes() -> None:
    """A model of short texts is measured with short texts, one of long texts also with long runs."""
    engine = packed()
    calibrate(engine, longest=5)
    assert max(map(max, engine.runs)) == 5
    engine = packed(factor=0.1)
    plan = calibrate(engine, longest=2048)
    assert max(map(sum, engine.runs)) == 2048
    assert plan.budget_tokens <= 2048


def test_slow_sizes_are_left_out() -> None:
    """An engine that needs seconds for a large run is not asked for it again and again."""
    engine = packed(quadratic=1e-4)
    plan = calibrate(engine)
    assert max(each.tokens for each in plan.samples) == 64
    assert engine.runs.count([16] * 6) == 2  # once on each worker
    assert max(map(sum, engine.runs)) == 96
    assert plan.cost.of_run(1, 100, 100) == pytest.approx(0.001 + 0.03 + 1.0, rel=0.01)


def test_disturbed_runs_do_not_count() -> None:
    """A quarter of the runs takes five times as long, as on a machine that is shared: the cost stays what it is."""
    rng = random.Random(4)

    def seconds_of(lengths: Sequence[int]) -> float:
        return TRUE.seconds(sum(lengths)) * (5 if rng.random() < 1 / 4 else 1)

    plan = calibrate(CostlyEncoder(ThreadClock(), seconds_of), workers=1)
    assert plan.cost.of_tokens(128) == pytest.approx(TRUE.seconds(128), rel=0.01)


def test_lone_runs_use_all_threads_where_that_is_faster() -> None:
    """From the size on from which it is, and for no other; a machine with one processor is not even asked."""
    twice_as_fast = calibrate(packed(), packed(factor=0.5))
    assert twice_as_fast.lone_tokens == 8
    later = calibrate(packed(), CostlyEncoder(ThreadClock(), lambda lengths: 0.02 + TRUE.seconds(sum(lengths)) / 2))
    assert later.lone_tokens == 256
    assert calibrate(packed(), packed(factor=0.98)).lone_tokens is None
    assert calibrate(packed(), None, workers=1).lone_tokens is None


@pytest.mark.parametrize("pair_bytes", [0, 30, 300])
def test_memory_of_the_largest_runs_is_predicted(pair_bytes: int) -> None:
    """What runs took of memory is extrapolated to the longest text, whose pairs of tokens take most."""
    engine = packed()

    def taken(tokens: int) -> int:
        return 10_000 * tokens + pair_bytes * tokens**2

    def resident() -> int:
        return 50_000_000 + taken(max((sum(lengths) for lengths in list(engine.runs)), default=0))

    plan = calibrate(engine, resident=resident)
    for tokens in (plan.budget_tokens, 512):
        assert plan.run_bytes(tokens) == pytest.approx(taken(tokens), rel=0.01)
    # Which part grows with the pairs cannot be told for certain: rather too much than too little.
    line = 10_000 * (512 + (8192**2 - 512**2) / (512 + 384))
    assert taken(8192) <= plan.run_bytes(8192) <= 1.01 * (line + pair_bytes * 8192**2)
    assert plan.run_bytes(1) == pytest.approx(taken(plan.budget_tokens), rel=0.01)
    # Of those that leave one another alone it can.
    steepest = (taken(512) - taken(384)) // 128
    assert plan.run_bytes(8192, attending=False) == pytest.approx(taken(512) + 7680 * steepest, rel=0.01)


def test_memory_of_rows_grows_as_they_do() -> None:
    """Rows of a model of tensors that may share a run leave one another alone: eight times the rows, eight times it."""
    engine = packed(factor=0.001)

    def resident() -> int:
        return 50_000_000 + 10_000_000 * max((len(lengths) for lengths in list(engine.runs)), default=0)

    calibrator = Calibrator(2, engine.clock, resident)
    plan = calibrator.measure(engine, 8, lambda rows: Encoding([7] * rows), Asked(rows=True))
    assert plan.run_bytes(64, attending=False) == pytest.approx(640_000_000, rel=0.01)


def test_no_run_is_larger_than_the_model_takes_at_a_time() -> None:
    """A packed int8 graph runs large batches in parts, however large the budget; a long text is its own part."""
    engine = packed()
    plan = replace(
        calibrate(engine, resident=lambda: max((sum(each) for each in list(engine.runs)), default=0) ** 2),
        budget_tokens=8192,
    )
    assert plan.run_bytes(128, most_tokens=256) == pytest.approx(256**2, rel=0.01)
    assert plan.run_bytes(512, most_tokens=256) == pytest.approx(512**2, rel=0.01)
    assert plan.run_bytes(128) >= 8192**2
    assert calibrate(packed()).run_bytes(8192) == 0


@pytest.mark.parametrize("held_mb", [0, 5, 10, 15, 22, 30, 40, 45])
def test_memory_that_is_held_already_hides_nothing(held_mb: int) -> None:
    """Small runs fit into what loading left behind: what is foretold of large ones is not taken from these."""
    engine, held = packed(), held_mb * 1_000_000

    def taken(tokens: int) -> int:
        return 10_000 * tokens + 300 * tokens**2

    def resident() -> int:
        longest = max((sum(lengths) for lengths in list(engine.runs)), default=0)
        # Beside that, each size leaves a little behind.
        return 50_000_000 + 500 * longest + max(held, taken(longest))

    plan = calibrate(engine, resident=resident)
    for tokens in (1024, 2048, 8192):
        assert taken(tokens) - held <= plan.run_bytes(tokens) <= 1.2 * taken(tokens)


def test_engine_that_raises_is_heard() -> None:
    """A model that cannot run its sizes does not get a plan."""

    def fail(lengths: Sequence[int]) -> float:
        raise RuntimeError("no such node")

    with pytest.raises(RuntimeError, match="no such node"):
        calibrate(CostlyEncoder(ThreadClock(), fail))


def test_guess_depends_on_the_size_of_the_graph() -> None:
    """Without measuring, a model is priced by its weights, and nothing is known of its memory."""
    small, large = guess(packed(), 1 << 20), guess(packed(), 1 << 30)
    assert small.cost.linear < large.cost.linear
    assert small.lone_tokens is None
    assert small.run_bytes(512) == 0
    assert isinstance(guess(CostlyEncoder(ThreadClock(), len, packed=False), 1).cost, PaddedCost)


def test_plan_is_shown_as_a_table() -> None:
    """A line for each size with what was measured and what the fit makes of it, and what a lone run does."""
    plan = calibrate(packed(), packed(factor=0.5))
    lines = describe("minilm", plan).splitlines()
    assert lines[0].startswith(f"minilm: up to {plan.budget_tokens} tokens a run")
    assert len(lines) == 5 + len(plan.samples) + len(plan.lone_samples)
    row = next(line.split() for line in lines if line.split()[:3] == ["8", "16", "128"])
    assert float(row[3]) == pytest.approx(TRUE.seconds(128) * 1e3, abs=0.02)
    assert row[3] == row[4]
    assert "from 8 tokens on" in describe("minilm", plan)
    assert "\n" not in describe("minilm", guess(packed(), 1)).split("a pair of tokens")[1]
