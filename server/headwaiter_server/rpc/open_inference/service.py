"""`inference.GRPCInferenceService`: which method is answered by whom."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import grpc
from headwaiter_proto.inference import grpc_service_pb2

from headwaiter_server.rpc.crossing import Crossing
from headwaiter_server.rpc.edge import Edge, Method
from headwaiter_server.rpc.messages import parse
from headwaiter_server.rpc.open_inference.infer import Inference
from headwaiter_server.rpc.open_inference.stream import open_streamed
from headwaiter_server.rpc.stream import StreamMethod
from headwaiter_server.scheduling.admission import Permit

SERVICE_NAME = grpc_service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name


class OpenInferenceService:
    """The service's methods, on raw bytes. What nobody answers is UNIMPLEMENTED; gRPC says so by itself."""

    def __init__(
        self,
        inference: Inference,
        ready: Callable[[], bool],
        *,
        questions: Mapping[str, Method],
        calls: Mapping[str, Method],
    ) -> None:
        """Set up.

        Args:
            inference: Answers inferences.
            ready: Whether the server takes requests now.
            questions: Further methods by name that cost little, and are answered also when the server is full or ends.
            calls: Further methods by name that are admitted like any other call.
        """
        self._inference = inference
        self._ready = ready
        self._questions: dict[str, Method] = {
            "ServerLive": self.server_live,
            "ServerReady": self.server_ready,
            **questions,
        }
        self._calls: dict[str, Method] = {"ModelInfer": inference.infer, **calls}

    def handlers(self, edge: Edge) -> grpc.GenericRpcHandler:
        """The service as gRPC wants it."""
        handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {}
        for methods, always in ((self._questions, True), (self._calls, False)):
            for name, method in methods.items():
                handler = edge.unary(f"{SERVICE_NAME}/{name}", method, always=always)
                handlers[name] = grpc.unary_unary_rpc_method_handler(handler)
        streamed = StreamMethod(
            f"{SERVICE_NAME}/ModelStreamInfer",
            partial(open_streamed, self._inference),
            self._inference.pipeline.max_texts,
        )
        handlers["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(edge.stream(streamed))
        return grpc.method_handlers_generic_handler(SERVICE_NAME, handlers)

    async def server_live(self, data: bytes, _permit: Permit, _crossing: Crossing) -> bytes:
        """Say that the server runs."""
        parse(grpc_service_pb2.ServerLiveRequest, data)
        return grpc_service_pb2.ServerLiveResponse(live=True).SerializeToString()

    async def server_ready(self, data: bytes, _permit: Permit, _crossing: Crossing) -> bytes:
        """Say whether the server takes requests."""
        parse(grpc_service_pb2.ServerReadyRequest, data)
        return grpc_service_pb2.ServerReadyResponse(ready=self._ready()).SerializeToString()
