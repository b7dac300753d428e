"""Every method that the clients call, in one list: path, messages, result.

A client turns an entry into a call, blocking or awaited; nothing about a method is written down twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from headwaiter_proto.v1 import inference_pb2

from headwaiter import codec, health

if TYPE_CHECKING:
    from collections.abc import Callable

    from headwaiter.results import GenerateReply, HealthStatus, ModelInfo

RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")
ResultT = TypeVar("ResultT")


# Compared by identity: entries are the keys under which clients keep their prepared calls.
@dataclass(frozen=True, slots=True, eq=False)
class UnaryMethod(Generic[RequestT, ResponseT, ResultT]):
    """A method with one request and one response.

    Attributes:
        path: Its full name on the wire, `/package.Service/Method`.
        serialize: Request to bytes.
        deserialize: Bytes to response.
        decode: Response to what the caller gets.
        to_any_health: Whether it must also reach a server that says it is not serving.
    """

    path: str
    serialize: Callable[[RequestT], bytes]
    deserialize: Callable[[bytes], ResponseT]
    decode: Callable[[ResponseT], ResultT]
    to_any_health: bool = False


def _same(status: HealthStatus) -> HealthStatus:
    return status


INFERENCE_SERVICE = "headwaiter.v1.InferenceService"

GENERATE: UnaryMethod[inference_pb2.GenerateRequest, inference_pb2.GenerateResponse, GenerateReply] = UnaryMethod(
    f"/{INFERENCE_SERVICE}/Generate",
    inference_pb2.GenerateRequest.SerializeToString,
    inference_pb2.GenerateResponse.FromString,
    codec.generate_reply,
)
LIST_MODELS: UnaryMethod[inference_pb2.ListModelsRequest, inference_pb2.ListModelsResponse, tuple[ModelInfo, ...]] = (
    UnaryMethod(
        f"/{INFERENCE_SERVICE}/ListModels",
        inference_pb2.ListModelsRequest.SerializeToString,
        inference_pb2.ListModelsResponse.FromString,
        codec.model_infos,
    )
)
GET_MODEL: UnaryMethod[inference_pb2.GetModelRequest, inference_pb2.GetModelResponse, ModelInfo] = UnaryMethod(
    f"/{INFERENCE_SERVICE}/GetModel",
    inference_pb2.GetModelRequest.SerializeToString,
    inference_pb2.GetModelResponse.FromString,
    codec.model_info,
)
CHECK_HEALTH: UnaryMethod[str, HealthStatus, HealthStatus] = UnaryMethod(
    "/grpc.health.v1.Health/Check",
    health.encode_request,
    health.decode_response,
    _same,
    to_any_health=True,
)
