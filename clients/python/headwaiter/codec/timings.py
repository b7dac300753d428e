"""The parts that every reply has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headwaiter.results import Reading, Timings

if TYPE_CHECKING:
    from headwaiter_proto.v1 import inference_pb2


def timings_of(timings: inference_pb2.Timings) -> Timings:
    """Where a call's time went."""
    return Timings(
        total_seconds=timings.total_seconds,
        tokenize_seconds=timings.tokenize_seconds,
        queue_seconds=timings.queue_seconds,
        inference_seconds=timings.inference_seconds,
        batch_size=timings.batch_size,
        batch_tokens=timings.batch_tokens,
        batch_id=timings.batch_id,
    )


def reading_of(reading: inference_pb2.Reading) -> Reading:
    """How the texts of a call were read."""
    return Reading(tuple(reading.tokens), tuple(reading.truncated))
