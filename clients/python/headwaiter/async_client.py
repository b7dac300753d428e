"""The asyncio client: the blocking one's methods, awaited."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import grpc
import grpc.aio
from headwaiter_proto.v1 import inference_pb2

from headwaiter import codec, methods
from headwaiter.base import ClientBase
from headwaiter.errors import CallCancelledError, NotFoundError
from headwaiter.results import HealthStatus
from headwaiter.status import error_from_rpc

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Self

    from headwaiter.connection import Options
    from headwaiter.methods import RequestT, ResponseT, ResultT, UnaryMethod
    from headwaiter.results import GenerateReply, ModelInfo


class AsyncClient(ClientBase[grpc.aio.Channel]):
    """Calls a Headwaiter server from asyncio; tasks of one event loop may share one.

    It connects with the first call. Every method raises a subclass of `HeadwaiterError` when the call fails,
    and `RuntimeError` once the client is closed. Cancelling the task that awaits a call cancels the call on
    the server. `ClientBase` describes the arguments.

        async with AsyncClient("127.0.0.1:8001") as client:
            reply = await client.generate(["onomatopoeia", "headwaiter"], timeout_seconds=2)
    """

    async def generate(
        self,
        texts: str | Sequence[str],
        *,
        model: str = "",
        version: int = 0,
        max_new_tokens: int = 0,
        timeout_seconds: float | None = None,
    ) -> GenerateReply:
        """Generates a text for each input text; `Client.generate` describes the arguments."""
        request = codec.generate_request(texts, model=model, version=version, max_new_tokens=max_new_tokens)
        return await self._call(methods.GENERATE, request, timeout_seconds)

    async def models(self, *, timeout_seconds: float | None = None) -> tuple[ModelInfo, ...]:
        """Lists the models that are loaded, sorted by name, then version."""
        return await self._call(methods.LIST_MODELS, inference_pb2.ListModelsRequest(), timeout_seconds)

    async def model(self, name: str = "", version: int = 0, *, timeout_seconds: float | None = None) -> ModelInfo:
        """Describes one model; "" and 0 mean what they mean in `generate`."""
        request = codec.get_model_request(model=name, version=version)
        return await self._call(methods.GET_MODEL, request, timeout_seconds)

    async def health(self, model: str = "", *, timeout_seconds: float | None = None) -> HealthStatus:
        """Asks how a model, or with "" the server as a whole, says it is."""
        try:
            return await self._call(methods.CHECK_HEALTH, codec.health_request(model=model), timeout_seconds)
        except NotFoundError:
            return HealthStatus.SERVICE_UNKNOWN

    async def close(self) -> None:
        """Ends calls that still run, with `CallCancelledError`, and closes the connections."""
        for channel in self._shut():
            await channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def _open(self, options: Options) -> grpc.aio.Channel:
        if self._connection.credentials is None:
            return grpc.aio.insecure_channel(self.target, options=options)
        return grpc.aio.secure_channel(self.target, self._connection.credentials, options=options)

    async def _call(
        self,
        method: UnaryMethod[RequestT, ResponseT, ResultT],
        request: RequestT,
        timeout_seconds: float | None,
    ) -> ResultT:
        call: grpc.aio.UnaryUnaryMultiCallable[RequestT, ResponseT] = self._prepared(method)
        try:
            response = await call(
                request,
                timeout=self._connection.deadline_seconds(timeout_seconds),
                metadata=self._connection.metadata,
                wait_for_ready=self._connection.wait_for_ready,
            )
        except grpc.RpcError as error:
            raise error_from_rpc(error, self.target) from error
        except asyncio.CancelledError:
            # grpc.aio ends the calls of a closed channel as if their tasks had been cancelled. Only a task
            # that was cancelled itself may see that: anyone else would swallow or spread a cancellation
            # nobody asked for.
            task = asyncio.current_task()
            if self._closed and task is not None and not task.cancelling():
                raise CallCancelledError("the client was closed during the call") from None
            raise
        return method.decode(response)
