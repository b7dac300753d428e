"""`ModelStatistics`: what models have done so far, of both services' calls."""

from __future__ import annotations

from headwaiter_proto.inference import grpc_service_pb2

from headwaiter_server.lifecycle.catalog import ServedModel
from headwaiter_server.metrics.statistics import ModelCounts, Tally
from headwaiter_server.pipeline import Pipeline
from headwaiter_server.rpc.crossing import Crossing
from headwaiter_server.rpc.edge import Method
from headwaiter_server.rpc.messages import parse
from headwaiter_server.rpc.open_inference.parameters import read_version
from headwaiter_server.scheduling.admission import Permit


class Statistics:
    """Tells what each loaded version of a model has done since it was loaded."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    def methods(self) -> dict[str, Method]:
        """Its methods by name."""
        return {"ModelStatistics": self.model_statistics}

    async def model_statistics(self, data: bytes, _permit: Permit, crossing: Crossing) -> bytes:
        """Tell of every model, of every version of one, or of one version."""
        message = parse(grpc_service_pb2.ModelStatisticsRequest, data)
        version = read_version(message.version, "version")
        if message.name:
            crossing.recognize(self._pipeline.find(message.name, version))
        told = [
            _model_message(each)
            for each in self._pipeline.models()
            if message.name in ("", each.name) and version in (0, each.version)
        ]
        return grpc_service_pb2.ModelStatisticsResponse(model_stats=told).SerializeToString()


def _model_message(model: ServedModel) -> grpc_service_pb2.ModelStatistics:
    counts = model.counts
    return grpc_service_pb2.ModelStatistics(
        name=model.name,
        version=str(model.version),
        last_inference=round(counts.last_call * 1e3),
        inference_count=counts.rows,
        execution_count=sum(tally.count for tally in counts.runs.values()),
        inference_stats=_stages_message(counts),
        batch_stats=[
            grpc_service_pb2.InferBatchStatistics(
                batch_size=rows,
                # Filling inputs and taking outputs apart are parts of a run.
                compute_input=_duration(tally.count),
                compute_infer=_tally(tally),
                compute_output=_duration(tally.count),
            )
            for rows, tally in sorted(counts.runs.items())
        ],
    )


def _stages_message(counts: ModelCounts) -> grpc_service_pb2.InferStatistics:
    computed = counts.computed
    return grpc_service_pb2.InferStatistics(
        success=_tally(counts.success),
        fail=_tally(counts.failure),
        # Of calls that were remembered, too, by the protocol's documents; they do not wait.
        queue=_duration(counts.success.count, counts.queue_seconds),
        compute_input=_duration(computed, counts.input_seconds),
        compute_infer=_duration(computed, counts.infer_seconds),
        compute_output=_duration(computed, counts.output_seconds),
        cache_hit=_tally(counts.cache_hit),
        cache_miss=_tally(counts.cache_miss),
    )


def _tally(tally: Tally) -> grpc_service_pb2.StatisticDuration:
    return _duration(tally.count, tally.seconds)


def _duration(count: int, seconds: float = 0.0) -> grpc_service_pb2.StatisticDuration:
    return grpc_service_pb2.StatisticDuration(count=count, ns=round(seconds * 1e9))
