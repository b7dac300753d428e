"""`headwaiter.v1.InferenceService`: protobuf in, protobuf out, everything between in the pipeline's plain Python."""

from __future__ import annotations

from typing import TypeVar

import grpc
from google.protobuf.message import DecodeError, Message
from headwaiter_proto.v1 import inference_pb2

from headwaiter_server.errors import InvalidRequestError
from headwaiter_server.generation.sequence import FinishReason
from headwaiter_server.lifecycle.catalog import ServedModel
from headwaiter_server.pipeline import GenerationReply, GenerationRequest, Pipeline
from headwaiter_server.rpc.edge import Crossing, Edge
from headwaiter_server.rpc.wire import check_field_counts
from headwaiter_server.scheduling.admission import Permit

SERVICE_NAME: str = inference_pb2.DESCRIPTOR.services_by_name["InferenceService"].full_name

_FINISH_REASONS = {
    FinishReason.END_OF_SEQUENCE: inference_pb2.FINISH_REASON_END_OF_SEQUENCE,
    FinishReason.LENGTH: inference_pb2.FINISH_REASON_LENGTH,
}

MessageType = TypeVar("MessageType", bound=Message)


class InferenceService:
    """The service's methods, on raw bytes."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    def handlers(self, edge: Edge) -> grpc.GenericRpcHandler:
        """The service as gRPC wants it. Bytes are passed through, so that they are parsed after admission, by us."""
        methods = {"Generate": self.generate, "ListModels": self.list_models, "GetModel": self.get_model}
        return grpc.method_handlers_generic_handler(
            SERVICE_NAME,
            {
                name: grpc.unary_unary_rpc_method_handler(edge.unary(f"{SERVICE_NAME}/{name}", method))
                for name, method in methods.items()
            },
        )

    async def generate(self, data: bytes, permit: Permit, crossing: Crossing) -> bytes:
        """Generate a text for each input text."""
        max_texts = self._pipeline.max_texts
        check_field_counts(data, inference_pb2.GenerateRequest.TEXTS_FIELD_NUMBER, "texts", max_texts)
        message = _parse(inference_pb2.GenerateRequest, data)
        model = self._pipeline.find(message.model, message.version)
        crossing.model, crossing.version = model.name, str(model.version)
        request = GenerationRequest(model.name, model.version, message.texts, message.max_new_tokens)
        reply = await self._pipeline.generate(permit, crossing.terms, request)
        timings = reply.timings
        crossing.texts = len(reply.texts)
        crossing.tokenize_seconds = timings.tokenize_seconds
        crossing.queue_seconds = timings.queue_seconds
        crossing.inference_seconds = timings.inference_seconds
        total_seconds = self._pipeline.clock() - crossing.terms.arrived
        return _generate_response(reply, total_seconds).SerializeToString()

    async def list_models(self, data: bytes, _permit: Permit, _crossing: Crossing) -> bytes:
        """List the models that are loaded."""
        _parse(inference_pb2.ListModelsRequest, data)
        models = [_model_info(model) for model in self._pipeline.models()]
        return inference_pb2.ListModelsResponse(models=models).SerializeToString()

    async def get_model(self, data: bytes, _permit: Permit, crossing: Crossing) -> bytes:
        """Describe one model."""
        message = _parse(inference_pb2.GetModelRequest, data)
        model = self._pipeline.find(message.model, message.version)
        crossing.model, crossing.version = model.name, str(model.version)
        return inference_pb2.GetModelResponse(model=_model_info(model)).SerializeToString()


def _parse(kind: type[MessageType], data: bytes) -> MessageType:
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise InvalidRequestError("message", f"is no {kind.DESCRIPTOR.full_name}") from error


def _generate_response(reply: GenerationReply, total_seconds: float) -> inference_pb2.GenerateResponse:
    timings = reply.timings
    return inference_pb2.GenerateResponse(
        model=reply.model.name,
        version=reply.model.version,
        variant=reply.model.variant,
        generations=[
            inference_pb2.Generation(
                text=each.text,
                token_ids=each.token_ids,
                finish_reason=_FINISH_REASONS[each.finish_reason],
                source_tokens=each.source_tokens,
            )
            for each in reply.texts
        ],
        timings=inference_pb2.Timings(
            total_seconds=total_seconds,
            tokenize_seconds=timings.tokenize_seconds,
            queue_seconds=timings.queue_seconds,
            inference_seconds=timings.inference_seconds,
            batch_size=timings.batch_size,
            batch_tokens=timings.batch_tokens,
            batch_id=timings.batch_id,
        ),
    )


def _model_info(model: ServedModel) -> inference_pb2.ModelInfo:
    manifest = model.manifest
    return inference_pb2.ModelInfo(
        name=model.name,
        version=model.version,
        task=manifest.task,
        architecture=manifest.architecture,
        variant=model.variant,
        limits=manifest.limits,
    )
