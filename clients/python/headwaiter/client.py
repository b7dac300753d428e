"""The blocking client."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
from headwaiter_proto.v1 import inference_pb2

from headwaiter import codec, methods
from headwaiter.base import ClientBase
from headwaiter.errors import NotFoundError
from headwaiter.results import HealthStatus
from headwaiter.status import error_from_rpc

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Self

    from headwaiter.connection import Options
    from headwaiter.methods import RequestT, ResponseT, ResultT, UnaryMethod
    from headwaiter.results import GenerateReply, ModelInfo


class Client(ClientBase[grpc.Channel]):
    """Calls a Headwaiter server and waits for the answer; threads may share one.

    It connects with the first call. Every method raises a subclass of `HeadwaiterError` when the call fails,
    and `RuntimeError` once the client is closed. `ClientBase` describes the arguments.

        with Client("127.0.0.1:8001") as client:
            reply = client.generate(["onomatopoeia", "headwaiter"], timeout_seconds=2)
    """

    def generate(
        self,
        texts: str | Sequence[str],
        *,
        model: str = "",
        version: int = 0,
        max_new_tokens: int = 0,
        timeout_seconds: float | None = None,
    ) -> GenerateReply:
        """Generates a text for each input text.

        Args:
            texts: One text or several; what comes of one never depends on the others.
            model: Name of the model; may be left out when the server holds exactly one.
            version: Version of the model; 0 means the one that serves by default.
            max_new_tokens: The most tokens to generate for each text; 0 means the model's own limit.
            timeout_seconds: Deadline of this call; None takes the client's.

        Returns:
            The generations in the order of the texts, and where the time went.
        """
        request = codec.generate_request(texts, model=model, version=version, max_new_tokens=max_new_tokens)
        return self._call(methods.GENERATE, request, timeout_seconds)

    def models(self, *, timeout_seconds: float | None = None) -> tuple[ModelInfo, ...]:
        """Lists the models that are loaded, sorted by name, then version."""
        return self._call(methods.LIST_MODELS, inference_pb2.ListModelsRequest(), timeout_seconds)

    def model(self, name: str = "", version: int = 0, *, timeout_seconds: float | None = None) -> ModelInfo:
        """Describes one model; "" and 0 mean what they mean in `generate`."""
        request = codec.get_model_request(model=name, version=version)
        return self._call(methods.GET_MODEL, request, timeout_seconds)

    def health(self, model: str = "", *, timeout_seconds: float | None = None) -> HealthStatus:
        """Asks how a model, or with "" the server as a whole, says it is."""
        try:
            return self._call(methods.CHECK_HEALTH, codec.health_request(model=model), timeout_seconds)
        except NotFoundError:
            return HealthStatus.SERVICE_UNKNOWN

    def close(self) -> None:
        """Ends calls that still run, with `CallCancelledError`, and closes the connections."""
        for channel in self._shut():
            channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _open(self, options: Options) -> grpc.Channel:
        if self._connection.credentials is None:
            return grpc.insecure_channel(self.target, options=options)
        return grpc.secure_channel(self.target, self._connection.credentials, options=options)

    def _call(
        self,
        method: UnaryMethod[RequestT, ResponseT, ResultT],
        request: RequestT,
        timeout_seconds: float | None,
    ) -> ResultT:
        call: grpc.UnaryUnaryMultiCallable[RequestT, ResponseT] = self._prepared(method)
        deadline_seconds = self._connection.deadline_seconds(timeout_seconds)
        try:
            response = call(
                request,
                timeout=deadline_seconds,
                metadata=self._connection.metadata,
                wait_for_ready=self._connection.wait_for_ready,
            )
        except grpc.RpcError as error:
            raise error_from_rpc(error, self.target) from error
        except ValueError as error:
            # gRPC's word for a channel that another thread has closed since it was handed out.
            if self._closed:
                raise RuntimeError("this client is closed") from error
            raise
        return method.decode(response)
