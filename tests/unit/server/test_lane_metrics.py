"""What the iterations of a model that generates are recorded as, and what its lane tells of itself."""

from __future__ import annotations

from fakes import EchoModel, Gate, dice
from headwaiter_server.generation.decoding import Decoding
from headwaiter_server.generation.outcome import IterationFacts
from headwaiter_server.generation.sequence import FinishReason
from headwaiter_server.metrics import Metrics
from headwaiter_server.metrics.statistics import ModelCounts
from headwaiter_server.wiring.recording import LaneMetrics

from .scheduler import scheduler


def recorded(*iterations: IterationFacts) -> Metrics:
    """The metrics after some iterations."""
    metrics = Metrics()
    recorder = LaneMetrics(metrics, None, "m", ModelCounts())
    for facts in iterations:
        recorder.iteration_finished(facts)
    return metrics


def value(metrics: Metrics, name: str, **labels: str) -> float:
    """The value of a sample, 0 where it does not exist."""
    return metrics.registry.get_sample_value(f"headwaiter_{name}", {"model": "m", **labels}) or 0.0


def test_iteration_is_a_run_with_what_is_its_own() -> None:
    """Its rows for nobody are padding; what it read, copied and took beside the model, and who ended, is told apart."""
    facts = IterationFacts(
        1, seconds=0.5, rows=3, dummy_rows=2, prefill_tokens=64, python_seconds=0.125, copied_bytes=512
    )
    facts.finish_reasons = [FinishReason.STOP, FinishReason.LENGTH, FinishReason.STOP]
    facts.first_tokens, facts.next_tokens, facts.token_seconds = [0.25], 2, 0.5
    facts.short_of_room = True
    metrics = recorded(facts)
    assert value(metrics, "run_duration_seconds_sum") == 0.5
    assert value(metrics, "batch_size_sum") == 3
    assert (value(metrics, "computed_tokens_total"), value(metrics, "padding_tokens_total")) == (64 + 3 + 2, 2)
    assert value(metrics, "prefill_tokens_total") == 64
    assert value(metrics, "iteration_overhead_seconds_total") == 0.125
    assert value(metrics, "kv_cache_copied_bytes_total") == 512
    assert value(metrics, "kv_cache_short_iterations_total") == 1
    assert value(metrics, "generations_total", finish_reason="stop") == 2
    assert value(metrics, "generations_total", finish_reason="length") == 1
    assert value(metrics, "first_token_duration_seconds_count") == 1
    assert value(metrics, "inter_token_duration_seconds_count") == 2


def test_iteration_that_only_reads_is_a_run_of_one_text() -> None:
    """A part of a long prompt is work like any other; nobody has a token yet."""
    metrics = recorded(IterationFacts(1, seconds=0.5, prefill_tokens=64))
    assert value(metrics, "run_duration_seconds_count") == 1
    assert value(metrics, "batch_size_sum") == 1
    assert value(metrics, "batch_tokens_sum") == 64
    assert value(metrics, "inter_token_duration_seconds_count") == 0


def test_iteration_from_which_everybody_has_gone_is_none() -> None:
    """What it took is told, as somebody has to pay for it; a run it was not."""
    metrics = recorded(IterationFacts(1, seconds=0.5, cpu_seconds=0.25))
    assert value(metrics, "cpu_seconds_total") == 0.25
    assert value(metrics, "run_duration_seconds_count") == 0


async def test_lane_tells_what_its_texts_hold_and_nothing_when_they_have_ended() -> None:
    """Rows and bytes that are set aside while texts are generated, with a row and bytes for each beam; then none."""
    gate = Gate()
    model = EchoModel(gate, distribution=dice(1))
    async with scheduler(model, workers=2, rows=8, cache_bytes=2000) as parts:
        lane = parts.lane
        assert (lane.rows, lane.cache_bytes, lane.used_rows, lane.reserved_bytes) == (16, 2000, 0, 0)
        call = parts.submit([5, 6, 7], decoding=Decoding(10, num_beams=3))
        await gate.entered()
        needed = 10 * model.token_bytes + 3 * model.source_token_bytes
        assert (lane.used_rows, lane.reserved_bytes) == (3, 3 * needed)
        gate.open()
        await call.future
        assert (lane.rows, lane.cache_bytes, lane.used_rows, lane.reserved_bytes) == (16, 2000, 0, 0)
