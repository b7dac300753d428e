"""What the server says of its models, asked before a run."""

from __future__ import annotations

from headwaiter import codec
from headwaiter_proto.inference import grpc_service_pb2 as inference
from headwaiter_proto.v1 import inference_pb2

from headwaiter_load.endpoint import Endpoint
from headwaiter_load.errors import UnreachableError
from headwaiter_load.tensors import TensorSpec
from headwaiter_load.typed import TASKS


def task_of(endpoint: Endpoint, model: str, version: int) -> str:
    """What a model of a `headwaiter.v1` server does.

    Raises:
        UnreachableError: It does not answer, does not hold the model, or the model's task has no method.
    """
    request = inference_pb2.GetModelRequest(model=model, version=version)
    answer = endpoint.ask("/headwaiter.v1.InferenceService/GetModel", request.SerializeToString())
    info = codec.model_info(inference_pb2.GetModelResponse.FromString(answer))
    if info.task not in TASKS:
        raise UnreachableError(f"the model {info.name!r} is of the task {info.task}, which has no typed method")
    return str(info.task)


def inputs_of(endpoint: Endpoint, model: str, version: str) -> list[TensorSpec]:
    """What a model of an Open Inference server takes.

    Raises:
        UnreachableError: It does not answer, does not hold the model, or says of no input.
    """
    request = inference.ModelMetadataRequest(name=model, version=version)
    answer = endpoint.ask("/inference.GRPCInferenceService/ModelMetadata", request.SerializeToString())
    metadata = inference.ModelMetadataResponse.FromString(answer)
    if not metadata.inputs:
        raise UnreachableError(f"{endpoint.target} names no inputs of the model {model!r}")
    return [TensorSpec(each.name, each.datatype, tuple(each.shape)) for each in metadata.inputs]
